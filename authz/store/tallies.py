"""The rows of the ledger's counters: read, written, and kept in memory from one transaction to the next.

What is kept holds for as long as nobody else has written to the file, and SQLite says so itself: `PRAGMA data_version` gives
another number once another connection has committed something. Asked inside a transaction that holds the write lock, the answer
stays true until it commits. So one process alone on a file reads a counter once; several read it anew each time, as they must.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

import msgspec

from authz.quota.ledger import Charge
from authz.quota.windows import Tally
from authz.store import accounts
from authz.store.accounts import Account
from authz.store.database import Connection, select_in

KEPT: Final = 4_096
"""Counters, of some 200 bytes each, 1.6 kB where all 61 buckets of a window hold something."""


class Counter(msgspec.Struct):
    """A counter's row. `id` is 0 where there is none; `raised` is what was added by hand to the limits of `raised_bucket`."""

    id: int
    tally: Tally
    raised_bucket: int = 0
    raised: int = 0


class Counters:
    """What the transactions of one connection know of counters.

    Every method but `forget` belongs inside a transaction that holds the write lock, after `on`. A tally that is handed out may
    be changed, where `write` or `correct` follows in the same transaction.

    at_most  how many are kept for the next transaction
    """

    connection: Connection

    def __init__(self, at_most: int = KEPT) -> None:
        self._at_most, self._version = at_most, 0
        self._kept: dict[str, Counter] = {}

    def on(self, connection: Connection) -> Counters:
        """For the transaction that has begun there."""
        (version,) = connection.execute("PRAGMA data_version").fetchone()
        if not self._kept or version != self._version or connection is not self.connection or len(self._kept) > self._at_most:
            self._kept.clear()
            self.connection, self._version = connection, version
        return self

    def forget(self) -> None:
        """What is kept is no longer known to be what the file says: a transaction was rolled back, or wrote rows by itself."""
        self._kept.clear()

    def load(self, names: Iterable[str]) -> None:
        """Those that are not kept."""
        missing = [name for name in names if name not in self._kept]
        if missing:
            self._kept.update(read(self.connection, missing))

    def open(self, charges: tuple[Charge, ...], now_ns: int) -> dict[str, Account]:
        """Each counter of the charges once, as it stands without them; they have been loaded."""
        return opened(self._kept, charges, now_ns)

    def find(self, name: str, identity: int) -> Tally | None:
        """The tally of the counter with this id; None where it is gone, and another one may have its name."""
        counter = self._kept.get(name)
        if counter is not None and counter.id == identity:
            return counter.tally
        row = self.connection.execute("SELECT tally FROM counters WHERE id = ?", (identity,)).fetchone()
        return None if row is None else Tally(row[0])

    def add(self, name: str, account: Account, now_ns: int) -> None:
        """A row for a counter that has none yet."""
        ends_ns, packed = _row(account, now_ns)
        inserted = self.connection.execute(
            "INSERT INTO counters (name, ends_ns, tally) VALUES (?, ?, ?)", (name, ends_ns, packed)
        )
        assert inserted.lastrowid is not None
        account.id = inserted.lastrowid
        self._kept[name] = Counter(account.id, account.tally)

    def write(self, changed: Iterable[Account], now_ns: int) -> None:
        """The tallies of these, and when they end."""
        rows = [(*_row(account, now_ns), account.id) for account in changed]
        self.connection.executemany("UPDATE counters SET ends_ns = ?, tally = ? WHERE id = ?", rows)

    def correct(self, changed: Mapping[int, Tally]) -> None:
        """The tallies, by their counters' ids, of which only buckets that were there have changed."""
        rows = [(tally.pack(), identity) for identity, tally in changed.items()]
        self.connection.executemany("UPDATE counters SET tally = ? WHERE id = ?", rows)


def read(connection: Connection, names: Iterable[str]) -> dict[str, Counter]:
    """The counters that there are, by name."""
    return {
        name: Counter(identity, Tally(packed), raised_bucket, raised)
        for name, identity, packed, raised_bucket, raised in select_in(connection, _BY_NAME, list(names))
    }


_BY_NAME: Final = "SELECT name, id, tally, raised_bucket, raised FROM counters WHERE name"


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


def _row(account: Account, now_ns: int) -> tuple[int, bytes]:
    ends_ns = account.window.ends_ns(account.bucket)
    return now_ns if ends_ns is None else ends_ns, account.tally.pack()
