"""Holds are made, one or several that arrived together, inside one transaction. The caller begins and commits.

A counter is read once and written once, however many of the holds charge it; in between it is changed in memory, where the next
hold of the transaction sees it. Reservations are written one by one, because each has to meet the ones before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from authz.quota.ledger import Full, Held, Hold, State
from authz.store import accounts, transactions
from authz.store.accounts import Account
from authz.store.database import Connection
from authz.store.transactions import Counter

_INSERT: Final = (
    "INSERT INTO reservations (id, retry_key, request_id, state, created_ns, deadline_ns, body, lines)"
    " VALUES (?, ?, ?, 0, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"
)
_TWINS: Final = (
    "SELECT id, state, body, lines FROM reservations WHERE id = ?"
    " UNION ALL SELECT id, state, body, lines FROM reservations WHERE retry_key = ? AND retry_key <> '' AND state = 0"
)


def reserve(connection: Connection, holds: Sequence[Hold], bodies: Sequence[bytes], now_ns: int) -> tuple[Held | Full, ...]:
    """Each all or nothing and in order, as if it came alone: of a hold nothing is written before all of it is known to fit.

    Raises `ValueError` for an id that another request has; then nothing may be committed.
    """
    transaction = _Transaction(connection, holds, now_ns)
    answers = tuple([transaction.reserve(hold, body) for hold, body in zip(holds, bodies, strict=True)])
    transaction.write()
    return answers


class _Transaction:
    def __init__(self, connection: Connection, holds: Sequence[Hold], now_ns: int) -> None:
        self._connection, self._now_ns = connection, now_ns
        names = {charge.counter for hold in holds for charge in hold.charges}
        keys = {hold.retry_key for hold in holds if hold.retry_key}
        self._counters, self._pending_keys = transactions.read_counters(connection, names, keys)
        self._changed: dict[int, Account] = {}
        self._entries: list[transactions.Entry] = []

    def reserve(self, hold: Hold, body: bytes) -> Held | Full:
        opened = transactions.opened(self._counters, hold.charges, self._now_ns)
        twin: Held | None = None
        if hold.retry_key in self._pending_keys:
            twin = self._twin(hold, body, opened)
        if twin is not None:
            return twin
        refused = accounts.refusal(hold.charges, opened, self._now_ns)
        if refused is not None:
            return self._twin(hold, body, opened) or refused  # it may be in the way of itself
        if not self._insert(hold, body, opened):
            twin = self._twin(hold, body, opened)
            assert twin is not None  # INVARIANT: a row of its id is there, and another request's raises
            return twin
        changes: list[int] = []
        for account in opened.values():
            account.tally.reserve(account.window, account.bucket, account.amount)
            self._changed[account.id] = account
            changes += (account.id, account.bucket, 0, account.amount)
        if hold.retry_key:
            self._pending_keys.add(hold.retry_key)
        self._entries.append(transactions.entry("reserve", hold.id, changes, self._now_ns))
        return Held(hold.id, accounts.quota_states(hold.charges, opened, self._now_ns))

    def write(self) -> None:
        """What the holds have changed in memory."""
        transactions.update(self._connection, self._changed.values(), self._now_ns)
        transactions.append(self._connection, self._entries)

    def _insert(self, hold: Hold, body: bytes, opened: dict[str, Account]) -> bool:
        """False where there is a reservation of that id."""
        held: list[int] = []
        for name, account in opened.items():
            if not account.id:
                account.id = transactions.add_counter(self._connection, name, account, self._now_ns)
                self._counters[name] = Counter(account.id, account.tally)
            held += (account.id, account.bucket, account.amount, 0)
        now_ns = self._now_ns
        row = (hold.id, hold.retry_key, hold.request_id, now_ns, now_ns + hold.ttl_ns, body, transactions.encode(held))
        return self._connection.execute(_INSERT, row).rowcount == 1

    def _twin(self, hold: Hold, body: bytes, opened: dict[str, Account]) -> Held | None:
        """The answer to the same request again, by our id or by its retry key: nothing is charged, and `used` is without what
        it holds itself."""
        for identity, state, kept, lines in self._connection.execute(_TWINS, (hold.id, hold.retry_key)).fetchall():
            if kept == body and transactions.STATES[state] is State.PENDING:
                for name, line in transactions.lines_of(hold.charges, transactions.decode_integers(lines)):
                    account = opened[name]
                    if line.bucket >= account.window.oldest_live(account.bucket):
                        account.used -= line.reserved
                return Held(identity, accounts.quota_states(hold.charges, opened, self._now_ns))
            if identity == hold.id:
                raise ValueError("the reservation's id is already used by another request, expected a new one")
        return None
