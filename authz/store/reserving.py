"""Holds are made, one or several that arrived together, inside one transaction. The caller begins and commits.

A counter is read at most once and written once, however many of the holds charge it; in between it is changed in memory, where
the next hold of the transaction sees it. What is written is written at the end, each kind of row by one statement.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from typing import Final

from authz.quota.ledger import Full, Held, Hold, State
from authz.store import accounts, transactions
from authz.store.accounts import Account
from authz.store.tallies import Counters

_INSERT: Final = (
    "INSERT INTO reservations (id, request_id, state, created_ns, deadline_ns, body, lines) VALUES (?, ?, 0, ?, ?, ?, ?)"
)


class Repeated(Exception):
    """The id of a hold is that of a reservation that there is."""


def reserve(
    counters: Counters, holds: Sequence[Hold], bodies: Sequence[bytes], now_ns: int, *, repeats: bool
) -> tuple[Held | Full, ...]:
    """Each all or nothing and in order, as if it came alone: of a hold nothing is written before all of it is known to fit.

    repeats  whether reservations with these ids are looked for beforehand. That there are none is what is expected of new ids,
             and the file refuses a second one by itself: then `Repeated` is raised

    Raises `ValueError` for an id that another request has. After either nothing may be committed.
    """
    transaction = _Transaction(counters, holds, now_ns, repeats=repeats)
    answers = tuple([transaction.reserve(hold, body) for hold, body in zip(holds, bodies, strict=True)])
    transaction.write()
    return answers


class _Transaction:
    def __init__(self, counters: Counters, holds: Sequence[Hold], now_ns: int, *, repeats: bool) -> None:
        self._counters, self._connection, self._now_ns, self._repeats = counters, counters.connection, now_ns, repeats
        counters.load({charge.counter for hold in holds for charge in hold.charges})
        self._known = {hold.id for hold in holds if self._is_there(hold.id)} if repeats else set[str]()
        self._changed: dict[int, Account] = {}
        self._rows: list[tuple[str, str, int, int, bytes, bytes]] = []
        self._entries: list[transactions.Entry] = []

    def reserve(self, hold: Hold, body: bytes) -> Held | Full:
        now_ns = self._now_ns
        opened = self._counters.open(hold.charges, now_ns)
        if hold.id in self._known:
            return self._repeated(hold, body, opened)
        refused = accounts.refusal(hold.charges, opened, now_ns)
        if refused is not None:
            if not self._repeats and self._is_there(hold.id):
                raise Repeated
            return refused
        held: list[int] = []
        changes: list[int] = []
        for name, account in opened.items():
            if not account.id:
                self._counters.add(name, account, now_ns)
            identity, bucket, amount = account.id, account.bucket, account.amount
            account.tally.reserve(account.window, bucket, amount)
            self._changed[identity] = account
            held += (identity, bucket, amount, 0)
            changes += (identity, bucket, 0, amount)
        self._known.add(hold.id)
        self._rows.append((hold.id, hold.request_id, now_ns, now_ns + hold.ttl_ns, body, transactions.encode(held)))
        self._entries.append(transactions.entry("reserve", hold.id, changes, now_ns))
        return Held(hold.id, accounts.quota_states(hold.charges, opened, now_ns))

    def write(self) -> None:
        """What the holds have changed in memory."""
        self._insert()
        self._counters.write(self._changed.values(), self._now_ns)
        transactions.append(self._connection, self._entries)

    def _insert(self) -> None:
        try:
            self._connection.executemany(_INSERT, self._rows)
        except sqlite3.IntegrityError as error:
            if error.sqlite_errorname != "SQLITE_CONSTRAINT_UNIQUE":
                raise
            raise Repeated from error
        self._rows.clear()

    def _is_there(self, identity: str) -> bool:
        return self._connection.execute("SELECT 1 FROM reservations WHERE id = ?", (identity,)).fetchone() is not None

    def _repeated(self, hold: Hold, body: bytes, opened: dict[str, Account]) -> Held:
        """The answer to a hold whose id there is: nothing is charged, and `used` is without what it holds itself."""
        self._insert()
        state, kept, lines = self._connection.execute(
            "SELECT state, body, lines FROM reservations WHERE id = ?", (hold.id,)
        ).fetchone()
        if kept != body or transactions.STATES[state] is not State.PENDING:
            raise ValueError("the reservation's id is already used by another request, expected a new one")
        for name, line in transactions.lines_of(hold.charges, transactions.decode_integers(lines)):
            account = opened[name]
            if line.bucket >= account.window.oldest_live(account.bucket):
                account.used -= line.reserved
        return Held(hold.id, accounts.quota_states(hold.charges, opened, self._now_ns))
