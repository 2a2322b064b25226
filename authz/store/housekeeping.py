"""Reports, the replay of the journal, and the pruning of what nobody needs any more."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from authz.model import Meter
from authz.quota.ledger import Terms, UsageRow
from authz.quota.windows import Tally
from authz.store import belongings, lessons
from authz.store.database import Connection
from authz.store.transactions import decode_body, decode_integers

Balances = dict[str, dict[int, tuple[int, int]]]
"""Posted and pending by counter and bucket."""

_Sums = dict[tuple[int, int], list[int]]


def usage(connection: Connection, first_day: str, last_day: str) -> tuple[UsageRow, ...]:
    """What is settled, from the roll-up; what is pending, from the reservations themselves. Sorted by day and names."""
    rows: dict[tuple[str, str, str, str, str, str], list[int]] = {}
    for row in connection.execute("SELECT * FROM usage WHERE day BETWEEN ? AND ?", (first_day, last_day)):
        rows[row[:6]] = [*row[6:], 0, 0]
    for (body,) in connection.execute("SELECT body FROM reservations WHERE state = 0"):
        terms: Terms = decode_body(body).terms
        if first_day <= terms.day <= last_day:
            name = (terms.day, terms.organisation, terms.team, terms.user, terms.key, terms.model)
            figures = rows.setdefault(name, [0] * 8)
            figures[6] += 1
            figures[7] += terms.at_most.get(Meter.SPEND, 0)
    return tuple(UsageRow(*name, *figures) for name, figures in sorted(rows.items()))


def balances(connection: Connection) -> Balances:
    """As the counters hold them; a bucket with nothing in it is left out."""
    found: Balances = {}
    for name, packed in connection.execute("SELECT name, tally FROM counters"):
        buckets = {bucket: cell for bucket, cell in Tally(packed).buckets.items() if cell != (0, 0)}
        if buckets:
            found[name] = buckets
    return found


def replay(connection: Connection) -> Balances:
    """As the journal alone says: opening balances and all entries, for the buckets that the counters still keep."""
    sums = _sum_entries(connection.execute("SELECT lines FROM journal").fetchall())
    for counter, bucket, posted, pending in connection.execute("SELECT counter, bucket, posted, pending FROM opening"):
        cell = sums[(counter, bucket)]
        cell[0] += posted
        cell[1] += pending
    kept = {identity: (name, Tally(packed).buckets) for identity, name, packed in _counters(connection)}
    found: Balances = {}
    for (counter, bucket), (posted, pending) in sums.items():
        name, buckets = kept.get(counter, ("", {}))
        if bucket in buckets and (posted, pending) != (0, 0):
            found.setdefault(name, {})[bucket] = (posted, pending)
    return found


def prune(connection: Connection, before_ns: int, at_most: int, counters_from: int) -> tuple[int, int]:
    """Forgets what ended before `before_ns`, a bounded piece at a time.

    at_most        the rows of each table to look at
    counters_from  where the walk over the counters goes on; the answer gives the next such place

    Answers how many rows were forgotten.
    """
    pruned = _prune_reservations(connection, before_ns, at_most) + _prune_journal(connection, before_ns, at_most)
    pruned += lessons.prune(connection, before_ns, at_most) + belongings.prune(connection, before_ns, at_most)
    counters, next_from = _prune_counters(connection, before_ns, at_most, counters_from)
    return pruned + counters, next_from


def _prune_reservations(connection: Connection, before_ns: int, at_most: int) -> int:
    # The oldest rows only, so that a call which finds nothing has not read the whole table under the write lock.
    return connection.execute(
        "DELETE FROM reservations WHERE no IN ("
        " SELECT no FROM (SELECT no, state, deadline_ns FROM reservations ORDER BY no LIMIT ?)"
        " WHERE state <> 0 AND deadline_ns < ?)",
        (at_most, before_ns),
    ).rowcount


def _prune_journal(connection: Connection, before_ns: int, at_most: int) -> int:
    """Old entries are added to the opening balances, as far as their buckets still count; so a replay comes out the same.

    The last entry always stays: its number is what the next one is counted from.
    """
    rows = connection.execute(
        "SELECT seq, lines FROM (SELECT seq, at_ns, lines FROM journal ORDER BY seq LIMIT ?)"
        " WHERE at_ns < ? AND seq < (SELECT max(seq) FROM journal)",
        (at_most, before_ns),
    ).fetchall()
    sums = _sum_entries([(lines,) for _, lines in rows])
    buckets: dict[int, dict[int, tuple[int, int]]] = {}
    for counter in {counter for counter, _ in sums}:
        row = connection.execute("SELECT tally FROM counters WHERE id = ?", (counter,)).fetchone()
        buckets[counter] = Tally(row[0]).buckets if row is not None else {}
        connection.execute(
            "DELETE FROM opening WHERE counter = ? AND bucket < ?", (counter, min(buckets[counter], default=2**63 - 1))
        )
    connection.executemany(
        "INSERT INTO opening (counter, bucket, posted, pending) VALUES (?, ?, ?, ?) ON CONFLICT DO UPDATE SET"
        " posted = posted + excluded.posted, pending = pending + excluded.pending",
        [(counter, bucket, *cell) for (counter, bucket), cell in sums.items() if bucket in buckets[counter]],
    )
    connection.executemany("DELETE FROM journal WHERE seq = ?", [(seq,) for seq, _ in rows])
    return len(rows)


def _prune_counters(connection: Connection, before_ns: int, at_most: int, counters_from: int) -> tuple[int, int]:
    """A counter goes when its newest bucket has long stopped counting and nothing is pending in it. Its alerts go with it."""
    rows = connection.execute(
        "SELECT id, ends_ns, tally FROM counters WHERE id > ? ORDER BY id LIMIT ?", (counters_from, at_most)
    ).fetchall()
    gone = [
        (identity,)
        for identity, ends_ns, packed in rows
        if ends_ns < before_ns and not any(pending for _, pending in Tally(packed).buckets.values())
    ]
    for statement in _FORGET_COUNTER:
        connection.executemany(statement, gone)
    return len(gone), rows[-1][0] if len(rows) == at_most else 0


_FORGET_COUNTER: Final = (
    "DELETE FROM counters WHERE id = ?",
    "DELETE FROM opening WHERE counter = ?",
    "DELETE FROM deliveries WHERE alert IN (SELECT id FROM alerts WHERE counter = ?)",
    "DELETE FROM alerts WHERE counter = ?",
)


def _sum_entries(rows: list[tuple[bytes]]) -> _Sums:
    sums: _Sums = defaultdict(lambda: [0, 0])
    for (lines,) in rows:
        integers = decode_integers(lines)
        for at in range(0, len(integers), 4):
            cell = sums[(integers[at], integers[at + 1])]
            cell[0] += integers[at + 2]
            cell[1] += integers[at + 3]
    return sums


def _counters(connection: Connection) -> list[tuple[int, str, bytes]]:
    return connection.execute("SELECT id, name, tally FROM counters").fetchall()
