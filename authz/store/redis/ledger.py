"""The ledger's decisions: each one call of a script. What needs no lock, as how a quota is told, is worked out here."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from authz.errors import StoreUnavailable
from authz.model import QuotaState
from authz.quota.ledger import Actual, Change, Charge, Ending, Full, Held, Hold, Raise, Reservation
from authz.quota.windows import NS
from authz.store import accounts
from authz.store.accounts import Account
from authz.store.redis import rows
from authz.store.redis.connection import Server

_CLOCK_ATTEMPTS: Final = 3
_SWEEP: Final = 50
"""Reservations that one call of the sweeper ends: a script has the server to itself, and decisions wait for it."""


def reserve(server: Server, holds: Sequence[Hold], near_ns: int, moment: str) -> tuple[Held | Full, ...]:
    """near_ns  our own clock, for the periods of calendar windows; `moment` is the time that counts, or '' for the server's."""
    bodies: dict[str, bytes] = {}
    for hold in holds:
        body = rows.encode_body(hold)
        if bodies.setdefault(hold.id, body) != body:
            raise _used()
    found = [accounts.amounts_by_counter(hold.charges) for hold in holds]
    windows = {name: charge.window for each in found for name, (charge, _) in each.items()}
    index = {name: at + 1 for at, name in enumerate(windows)}  # Lua counts from 1
    packed_holds = [_hold(hold, each, index) for hold, each in zip(holds, found, strict=True)]

    def ask(near_ns: int) -> Any:
        packed = rows.encode([rows.counters(windows, near_ns), packed_holds])
        return server.run("reserve", moment, packed, *(bodies[hold.id] for hold in holds))

    now, status, *answers = _in_the_servers_time(server, ask, near_ns)
    if status == b"used":
        raise _used()
    if status == b"empty":
        # With an empty store everybody would have the whole of every budget once more. Or it is a replica by now.
        server.doubt()
        raise StoreUnavailable("redis: its data is gone")
    values, raised, *told = answers
    known, now_ns = rows.standing(windows, values, raised), int(now)
    return tuple(
        [
            _answer(hold, rows.opened(known, each, now_ns), told[2 * at], told[2 * at + 1], now_ns)
            for at, (hold, each) in enumerate(zip(holds, found, strict=True))
        ]
    )


def look(server: Server, charges: tuple[Charge, ...], near_ns: int, moment: str) -> tuple[QuotaState, ...]:
    found = accounts.amounts_by_counter(charges)
    windows = {name: charge.window for name, (charge, _) in found.items()}
    now, _, values, raised = _in_the_servers_time(
        server, lambda near_ns: server.run("look", moment, rows.encode(rows.counters(windows, near_ns))), near_ns
    )
    opened = rows.opened(rows.standing(windows, values, raised), found, int(now))
    return accounts.quota_states(charges, opened, int(now))


def find(server: Server, reservation_ids: Sequence[str]) -> tuple[Reservation | None, ...]:
    return tuple(map(rows.reservation, server.run("find", "id", *reservation_ids))) if reservation_ids else ()


def end(server: Server, endings: Sequence[Ending], moment: str) -> tuple[Change, ...]:
    args = [arg for each in endings for arg in (each.reservation_id, each.event.value, _used_up(each.actual))]
    return tuple(map(_change, server.run("end", moment, *args))) if endings else ()


def _used_up(actual: Actual | None) -> bytes:
    usage = actual.usage if actual is not None else None
    return rows.encode(
        {
            "amounts": actual.amounts if actual is not None else {},
            "usage": [usage.input_tokens, usage.cached_tokens, usage.output_tokens] if usage is not None else [0, 0, 0],
        }
    )


def expire(server: Server, at_most: int, moment: str) -> tuple[Change, ...]:
    changes: list[Change] = []
    while len(changes) < at_most:
        some = min(_SWEEP, at_most - len(changes))
        ended = server.run("expire", moment, some)
        changes += map(_change, ended)
        if len(ended) < some:
            break
    return tuple(changes)


def raise_limit(
    server: Server, raise_id: str, charge: Charge, by: int, who: str, why: str, near_ns: int, moment: str
) -> QuotaState:
    windows = {charge.counter: charge.window}
    words = (raise_id, by, charge.quota, charge.scope, who, why)
    now, status, *rest = _in_the_servers_time(
        server,
        lambda near_ns: server.run("raise", moment, rows.encode(rows.counters(windows, near_ns)[0]), *words),
        near_ns,
    )
    if status == b"beyond":
        accounts.check_raised(int(rest[0]) + by)
    value, raised = rest
    opened = rows.opened(rows.standing(windows, [value], raised), {charge.counter: (charge, 0)}, int(now))
    (state,) = accounts.quota_states((charge,), opened, int(now))
    return state


def raises(server: Server, since_ns: int) -> tuple[Raise, ...]:
    found = []
    for packed in server.run("raises"):
        identity, quota, scope, counter, bucket, by, who, why, at_ns = rows.decode_mixed(packed)
        row = Raise(str(identity), str(quota), str(scope), str(counter), int(bucket), int(by), str(who), str(why), int(at_ns))
        if row.at_ns >= since_ns:
            found.append(row)
    return tuple(found)


def _hold(hold: Hold, found: dict[str, tuple[Charge, int]], index: dict[str, int]) -> list[object]:
    """As `reserve.lua` takes it; `index` is where each counter stands."""
    charges = [part for name, (_, amount) in found.items() for part in (index[name], amount)]
    enforced: list[int] = []
    for charge in hold.charges:
        if charge.enforced:
            enforced += (index[charge.counter], found[charge.counter][1], charge.limit)
    ttl_s, ttl_ns = divmod(hold.ttl_ns, NS)
    return [hold.id, hold.request_id, ttl_s, ttl_ns, charges, enforced]


def _in_the_servers_time(server: Server, ask: Callable[[int], Any], near_ns: int) -> Any:
    """Asks with the periods around our clock, and where the server's time is outside them, again with those around that."""
    with server.within_the_deadline():
        for _ in range(_CLOCK_ATTEMPTS):
            answer = ask(near_ns)
            if answer[1] != b"clock":
                return answer
            near_ns = int(answer[0])
    raise StoreUnavailable("redis: its clock does not stand still")


def _answer(hold: Hold, opened: dict[str, Account], status: bytes, head: bytes, now_ns: int) -> Held | Full:
    """What a hold is told; what it charges the next ones of the call meet in the tallies."""
    if status == b"full":
        refused = accounts.refusal(hold.charges, opened, now_ns)
        assert refused is not None  # INVARIANT: both reckon alike
        return refused
    if status == b"again":
        # Nothing was charged, and `used` is without what the reservation holds itself.
        for name, bucket, reserved in rows.held_lines(head, hold.charges):
            account = opened[name]
            if bucket >= account.window.oldest_live(account.bucket):
                account.used -= reserved
    else:
        for account in opened.values():
            account.tally.reserve(account.window, account.bucket, account.amount)
    return Held(hold.id, accounts.quota_states(hold.charges, opened, now_ns))


def _change(answer: Any) -> Change:
    changed, state, alerts = answer
    if state < 0:
        return Change(changed=False, state=None)
    told = tuple(rows.decode_alert(row).alert for row in alerts)
    return Change(changed=bool(changed), state=rows.STATES[state], alerts=told)


def _used() -> ValueError:
    return ValueError("the reservation's id is already used by another request, expected a new one")
