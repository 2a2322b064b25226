"""The library in a test: an `Authorizer` on an engine with a clock and a folder of the test's, before a stand-in for Groq."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from authz.authorizer import Authorizer
from authz.bundle import load_bundle
from authz.compose import Engine
from authz.model import DecisionRecord, Record, SettlementRecord
from authz.settings import read_settings
from authz.telemetry.watch import Watcher
from demo.standin import StandIn
from tests.place import UPSTREAM_KEY, Place, Time, lay_out


class Library(Place):
    """A place with what stands around it. `records` are those since the last look."""

    def __init__(self, folder: Path, engine: Engine, time: Time, groq: StandIn) -> None:
        super().__init__(folder, engine, time)
        self.groq = groq
        self.authorizer = Authorizer(engine)
        self._watcher = Watcher(lambda: None, at_most=100_000)
        engine.watched.add(self._watcher)

    def records(self) -> list[Record]:
        found = []
        while (record := self._watcher.take()[0]) is not None:
            found.append(record)
        return found

    def one(self) -> tuple[DecisionRecord, SettlementRecord]:
        """What is on record of the one request since the last look: how it was decided, and how it ended."""
        decision, settlement = self.records()
        assert isinstance(decision, DecisionRecord)
        assert isinstance(settlement, SettlementRecord)
        assert decision.reservation_id == settlement.reservation_id
        return decision, settlement


@contextmanager
def library(
    folder: Path,
    *,
    change: Callable[[Path], None] | None = None,
    keys: str = "key_env: GROQ_API_KEY",
    environ: dict[str, str] | None = None,
) -> Iterator[Library]:
    """change  edits the bundle's copy before it is read"""
    config = lay_out(folder)
    if change is not None:
        change(folder / "policies")
    with StandIn(UPSTREAM_KEY) as groq:
        with config.open("a") as file:
            file.write(f"upstream: {{{keys}, host: 127.0.0.1, port: {groq.port}, tls: false}}\n")
        time = Time()
        known = environ or {"GROQ_API_KEY": UPSTREAM_KEY}
        engine = Engine(read_settings(config), environ=known, clock=time, load=load_bundle)
        made = Library(folder, engine, time, groq)
        try:
            yield made
        finally:
            made.authorizer.close()
