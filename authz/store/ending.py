"""Reservations end, one or several that were reported together, inside one transaction. The caller begins and commits.

As in `reserving`, what is read is read once and what has changed is written at the end, each kind of row by one statement.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from msgspec.structs import astuple

from authz.quota.ledger import TRANSITIONS, Actual, Change, Ending, Event, State, Terms
from authz.quota.windows import Tally
from authz.store import accounts, alerts, transactions
from authz.store.database import select_in
from authz.store.tallies import Counters
from authz.store.transactions import STATES

_STATE_CODE: Final = {state: code for code, state in enumerate(STATES)}
_ENTRY_OF_STATE: Final = {
    State.SETTLED: "settle",
    State.VOIDED: "void",
    State.EXPIRED: "expire",
    State.CORRECTED: "correct",
}

_Row = tuple[int, int, bytes, bytes]
"""Of a reservation: its number, state, body and lines."""


def end(counters: Counters, endings: Sequence[Ending], now_ns: int) -> tuple[Change, ...]:
    """Settles or voids each, in order: what `TRANSITIONS` has for it, or nothing."""
    transaction = _Transaction(counters, [ending.reservation_id for ending in endings], now_ns)
    changes = tuple([transaction.end(each.reservation_id, each.event, each.actual) for each in endings])
    transaction.write()
    return changes


def expire(counters: Counters, reservation_ids: Sequence[str], now_ns: int) -> tuple[Change, ...]:
    """Posts the estimates of those that are pending."""
    transaction = _Transaction(counters, reservation_ids, now_ns)
    changes = tuple([transaction.end(each, Event.EXPIRE, None) for each in reservation_ids])
    transaction.write()
    return changes


class _Transaction:
    def __init__(self, counters: Counters, ids: Sequence[str], now_ns: int) -> None:
        self._counters, self._connection, self._now_ns = counters, counters.connection, now_ns
        statement = "SELECT id, no, state, body, lines FROM reservations WHERE id"
        self._rows: dict[str, _Row] = {identity: row for identity, *row in select_in(self._connection, statement, ids)}
        self._tallies: dict[int, Tally] = {}
        self._ended: dict[int, tuple[int, bytes, int]] = {}
        self._entries: list[transactions.Entry] = []
        self._usage: dict[tuple[str, ...], list[int]] = {}

    def end(self, reservation_id: str, event: Event, actual: Actual | None) -> Change:
        row = self._rows.get(reservation_id)
        if row is None:
            return Change(changed=False, state=None)
        number, code, packed_body, packed_lines = row
        before = STATES[code]
        after = TRANSITIONS.get((before, event))
        if after is None:
            return Change(changed=False, state=before)

        body = transactions.decode_body(packed_body)
        held: list[int] = []
        changes: list[int] = []
        posted_in: dict[str, tuple[int, int, int]] = {}
        for name, line in transactions.lines_of(body.charges, transactions.decode_integers(packed_lines)):
            owed = accounts.owed(event, line, body.terms, actual)
            posted = owed - line.posted
            pending = -line.reserved if before is State.PENDING else 0
            tally = self._tally(name, line.counter)
            if tally is not None and tally.change(line.bucket, posted, pending):  # else it is kept no more: it counts nowhere
                self._tallies[line.counter] = tally
                if posted > 0:
                    posted_in[name] = (line.counter, line.bucket, tally.posted(line.bucket))
            held += (line.counter, line.bucket, line.reserved, owed)
            changes += (line.counter, line.bucket, posted, pending)
        lines = transactions.encode(held)
        self._ended[number] = (_STATE_CODE[after], lines, number)
        self._rows[reservation_id] = (number, _STATE_CODE[after], packed_body, lines)
        self._entries.append(transactions.entry(_ENTRY_OF_STATE[after], reservation_id, changes, self._now_ns))
        self._report(body.terms, astuple(accounts.usage_change(event, body.terms, actual, corrects=before is State.EXPIRED)))
        told = alerts.write(self._connection, body.charges, body.terms.organisation, posted_in, self._now_ns)
        return Change(changed=True, state=after, alerts=told)

    def write(self) -> None:
        """What has changed in memory."""
        self._counters.correct(self._tallies)
        self._connection.executemany("UPDATE reservations SET state = ?, lines = ? WHERE no = ?", self._ended.values())
        transactions.append(self._connection, self._entries)
        self._connection.executemany(_REPORT, [(*name, *figures) for name, figures in self._usage.items() if any(figures)])

    def _tally(self, name: str, counter: int) -> Tally | None:
        return self._tallies.get(counter) or self._counters.find(name, counter)

    def _report(self, terms: Terms, change: tuple[int, ...]) -> None:
        name = (terms.day, terms.organisation, terms.team, terms.user, terms.key, terms.model)
        figures = self._usage.setdefault(name, [0] * len(change))
        for at, amount in enumerate(change):
            figures[at] += amount


_REPORT: Final = (
    "INSERT INTO usage VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
    " requests = requests + excluded.requests,"
    " input_tokens = input_tokens + excluded.input_tokens,"
    " cached_tokens = cached_tokens + excluded.cached_tokens,"
    " output_tokens = output_tokens + excluded.output_tokens,"
    " estimated_nanousd = estimated_nanousd + excluded.estimated_nanousd,"
    " cost_nanousd = cost_nanousd + excluded.cost_nanousd"
)
