"""The last decisions of this process, with how each ended: what the page shows before it is told of new ones."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator
from typing import Final

from msgspec import Struct

from authz.model import DecisionRecord, Record, SettlementRecord

MOST: Final = 1_000


class Recorded(Struct):
    """A decision, and how it ended; None while it is under way, or for one that was denied."""

    decision: DecisionRecord
    settlement: SettlementRecord | None = None


class Recent:
    """Safe in threads; never waits for anything but a dictionary."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._kept: OrderedDict[str, Recorded] = OrderedDict()
        self._reserved: dict[str, Recorded] = {}
        self._lock = threading.Lock()

    def offer(self, record: Record) -> None:
        with self._lock:
            if isinstance(record, SettlementRecord):
                if (found := self._reserved.get(record.reservation_id)) is not None:
                    found.settlement = record
                return
            kept = self._kept[record.decision_id] = Recorded(record)
            if record.reservation_id:
                self._reserved[record.reservation_id] = kept
            if len(self._kept) > self._most:
                _, gone = self._kept.popitem(last=False)
                self._reserved.pop(gone.decision.reservation_id, None)

    def find(self, decision_id: str) -> Recorded | None:
        return self._kept.get(decision_id)

    def of_reservation(self, reservation_id: str) -> Recorded | None:
        return self._reserved.get(reservation_id)

    def newest(self) -> Iterator[Recorded]:
        """The newest first, of those that there are now."""
        with self._lock:
            kept = list(self._kept.values())
        return reversed(kept)
