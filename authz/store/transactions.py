"""What happens inside one transaction: counters are read and written, an event ends a hold. The caller begins and commits."""

from __future__ import annotations

from collections.abc import Iterable
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


encode: Final = msgspec.msgpack.Encoder().encode
decode_body: Final = msgspec.msgpack.Decoder(Body).decode
decode_integers: Final = msgspec.msgpack.Decoder(list[int]).decode


def encode_body(hold: Hold) -> bytes:
    return encode(Body(hold.charges, hold.terms))


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
    for name, line in lines_of(body.charges, decode_integers(packed_lines)):
        owed = accounts.owed(event, line, body.terms, actual)
        posted = owed - line.posted
        pending = -line.reserved if before is State.PENDING else 0
        total = _change(connection, line, posted, pending)
        if total is not None and posted > 0:
            posted_in[name] = (line.counter, line.bucket, total)
        held += (line.counter, line.bucket, line.reserved, owed)
        changes += (line.counter, line.bucket, posted, pending)
    connection.execute("UPDATE reservations SET state = ?, lines = ? WHERE no = ?", (_STATE_CODE[after], encode(held), number))
    append(connection, [entry(_ENTRY_OF_STATE[after], reservation_id, changes, now_ns)])
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


class Counter(msgspec.Struct):
    """A counter's row. `id` is 0 where there is none; `raised` is what was added by hand to the limits of `raised_bucket`."""

    id: int
    tally: Tally
    raised_bucket: int = 0
    raised: int = 0


def read_counters(
    connection: Connection, names: Iterable[str], reservations: Iterable[str] = ()
) -> tuple[dict[str, Counter], set[str]]:
    """The counters that there are, by name, and those of the reservations' ids that there are: by one statement, as a rule,
    since a statement costs more than what it looks up."""
    found: dict[str, Counter] = {}
    known: set[str] = set()
    counters, ids = list(names), list(reservations)
    while counters or ids:
        some, of_ids = counters[:_AT_A_TIME], ids[:_AT_A_TIME]
        counters, ids = counters[_AT_A_TIME:], ids[_AT_A_TIME:]
        for name, identity, packed, raised_bucket, raised in connection.execute(
            _select_counters(len(some), len(of_ids)), (*some, *of_ids)
        ):
            if identity:
                found[name] = Counter(identity, Tally(packed), raised_bucket, raised)
            else:
                known.add(name)
    return found, known


def opened(counters: dict[str, Counter], charges: tuple[Charge, ...], now_ns: int) -> dict[str, Account]:
    """Each counter of the charges once, as it stands without them. Their tallies are the counters' own."""
    result: dict[str, Account] = {}
    for name, (charge, amount) in accounts.amounts_by_counter(charges).items():
        counter = counters.get(name) or Counter(0, Tally())
        tally, window = counter.tally, charge.window
        bucket, used = tally.standing(window, now_ns)
        raised = counter.raised if counter.raised_bucket == bucket else 0
        result[name] = Account(counter.id, window, tally, amount, bucket, used, raised)
    return result


def open_accounts(connection: Connection, charges: tuple[Charge, ...], now_ns: int) -> dict[str, Account]:
    return opened(read_counters(connection, {charge.counter for charge in charges})[0], charges, now_ns)


_AT_A_TIME: Final = 256


@lru_cache(maxsize=_AT_A_TIME)
def _select_counters(names: int, ids: int) -> str:
    # Only the number of parameters is built into the text, never a name.
    text = f"SELECT name, id, tally, raised_bucket, raised FROM counters WHERE name IN ({', '.join('?' * names)})"  # noqa: S608
    if ids:
        text += f" UNION ALL SELECT id, 0, NULL, 0, 0 FROM reservations WHERE id IN ({', '.join('?' * ids)})"  # noqa: S608  # as above
    return text


def add_counter(connection: Connection, name: str, account: Account, now_ns: int) -> int:
    """Its id from now on."""
    ends_ns, packed = _row(account, now_ns)
    inserted = connection.execute("INSERT INTO counters (name, ends_ns, tally) VALUES (?, ?, ?)", (name, ends_ns, packed))
    assert inserted.lastrowid is not None
    return inserted.lastrowid


def update(connection: Connection, changed: Iterable[Account], now_ns: int) -> None:
    rows = [(*_row(account, now_ns), account.id) for account in changed]
    connection.executemany("UPDATE counters SET ends_ns = ?, tally = ? WHERE id = ?", rows)


def _row(account: Account, now_ns: int) -> tuple[int, bytes]:
    ends_ns = account.window.ends_ns(account.bucket)
    return now_ns if ends_ns is None else ends_ns, account.tally.pack()


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


def lines_of(charges: tuple[Charge, ...], integers: list[int]) -> list[tuple[str, Line]]:
    """A reservation's lines with their counters' names; both are in the order of the charges."""
    lines = []
    for index, (name, (charge, _)) in enumerate(accounts.amounts_by_counter(charges).items()):
        counter, bucket, reserved, posted = integers[4 * index : 4 * index + 4]
        lines.append((name, Line(counter, bucket, reserved, posted, charge.meter, charge.window.kind is Kind.GAUGE)))
    return lines


Entry = tuple[int, int, str, bytes]
"""A row of the journal."""


def entry(kind: str, reservation_id: str, changes: list[int], now_ns: int) -> Entry:
    return now_ns, _ENTRY_CODE[kind], reservation_id, encode(changes)


def append(connection: Connection, entries: Iterable[Entry]) -> None:
    connection.executemany("INSERT INTO journal (at_ns, entry, reservation, lines) VALUES (?, ?, ?, ?)", entries)


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
