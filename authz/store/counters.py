"""Counters outside the ledger, for `authz.limiting`: a hit is counted or refused at once, and nobody settles it.

They are kept beside the ledger and never in it: no reservation, no entry in the journal, no part of the balances. A counter is
one row, a `Tally` of at most 61 buckets, whatever was hit and how often. Rows that ended are forgotten a few at a time, by
those who write.

Names are digests (whoever calls makes them), so that a row is as long as another whoever is counted, and nothing a client sent
is part of a key.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol

from msgspec import Struct

from authz.model import MAX_AMOUNT
from authz.quota.windows import GAUGE, NS, Tally, Window, sliding
from authz.store import database
from authz.store.database import Connection, Database

KEEP_S: Final = 7_200
"""How long a row stays after its end. A process whose clock is ahead by less than this takes nothing away from another one."""

FULL: Final = MAX_AMOUNT + 1
"""Where a fixed count stops: above every limit."""

PRUNED_PER_ROW: Final = 2
"""Rows forgotten for each one written: faster than new ones come."""


class Hit(Struct, frozen=True):
    """An amount against one sliding window. amount and limit 1 to MAX_AMOUNT; length_s > 0."""

    name: bytes
    length_s: int
    limit: int
    amount: int


class Standing(Struct, frozen=True):
    """How a counter stands.

    frees_ns  when the oldest of what is used stops counting; `now_ns` where nothing is used
    now_ns    by the clock that the counter goes by
    """

    used: int
    frees_ns: int
    now_ns: int


class Counters(Protocol):
    """Every operation raises `StoreUnavailable`; then it may have been done or not."""

    def hit(self, hits: Sequence[Hit], now_ns: int) -> bool:
        """Counts all of them, or none: each name once."""
        ...

    def look(self, name: bytes, length_s: int, now_ns: int) -> Standing:
        """How a sliding window stands."""
        ...

    def add(self, name: bytes, length_s: int, amount: int, now_ns: int) -> int:
        """What a fixed window holds with `amount`, which is counted in any case. It begins when something is first added."""
        ...

    def count(self, name: bytes, now_ns: int) -> Standing:
        """How a fixed window stands."""
        ...

    def forget(self, names: Sequence[bytes]) -> None: ...

    def forget_all(self) -> int:
        """How many rows there were."""
        ...

    def close(self) -> None: ...


def standing(packed: bytes | None, window: Window, now_ns: int) -> Standing:
    """Of a counter with this tally."""
    tally = Tally(packed)
    bucket = tally.current(window, now_ns)
    used = tally.used(window.oldest_live(bucket))
    # When one more fits below what is used already: when the oldest of it goes.
    frees_ns = tally.fits_ns(window, bucket, 1, used, now_ns) if used else now_ns
    assert frees_ns is not None
    return Standing(used, frees_ns, now_ns)


class SqliteCounters:
    """In the table `limits_windows` of a SQLite file, or in memory. Safe in threads, and for several processes on one file."""

    def __init__(self, options: database.Options) -> None:
        self._database = Database(options)

    def close(self) -> None:
        self._database.close()

    def hit(self, hits: Sequence[Hit], now_ns: int) -> bool:
        return self._database.write(lambda connection: _hit(connection, hits, now_ns))

    def look(self, name: bytes, length_s: int, now_ns: int) -> Standing:
        row = self._database.read(lambda connection: _find(connection, name))
        return standing(row[1] if row else None, sliding(length_s), now_ns)

    def add(self, name: bytes, length_s: int, amount: int, now_ns: int) -> int:
        return self._database.write(lambda connection: _add(connection, name, length_s, amount, now_ns))

    def count(self, name: bytes, now_ns: int) -> Standing:
        row = self._database.read(lambda connection: _find(connection, name))
        if row is None or row[0] <= now_ns:
            return Standing(0, now_ns, now_ns)
        return Standing(Tally(row[1]).used(0), row[0], now_ns)

    def forget(self, names: Sequence[bytes]) -> None:
        self._database.write(
            lambda connection: connection.executemany("DELETE FROM limits_windows WHERE name = ?", [(name,) for name in names])
        )

    def forget_all(self) -> int:
        return self._database.write(lambda connection: connection.execute("DELETE FROM limits_windows").rowcount)


def _hit(connection: Connection, hits: Sequence[Hit], now_ns: int) -> bool:
    found = []
    for hit in hits:
        window = sliding(hit.length_s)
        row = _find(connection, hit.name)
        tally = Tally(row[1] if row else None)
        bucket = tally.current(window, now_ns)
        if tally.used(window.oldest_live(bucket)) + hit.amount > hit.limit:
            return False
        found.append((hit, window, tally, bucket))
    # Nothing is written before everything is known to fit.
    for hit, window, tally, bucket in found:
        tally.reserve(window, bucket, hit.amount)
        ends_ns = window.ends_ns(bucket)
        assert ends_ns is not None
        _put(connection, hit.name, ends_ns, tally, now_ns)
    return True


def _add(connection: Connection, name: bytes, length_s: int, amount: int, now_ns: int) -> int:
    """One bucket that nothing leaves, in a row that ends as a whole."""
    row = _find(connection, name)
    ends_ns, packed = row if row and row[0] > now_ns else (now_ns + length_s * NS, None)
    tally = Tally(packed)
    tally.reserve(GAUGE, 0, min(amount, FULL - tally.used(0)))
    _put(connection, name, ends_ns, tally, now_ns)
    return tally.used(0)


def _find(connection: Connection, name: bytes) -> tuple[int, bytes] | None:
    row: tuple[int, bytes] | None = connection.execute(
        "SELECT ends_ns, tally FROM limits_windows WHERE name = ?", (name,)
    ).fetchone()
    return row


def _put(connection: Connection, name: bytes, ends_ns: int, tally: Tally, now_ns: int) -> None:
    connection.execute(
        "INSERT INTO limits_windows (name, ends_ns, tally) VALUES (?, ?, ?)"
        " ON CONFLICT (name) DO UPDATE SET ends_ns = excluded.ends_ns, tally = excluded.tally",
        (name, ends_ns, tally.pack()),
    )
    connection.execute(
        "DELETE FROM limits_windows WHERE no IN (SELECT no FROM limits_windows WHERE ends_ns < ? ORDER BY ends_ns LIMIT ?)",
        (now_ns - KEEP_S * NS, PRUNED_PER_ROW),
    )
