"""Decisions as they are made, as server-sent events: the last ones first, then each as it comes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import msgspec

from authz.api.admin.doors import proved
from authz.api.admin.facts import Facts, Shared, decided
from authz.api.admin.recent import Recorded
from authz.api.admin.sessions import Prove
from authz.api.watching import PROVE_AGAIN_NS, watching
from authz.clock import Clock
from authz.model import Record, SettlementRecord

MOST_STREAMS: Final = 50
FIRST: Final = 50
_QUIET: Final = 15


class Live:
    """draining  set when the process ends, and every stream with it"""

    def __init__(self, shared: Shared, clock: Clock, draining: asyncio.Event) -> None:
        self._shared, self._clock, self._draining = shared, clock, draining
        self._streams = 0

    @property
    def full(self) -> bool:
        return self._streams >= MOST_STREAMS

    async def events(self, prove: Prove) -> AsyncIterator[bytes]:
        """Ends, and says so, within a second after whoever watches is nobody any more."""
        self._streams += 1
        try:
            with watching(self._shared.engine.watched, self._draining) as heard:
                facts, proved_ns, quiet = Facts(self._shared, prove()), self._clock(), 0
                yield b"".join(_event("decision", line) for line in reversed(facts.decisions(at_most=FIRST)))
                async for record, dropped in heard:
                    if self._clock() - proved_ns >= PROVE_AGAIN_NS:
                        administrator = proved(prove)
                        if administrator is None:
                            yield _event("ended", {})
                            return
                        facts, proved_ns = Facts(self._shared, administrator), self._clock()
                    if dropped:
                        yield _event("lost", {"records": dropped})
                    message = self._message(facts, record)
                    quiet = 0 if message else quiet + 1
                    if message:
                        yield message
                    elif quiet >= _QUIET:  # so that a proxy, or a browser that is gone, is noticed
                        quiet = 0
                        yield b": still here\n\n"
        finally:
            self._streams -= 1

    def _message(self, facts: Facts, record: Record | None) -> bytes:
        if record is None:
            return b""
        if isinstance(record, SettlementRecord):
            found = self._shared.recent.of_reservation(record.reservation_id)
            if found is None or not facts.sees_record(found.decision):
                return b""
            return _event("settlement", decided(Recorded(found.decision, record)))
        return _event("decision", decided(Recorded(record))) if facts.sees_record(record) else b""


def _event(kind: str, value: object) -> bytes:
    """JSON has no line break in it, so neither has an event."""
    return b"event: " + kind.encode() + b"\ndata: " + msgspec.json.encode(value) + b"\n\n"
