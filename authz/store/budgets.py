"""Budgets that are changed by hand, inside one transaction."""

from __future__ import annotations

from authz.model import QuotaState
from authz.quota.ledger import Charge, Raise
from authz.store import accounts, transactions
from authz.store.alerts import total_raised
from authz.store.database import Connection
from authz.store.tallies import Counters


def raise_limit(counters: Counters, raise_id: str, charge: Charge, by: int, who: str, why: str, now_ns: int) -> QuotaState:
    """Written to the record, and to the counter's own row, where a decision finds it without looking further."""
    connection = counters.connection
    if connection.execute("SELECT 1 FROM raises WHERE id = ?", (raise_id,)).fetchone() is None:
        counters.load([charge.counter])
        account = counters.open((charge,), now_ns)[charge.counter]
        raised = total_raised(connection, charge.counter, account.bucket) + by
        accounts.check_raised(raised)
        account.tally.reserve(account.window, account.bucket, 0)  # the counter is in this period from now on
        if not account.id:
            counters.add(charge.counter, account, now_ns)
        counters.write((account,), now_ns)
        connection.execute(
            "UPDATE counters SET raised_bucket = ?, raised = ? WHERE id = ?", (account.bucket, raised, account.id)
        )
        counters.forget()
        connection.execute(
            "INSERT INTO raises (id, quota, scope, counter, bucket, amount, who, why, at_ns)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (raise_id, charge.quota, charge.scope, charge.counter, account.bucket, by, who, why, now_ns),
        )
    (state,) = transactions.look(connection, (charge,), now_ns)
    return state


def raises(connection: Connection, since_ns: int) -> tuple[Raise, ...]:
    rows = connection.execute(
        "SELECT id, quota, scope, counter, bucket, amount, who, why, at_ns FROM raises WHERE at_ns >= ? ORDER BY no",
        (since_ns,),
    )
    return tuple(Raise(*row) for row in rows)
