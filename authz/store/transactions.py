"""What happens inside one transaction: how quotas stand, an event ends a hold, reservations are found. The caller begins and
commits."""

from __future__ import annotations

from collections.abc import Iterable
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
from authz.store import accounts, alerts, tallies
from authz.store.accounts import Line
from authz.store.database import Connection
from authz.store.tallies import Counters

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
    counters = tallies.read(connection, {charge.counter for charge in charges})
    return accounts.quota_states(charges, tallies.opened(counters, charges, now_ns), now_ns)


def end(counters: Counters, reservation_id: str, event: Event, actual: Actual | None, now_ns: int) -> Change:
    """Settle, void or expire: what `TRANSITIONS` has for it, or nothing."""
    connection = counters.connection
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
    corrected: list[tuple[Tally, int]] = []
    posted_in: dict[str, tuple[int, int, int]] = {}
    for name, line in lines_of(body.charges, decode_integers(packed_lines)):
        owed = accounts.owed(event, line, body.terms, actual)
        posted = owed - line.posted
        pending = -line.reserved if before is State.PENDING else 0
        tally = counters.find(name, line.counter)
        if tally is not None and tally.change(line.bucket, posted, pending):  # else it is kept no more: it counts nowhere
            corrected.append((tally, line.counter))
            if posted > 0:
                posted_in[name] = (line.counter, line.bucket, tally.posted(line.bucket))
        held += (line.counter, line.bucket, line.reserved, owed)
        changes += (line.counter, line.bucket, posted, pending)
    counters.correct(corrected)
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
