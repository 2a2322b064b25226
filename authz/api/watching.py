"""A watch on decisions: which records it shows, to whom, and how it waits for them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Final, assert_never

from authz.api import encoding
from authz.api.callers import Caller, key_of
from authz.api.wire import decisions_pb2 as wire
from authz.clock import Clock
from authz.model import DecisionRecord, Record, SettlementRecord
from authz.quota.definitions import parse_uid
from authz.telemetry.watch import Watched, Watcher

PROVE_AGAIN_NS: Final = 1_000_000_000
"""A credential that has ended, or a bundle that permits less, ends a watch so soon after."""

Heard = tuple[Record | None, int]
"""A record, and how many were lost before it; None where nothing has come for a while."""


class Watch:
    """What one caller is shown.

    prove  says who they are, as often as it is asked. Raises `Fault` where nobody is any more
    """

    def __init__(self, asked: wire.WatchDecisionsRequest, prove: Callable[[], Caller], clock: Clock) -> None:
        self._asked, self._prove, self._clock = asked, prove, clock
        self._lost = 0
        self._sees: dict[tuple[str, str], bool] = {}
        self._caller = self._proved()

    def shown(self, record: Record | None, dropped: int) -> wire.WatchDecisionsResponse | None:
        """The next message, or None for nothing. Raises `Fault`."""
        if self._clock() - self._proved_ns >= PROVE_AGAIN_NS:
            self._caller = self._proved()
        self._lost += dropped
        if record is not None and not (self._is_wanted(record) and self._may_see(record)):
            record = None
        if record is None and not self._lost:
            return None
        message, self._lost = _message(record, self._lost), 0
        return message

    def _proved(self) -> Caller:
        caller = self._prove()
        caller.require_some()
        self._proved_ns = self._clock()
        self._sees.clear()
        return caller

    def _is_wanted(self, record: Record) -> bool:
        if not self._asked.effect and not self._asked.team:
            return True
        if isinstance(record, SettlementRecord):
            return False
        return self._asked.effect in ("", record.effect) and self._asked.team in ("", record.team)

    def _may_see(self, record: Record) -> bool:
        whose = _whose(record)
        if whose not in self._sees:
            self._sees[whose] = self._caller.sees(*whose)
        return self._sees[whose]


@contextmanager
def watching(watched: Watched, draining: asyncio.Event) -> Iterator[AsyncIterator[Heard]]:
    """Records from now on, until `draining` is set: a watch never ends by itself."""
    loop, something = asyncio.get_running_loop(), asyncio.Event()

    def wake() -> None:
        loop.call_soon_threadsafe(something.set)

    async def heard() -> AsyncIterator[Heard]:
        while not draining.is_set():
            record, dropped = watcher.take()
            if record is None:
                something.clear()
                if watcher.empty:
                    await _either(something, draining)
            yield record, dropped

    watcher = Watcher(wake)
    watched.add(watcher)
    try:
        yield heard()
    finally:
        watched.remove(watcher)


async def _either(*events: asyncio.Event) -> None:
    """Until one of them is set, or a while has passed."""
    waiting = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        await asyncio.wait(waiting, timeout=PROVE_AGAIN_NS / 1e9, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for each in waiting:
            each.cancel()


def _whose(record: Record) -> tuple[str, str]:
    """The key and the team that a record is of; nobody's is the organisation's."""
    if isinstance(record, SettlementRecord) or record.principal is None:
        return "", ""
    return key_of(parse_uid(record.principal)), record.team or ""


def _message(record: Record | None, dropped: int) -> wire.WatchDecisionsResponse:
    match record:
        case None:
            return wire.WatchDecisionsResponse(dropped=dropped)
        case DecisionRecord():
            return wire.WatchDecisionsResponse(decision=encoding.decision_record(record), dropped=dropped)
        case SettlementRecord():
            return wire.WatchDecisionsResponse(settlement=encoding.settlement_record(record), dropped=dropped)
        case _:
            assert_never(record)
