"""What happens inside one transaction: a hold is made, or an event ends it. The caller begins and commits."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

import msgspec

from authz.model import QuotaState
from authz.quota.ledger import (
    TRANSITIONS,
    Actual,
    Change,
    Charge,
    Event,
    Full,
    Held,
    Hold,
    Reservation,
    State,
    Terms,
)
from authz.quota.windows import Kind, Tally
from authz.store import accounts, alerts
from authz.store.accounts import Account, Line
from authz.store.database import Connection

STATES: Final = (State.PENDING, State.SETTLED, State.VOIDED, State.EXPIRED, State.CORRECTED)
ENTRIES: Final = ("reserve", "settle", "void", "expire", "correct")
"""Both are written to the file by their index: append, never reorder."""

_STATE_CODE: Final = {state: code for code, state in enumerate(STATES)}
_ENTRY_CODE: Final = {entry: code for code, entry in enumerate(ENTRIES)}
_ENTRY_OF_STATE: Final = {
    State.SETTLED: "settle",
    State.VOIDED: "void",
    State.EXPIRED: "expire",
    State.CORRECTED: "correct",
}


class Body(msgspec.Struct, frozen=True, array_like=True):
    charges: tuple[Charge, ...]
    terms: Terms


_encode: Final = msgspec.msgpack.Encoder().encode
decode_body: Final = msgspec.msgpack.Decoder(Body).decode
decode_integers: Final = msgspec.msgpack.Decoder(list[int]).decode


def encode_body(hold: Hold) -> bytes:
    return _encode(Body(hold.charges, hold.terms))


def reserve(connection: Connection, hold: Hold, body: bytes, now_ns: int) -> Held | Full:
    """All or nothing. Nothing is written before everything is known to fit."""
    # The same request again, by our id or by its retry key.
    for identity, state, kept, lines in connection.execute(
        "SELECT id, state, body, lines FROM reservations WHERE id = ?"
        " UNION ALL SELECT id, state, body, lines FROM reservations WHERE retry_key = ? AND retry_key <> '' AND state = 0",
        (hold.id, hold.retry_key),
    ).fetchall():
        if kept == body and STATES[state] is State.PENDING:
            return _again(connection, identity, hold, decode_integers(lines), now_ns)
        if identity == hold.id:
            raise ValueError("the reservation's id is already used by another request, expected a new one")

    # Does all of it fit.
    opened = open_accounts(connection, hold.charges, now_ns)
    refused = accounts.refusal(hold.charges, opened, now_ns)
    if refused is not None:
        return refused

    # Then all of it is charged.
    held: list[int] = []
    changes: list[int] = []
    for account in opened.values():
        account.tally.reserve(account.window, account.bucket, account.amount)
    save(connection, opened, now_ns)
    for account in opened.values():
        held += (account.id, account.bucket, account.amount, 0)
        changes += (account.id, account.bucket, 0, account.amount)
    connection.execute(
        "INSERT INTO reservations (id, retry_key, request_id, state, created_ns, deadline_ns, body, lines)"
        " VALUES (?, ?, ?, 0, ?, ?, ?, ?)",
        (hold.id, hold.retry_key, hold.request_id, now_ns, now_ns + hold.ttl_ns, body, _encode(held)),
    )
    _journal(connection, "reserve", hold.id, changes, now_ns)
    return Held(hold.id, accounts.quota_states(hold.charges, opened, now_ns))


def look(connection: Connection, charges: tuple[Charge, ...], now_ns: int) -> tuple[QuotaState, ...]:
    """How each quota stands before anything is charged."""
    return accounts.quota_states(charges, open_accounts(connection, charges, now_ns), now_ns)


def end(connection: Connection, reservation_id: str, event: Event, actual: Actual | None, now_ns: int) -> Change:
    """Settle, void or expire: what `TRANSITIONS` has for it, or nothing."""
    row = connection.execute("SELECT no, state, body, lines FROM reservations WHERE id = ?", (reservation_id,)).fetchone()
    if row is None:
        return Change(changed=False, state=None)
    number, code, packed_body, packed_lines = row
    before = STATES[code]
    after = TRANSITIONS.get((before, event))
    if after is None:
        return Change(changed=False, state=before)

    body = decode_body(packed_body)
    held: list[int] = []
    changes: list[int] = []
    posted_in: dict[str, tuple[int, int, int]] = {}
    for name, line in _lines(body.charges, decode_integers(packed_lines)):
        owed = accounts.owed(event, line, body.terms, actual)
        posted = owed - line.posted
        pending = -line.reserved if before is State.PENDING else 0
        total = _change(connection, line, posted, pending)
        if total is not None and posted > 0:
            posted_in[name] = (line.counter, line.bucket, total)
        held += (line.counter, line.bucket, line.reserved, owed)
        changes += (line.counter, line.bucket, posted, pending)
    connection.execute("UPDATE reservations SET state = ?, lines = ? WHERE no = ?", (_STATE_CODE[after], _encode(held), number))
    _journal(connection, _ENTRY_OF_STATE[after], reservation_id, changes, now_ns)
    _report(connection, body.terms, accounts.usage_change(event, body.terms, actual, corrects=before is State.EXPIRED))
    told = alerts.write(connection, body.charges, body.terms.organisation, posted_in, now_ns)
    return Change(changed=True, state=after, alerts=told)


def overdue(connection: Connection, now_ns: int, at_most: int) -> list[str]:
    """Ids of pending reservations whose deadline has passed, the oldest first."""
    rows = connection.execute(
        "SELECT id FROM reservations WHERE state = 0 AND deadline_ns <= ? ORDER BY deadline_ns, no LIMIT ?", (now_ns, at_most)
    )
    return [identity for (identity,) in rows]


def find(connection: Connection, reservation_id: str) -> Reservation | None:
    row = connection.execute(
        "SELECT id, state, created_ns, deadline_ns, body FROM reservations WHERE id = ?", (reservation_id,)
    ).fetchone()
    return None if row is None else _reservation(*row)


def find_by_request(connection: Connection, request_id: str) -> Reservation | None:
    rows = connection.execute(
        "SELECT id, state, created_ns, deadline_ns, body FROM reservations"
        " WHERE request_id = ? AND request_id <> '' AND state IN (0, 3) LIMIT 2",
        (request_id,),
    ).fetchall()
    return _reservation(*rows[0]) if len(rows) == 1 else None


def _reservation(identity: str, code: int, created_ns: int, deadline_ns: int, packed_body: bytes) -> Reservation:
    body = decode_body(packed_body)
    return Reservation(identity, STATES[code], created_ns, deadline_ns, body.charges, body.terms)


def open_accounts(connection: Connection, charges: tuple[Charge, ...], now_ns: int) -> dict[str, Account]:
    """Each counter of the charges once, as it stands without them."""
    found = accounts.amounts_by_counter(charges)
    known = {row[0]: row for row in connection.execute(_select_counters(len(found)), [*found])}
    opened: dict[str, Account] = {}
    for name, (charge, amount) in found.items():
        _, identity, packed, raised_bucket, raised = known.get(name, _NEW_COUNTER)
        tally = Tally(packed)
        window = charge.window
        bucket = tally.current(window, now_ns)
        used = tally.used(window.oldest_live(bucket))
        opened[name] = Account(identity, window, tally, amount, bucket, used, raised if raised_bucket == bucket else 0)
    return opened


_NEW_COUNTER: Final = ("", 0, None, 0, 0)


@lru_cache(maxsize=256)
def _select_counters(how_many: int) -> str:
    # Only the number of parameters is built into the text, never a name.
    return f"SELECT name, id, tally, raised_bucket, raised FROM counters WHERE name IN ({', '.join('?' * how_many)})"  # noqa: S608


def _again(connection: Connection, identity: str, hold: Hold, held: list[int], now_ns: int) -> Held:
    """The answer to a hold that is pending already: nothing is charged, and `used` is without what it holds itself."""
    opened = open_accounts(connection, hold.charges, now_ns)
    for name, line in _lines(hold.charges, held):
        account = opened[name]
        if line.bucket >= account.window.oldest_live(account.bucket):
            account.used -= line.reserved
    return Held(identity, accounts.quota_states(hold.charges, opened, now_ns))


def save(connection: Connection, opened: dict[str, Account], now_ns: int) -> None:
    updates = []
    for name, account in opened.items():
        ends_ns = account.window.ends_ns(account.bucket)
        row = (now_ns if ends_ns is None else ends_ns, account.tally.pack())
        if account.id:
            updates.append((*row, account.id))
        else:
            inserted = connection.execute("INSERT INTO counters (name, ends_ns, tally) VALUES (?, ?, ?)", (name, *row))
            assert inserted.lastrowid is not None
            account.id = inserted.lastrowid
    connection.executemany("UPDATE counters SET ends_ns = ?, tally = ? WHERE id = ?", updates)


def _change(connection: Connection, line: Line, posted: int, pending: int) -> int | None:
    """Corrects the line's bucket. What is posted in it then, or None where the bucket is kept no more: it counts nowhere."""
    row = connection.execute("SELECT tally FROM counters WHERE id = ?", (line.counter,)).fetchone()
    if row is None:
        return None
    tally = Tally(row[0])
    if not tally.change(line.bucket, posted, pending):
        return None
    connection.execute("UPDATE counters SET tally = ? WHERE id = ?", (tally.pack(), line.counter))
    return tally.posted(line.bucket)


def _lines(charges: tuple[Charge, ...], integers: list[int]) -> list[tuple[str, Line]]:
    """A reservation's lines with their counters' names; both are in the order of the charges."""
    lines = []
    for index, (name, (charge, _)) in enumerate(accounts.amounts_by_counter(charges).items()):
        counter, bucket, reserved, posted = integers[4 * index : 4 * index + 4]
        lines.append((name, Line(counter, bucket, reserved, posted, charge.meter, charge.window.kind is Kind.GAUGE)))
    return lines


def _journal(connection: Connection, entry: str, reservation_id: str, changes: list[int], now_ns: int) -> None:
    connection.execute(
        "INSERT INTO journal (at_ns, entry, reservation, lines) VALUES (?, ?, ?, ?)",
        (now_ns, _ENTRY_CODE[entry], reservation_id, _encode(changes)),
    )


def _report(connection: Connection, terms: Terms, change: accounts.UsageChange) -> None:
    if not any(msgspec.structs.astuple(change)):
        return  # a void of what was pending: it was never in the report
    connection.execute(
        "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " requests = requests + excluded.requests,"
        " input_tokens = input_tokens + excluded.input_tokens,"
        " cached_tokens = cached_tokens + excluded.cached_tokens,"
        " output_tokens = output_tokens + excluded.output_tokens,"
        " estimated_nanousd = estimated_nanousd + excluded.estimated_nanousd,"
        " cost_nanousd = cost_nanousd + excluded.cost_nanousd",
        (
            *(terms.day, terms.organisation, terms.team, terms.user, terms.key, terms.model),
            *msgspec.structs.astuple(change),
        ),
    )
