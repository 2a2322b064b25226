"""The shared store: the ledger and the issued keys on one Redis or Valkey, one call of a script for each decision."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from authz.errors import ConfigError
from authz.identity.keys import PAGE, IssuedKey
from authz.model import QuotaState
from authz.quota.belongings import Belonging
from authz.quota.calibration import MAX_SAMPLES, Lesson
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
from authz.store import accounts
from authz.store.housekeeping import Balances
from authz.store.redis import ledger, reports, rows
from authz.store.redis.alerts import Alerts
from authz.store.redis.belongings import BelongingRows
from authz.store.redis.connection import Server
from authz.store.redis.issuing import IssuedKeys
from authz.store.redis.uri import Options

VERSION: Final = 3


class RedisStore:
    """`Ledger` and `KeyStore`. Safe in threads, and for any number of processes on one server.

    time  whose clock counts: the server's, for all who share it; the caller's is for tests, which turn it
    """

    def __init__(self, options: Options, *, time: Literal["server", "caller"] = "server") -> None:
        self._server = Server(options)
        self._alerts = Alerts(self._server)
        self._issued = IssuedKeys(self._server)
        self._belongings = BelongingRows(self._server)
        self._callers_time = time == "caller"
        self._prune_from = "0"
        version = self._server.run("open", VERSION)
        if version != VERSION:
            self._server.close()
            problem = f"store version {version}, expected {VERSION}: another version of authz has made this store"
            raise ConfigError("redis", problem)

    def close(self) -> None:
        self._server.close()

    def _moment(self, now_ns: int) -> str:
        return rows.moment(now_ns) if self._callers_time else ""

    # The ledger

    def reserve(self, hold: Hold, now_ns: int) -> Held | Full:
        return self.reserve_many((hold,), now_ns)[0]

    def reserve_many(self, holds: Sequence[Hold], now_ns: int) -> tuple[Held | Full, ...]:
        """Each as by `reserve`, in order, in one call: what arrived together shares its cost."""
        for hold in holds:
            accounts.check_hold(hold)
        return ledger.reserve(self._server, holds, now_ns, self._moment(now_ns))

    def look(self, charges: tuple[Charge, ...], now_ns: int) -> tuple[QuotaState, ...]:
        return ledger.look(self._server, charges, now_ns, self._moment(now_ns))

    def settle(self, reservation_id: str, actual: Actual, now_ns: int) -> Change:
        return self.end_many((Ending(reservation_id, actual),), now_ns)[0]

    def void(self, reservation_id: str, now_ns: int) -> Change:
        return self.end_many((Ending(reservation_id, None),), now_ns)[0]

    def end_many(self, endings: Sequence[Ending], now_ns: int) -> tuple[Change, ...]:
        """Each as by `settle` or `void`, in order, in one call: what was reported together shares its cost."""
        for each in endings:
            accounts.check_ending(each)
        return ledger.end(self._server, endings, self._moment(now_ns))

    def expire(self, now_ns: int, at_most: int) -> tuple[Change, ...]:
        return ledger.expire(self._server, at_most, self._moment(now_ns))

    def find(self, reservation_id: str) -> Reservation | None:
        return self.find_many((reservation_id,))[0]

    def find_many(self, reservation_ids: Sequence[str]) -> tuple[Reservation | None, ...]:
        return ledger.find(self._server, reservation_ids)

    def find_by_request(self, request_id: str) -> Reservation | None:
        return rows.reservation(self._server.run("find", "request", request_id)[0]) if request_id else None

    def usage(self, first_day: str, last_day: str) -> tuple[UsageRow, ...]:
        return reports.usage(self._server, first_day, last_day)

    def replay(self) -> Balances:
        """Posted and pending by counter and bucket, added up from the journal alone."""
        return reports.replay(self._server)

    def balances(self) -> Balances:
        """Posted and pending by counter and bucket, as the counters hold them."""
        return reports.balances(self._server)

    def prune(self, now_ns: int, keep_ns: int, at_most: int) -> int:
        gone, self._prune_from = reports.prune(self._server, keep_ns, at_most, self._prune_from, self._moment(now_ns))
        return gone

    def checkpoint(self) -> None:
        """Nothing to do: Redis writes its log by itself."""

    # Budgets by hand

    def raise_limit(self, raise_id: str, charge: Charge, by: int, who: str, why: str, now_ns: int) -> QuotaState:
        check_raise(charge, by)
        return ledger.raise_limit(self._server, raise_id, charge, by, who, why, now_ns, self._moment(now_ns))

    def raises(self, since_ns: int) -> tuple[Raise, ...]:
        return ledger.raises(self._server, since_ns)

    # Alerts

    def claim_alerts(self, target: str, now_ns: int, lease_ns: int, at_most: int) -> tuple[Delivery, ...]:
        return self._alerts.claim(target, lease_ns, at_most, self._moment(now_ns))

    def delivered(self, target: str, alert: str, now_ns: int) -> None:
        self._alerts.tell(target, alert, "")

    def retry_alert(self, target: str, alert: str, next_ns: int) -> None:
        self._alerts.tell(target, alert, rows.moment(next_ns))

    # Files and batches at the upstream

    def keep(self, belonging: Belonging) -> None:
        self._belongings.keep(belonging)

    def belonging(self, identity: str) -> Belonging | None:
        return self._belongings.find(identity)

    def due_batches(self, now_ns: int, next_ns: int, at_most: int) -> tuple[Belonging, ...]:
        return self._belongings.due(next_ns - now_ns, at_most, self._moment(now_ns))

    def batch_ended(self, identity: str) -> None:
        self._belongings.ended(identity)

    # Learned estimates

    def learn(self, lessons: tuple[Lesson, ...], now_ns: int) -> None:
        packed = [
            [rows.encode([lesson.key, lesson.model]).hex(), *(number for pair in lesson.counts.items() for number in pair)]
            for lesson in lessons
        ]
        self._server.run("learn", self._moment(now_ns), MAX_SAMPLES, rows.encode(packed))

    def learned_since(self, sequence: int, at_most: int) -> tuple[Lesson, ...]:
        found = self._server.run("learned_since", sequence, at_most)
        return tuple(_lesson(found[at], found[at + 1]) for at in range(0, len(found), 2))

    # Issued keys and the audit chain

    def change(self, number: int, entry: bytes, rows: tuple[IssuedKey, ...] = ()) -> bool:
        return self._issued.change(number, entry, rows)

    def keys_since(self, sequence: int, at_most: int = PAGE) -> tuple[IssuedKey, ...]:
        return self._issued.keys_since(sequence, at_most)

    def note_uses(self, uses: dict[str, int]) -> None:
        self._issued.note_uses(uses)

    def key_uses(self) -> dict[str, int]:
        return self._issued.key_uses()

    def audit_since(self, number: int, at_most: int) -> tuple[bytes, ...]:
        return self._issued.audit_since(number, at_most)

    def audit_last(self) -> bytes:
        return self._issued.audit_last()


def _lesson(name: bytes, packed: bytes) -> Lesson:
    key, model = rows.decode_strings(bytes.fromhex(name.decode()))
    sequence, _, *counts = (int(number) for number in rows.decode_mixed(packed))
    return Lesson(key, model, dict(zip(counts[::2], counts[1::2], strict=True)), sequence)
