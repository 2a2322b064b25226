"""The embedded store: the ledger and the issued keys in one SQLite file, one transaction for each decision."""

from __future__ import annotations

from collections.abc import Sequence

from authz.identity.keys import PAGE, IssuedKey
from authz.model import QuotaState
from authz.quota.belongings import Belonging
from authz.quota.calibration import Lesson
from authz.quota.ledger import (
    Actual,
    Change,
    Charge,
    Delivery,
    Ending,
    Full,
    Held,
    Hold,
    Raise,
    Reservation,
    UsageRow,
    check_raise,
)
from authz.store import accounts, alerts, belongings, budgets, ending, housekeeping, issuing, lessons, reserving, transactions
from authz.store.database import MEMORY, Connection, Database, Options, parse_uri
from authz.store.housekeeping import Balances
from authz.store.tallies import Counters


def open_store(uri: str, *, wait_s: float = 0.25) -> SqliteStore:
    """The store that a URI names; close it. `wait_s` bounds how long an operation waits for others.

    Raises `ValueError` for a URI that is none of ours, `ConfigError` for a file of another program or a newer version, and
    `StoreUnavailable` where the file cannot be opened.
    """
    return SqliteStore(parse_uri(uri, wait_s=wait_s))


class SqliteStore:
    """`Ledger` and `KeyStore`. Safe in threads, and for several processes on one file."""

    def __init__(self, options: Options) -> None:
        self._counters = Counters()
        self._decisions = Database(options, undone=self._counters.forget)
        # Reports read beside the decisions and not in front of them; a store in memory has one connection only.
        self._reports = self._decisions if options.path == MEMORY else Database(options)
        # A checkpoint waits for the disk, and no report waits for it.
        self._checkpoints = self._decisions if options.path == MEMORY else Database(options)
        self._prune_from = 0

    def close(self) -> None:
        self._decisions.close()
        self._reports.close()
        self._checkpoints.close()

    # The ledger

    def reserve(self, hold: Hold, now_ns: int) -> Held | Full:
        return self.reserve_many((hold,), now_ns)[0]

    def reserve_many(self, holds: Sequence[Hold], now_ns: int) -> tuple[Held | Full, ...]:
        """Each as by `reserve`, in order, in one transaction: what arrived together shares its cost."""
        bodies = []
        for hold in holds:
            accounts.check_hold(hold)
            bodies.append(transactions.encode_body(hold))
        try:
            return self._reserve(holds, bodies, now_ns, repeats=False)
        except reserving.Repeated:
            return self._reserve(holds, bodies, now_ns, repeats=True)

    def _reserve(
        self, holds: Sequence[Hold], bodies: Sequence[bytes], now_ns: int, *, repeats: bool
    ) -> tuple[Held | Full, ...]:
        return self._decisions.write(
            lambda connection: reserving.reserve(self._counters.on(connection), holds, bodies, now_ns, repeats=repeats)
        )

    def look(self, charges: tuple[Charge, ...], now_ns: int) -> tuple[QuotaState, ...]:
        return self._reports.read(lambda connection: transactions.look(connection, charges, now_ns))

    def settle(self, reservation_id: str, actual: Actual, now_ns: int) -> Change:
        return self.end_many((Ending(reservation_id, actual),), now_ns)[0]

    def void(self, reservation_id: str, now_ns: int) -> Change:
        return self.end_many((Ending(reservation_id, None),), now_ns)[0]

    def end_many(self, endings: Sequence[Ending], now_ns: int) -> tuple[Change, ...]:
        """Each as by `settle` or `void`, in order, in one transaction: what was reported together shares its cost."""
        for each in endings:
            accounts.check_ending(each)
        return self._decisions.write(lambda connection: ending.end(self._counters.on(connection), endings, now_ns))

    def expire(self, now_ns: int, at_most: int) -> tuple[Change, ...]:
        def sweep(connection: Connection) -> tuple[Change, ...]:
            return ending.expire(self._counters.on(connection), transactions.overdue(connection, now_ns, at_most), now_ns)

        # Mostly there is nothing to do, and finding that out needs no write lock.
        some = self._reports.read(lambda connection: transactions.overdue(connection, now_ns, 1))
        return self._decisions.write(sweep) if some else ()

    def find(self, reservation_id: str) -> Reservation | None:
        return self.find_many((reservation_id,))[0]

    def find_many(self, reservation_ids: Sequence[str]) -> tuple[Reservation | None, ...]:
        return self._reports.read(lambda connection: transactions.find(connection, reservation_ids))

    def find_by_request(self, request_id: str) -> Reservation | None:
        return self._reports.read(lambda connection: transactions.find_by_request(connection, request_id))

    def usage(self, first_day: str, last_day: str) -> tuple[UsageRow, ...]:
        return self._reports.read(lambda connection: housekeeping.usage(connection, first_day, last_day))

    def replay(self) -> Balances:
        """Posted and pending by counter and bucket, added up from the journal alone."""
        return self._reports.read(housekeeping.replay)

    def balances(self) -> Balances:
        """Posted and pending by counter and bucket, as the counters hold them."""
        return self._reports.read(housekeeping.balances)

    def prune(self, now_ns: int, keep_ns: int, at_most: int) -> int:
        def forget(connection: Connection) -> int:
            pruned, self._prune_from = housekeeping.prune(connection, now_ns - keep_ns, at_most, self._prune_from)
            self._counters.forget()  # their rows may be gone
            return pruned

        return self._decisions.write(forget)

    def checkpoint(self) -> None:
        self._checkpoints.checkpoint()

    # Budgets by hand

    def raise_limit(self, raise_id: str, charge: Charge, by: int, who: str, why: str, now_ns: int) -> QuotaState:
        check_raise(charge, by)
        return self._decisions.write(
            lambda connection: budgets.raise_limit(self._counters.on(connection), raise_id, charge, by, who, why, now_ns)
        )

    def raises(self, since_ns: int) -> tuple[Raise, ...]:
        return self._reports.read(lambda connection: budgets.raises(connection, since_ns))

    # Alerts

    def claim_alerts(self, target: str, now_ns: int, lease_ns: int, at_most: int) -> tuple[Delivery, ...]:
        # Mostly there is nothing to tell, and finding that out needs no write lock.
        if not self._reports.read(lambda connection: alerts.waiting(connection, target, now_ns, 1)):
            return ()
        return self._decisions.write(lambda connection: alerts.claim(connection, target, now_ns, lease_ns, at_most))

    def delivered(self, target: str, alert: str, now_ns: int) -> None:
        self._decisions.write(lambda connection: alerts.delivered(connection, target, alert, now_ns))

    def retry_alert(self, target: str, alert: str, next_ns: int) -> None:
        self._decisions.write(lambda connection: alerts.retry(connection, target, alert, next_ns))

    # Files and batches at the upstream

    def keep(self, belonging: Belonging) -> None:
        self._decisions.write(lambda connection: belongings.keep(connection, belonging))

    def belonging(self, identity: str) -> Belonging | None:
        return self._reports.read(lambda connection: belongings.find(connection, identity))

    def due_batches(self, now_ns: int, next_ns: int, at_most: int) -> tuple[Belonging, ...]:
        # Mostly there is nothing to do, and finding that out needs no write lock.
        if not self._reports.read(lambda connection: belongings.due(connection, now_ns, 1)):
            return ()
        return self._decisions.write(lambda connection: belongings.claim(connection, now_ns, next_ns, at_most))

    def batch_ended(self, identity: str) -> None:
        self._decisions.write(lambda connection: belongings.ended(connection, identity))

    # Learned estimates

    def learn(self, learned: tuple[Lesson, ...], now_ns: int) -> None:
        self._decisions.write(lambda connection: lessons.learn(connection, learned, now_ns))

    def learned_since(self, sequence: int, at_most: int) -> tuple[Lesson, ...]:
        return self._reports.read(lambda connection: lessons.learned_since(connection, sequence, at_most))

    # Issued keys and the audit chain

    def change(self, number: int, entry: bytes, rows: tuple[IssuedKey, ...] = ()) -> bool:
        return self._decisions.write(lambda connection: issuing.change(connection, number, entry, rows))

    def keys_since(self, sequence: int, at_most: int = PAGE) -> tuple[IssuedKey, ...]:
        return self._reports.read(lambda connection: issuing.keys_since(connection, sequence, at_most))

    def note_uses(self, uses: dict[str, int]) -> None:
        self._decisions.write(lambda connection: issuing.note_uses(connection, uses))

    def key_uses(self) -> dict[str, int]:
        return self._reports.read(issuing.key_uses)

    def audit_since(self, number: int, at_most: int) -> tuple[bytes, ...]:
        return self._reports.read(lambda connection: issuing.audit_since(connection, number, at_most))

    def audit_last(self) -> bytes:
        return self._reports.read(issuing.audit_last)
