"""What is read and written inside one transaction: how quotas stand, reservations, the journal. The caller begins and
commits."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

import msgspec

from authz.model import QuotaState
from authz.quota.ledger import (
    Charge,
    Hold,
    Reservation,
    State,
    Terms,
)
from authz.quota.windows import Kind
from authz.store import accounts, tallies
from authz.store.accounts import Line
from authz.store.database import Connection, select_in

STATES: Final = (State.PENDING, State.SETTLED, State.VOIDED, State.EXPIRED, State.CORRECTED)
ENTRIES: Final = ("reserve", "settle", "void", "expire", "correct")
"""Both are written to the file by their index: append, never reorder."""

_ENTRY_CODE: Final = {entry: code for code, entry in enumerate(ENTRIES)}


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


def overdue(connection: Connection, now_ns: int, at_most: int) -> list[str]:
    """Ids of pending reservations whose deadline has passed, the oldest first."""
    rows = connection.execute(
        "SELECT id FROM reservations WHERE state = 0 AND deadline_ns <= ? ORDER BY deadline_ns, no LIMIT ?", (now_ns, at_most)
    )
    return [identity for (identity,) in rows]


def find(connection: Connection, reservation_ids: Sequence[str]) -> tuple[Reservation | None, ...]:
    """In the order of the ids."""
    statement = "SELECT id, state, created_ns, deadline_ns, body FROM reservations WHERE id"
    found = {row[0]: _reservation(*row) for row in select_in(connection, statement, reservation_ids)}
    return tuple([found.get(each) for each in reservation_ids])


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
