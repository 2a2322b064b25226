"""Where a decision's time goes, phase by phase: `make profile`.

The phases are the engine's own, as its traces have them; only that a stopwatch stands where the tracer would. What a look at
the clock costs is in the figures, some 0.1 µs a phase. `--functions` shows the functions behind them by cProfile, whose own
cost is large and falls on small functions: it says where to look, and not how long it takes.
"""

from __future__ import annotations

import argparse
import cProfile
import gc
import pstats
import sys
import tempfile
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Final

from opentelemetry.trace import INVALID_SPAN, NoOpTracerProvider

from authz.model import DecisionRecord
from authz.telemetry.traces import Draft, Tracer
from bench.world import World, opened

RECORD: Final = "record"
WHOLE: Final = "whole"


class Stopwatch(Tracer):
    """Takes the place of a tracer: keeps when each phase began, and makes no span."""

    def __init__(self) -> None:
        super().__init__(NoOpTracerProvider())
        self.taken: dict[str, list[int]] = {}

    def begin(self, traceparent: str, now_ns: int) -> Draft | None:
        return Draft(INVALID_SPAN, [])

    def decided(self, draft: Draft, record: DecisionRecord, now_ns: int) -> None:
        phases = [*draft.phases, ("", now_ns)]
        for (name, began_ns), (_, ended_ns) in pairwise(phases):
            self.taken.setdefault(str(name), []).append(ended_ns - began_ns)


def measure(world: World, times: int) -> dict[str, float]:
    """Median microseconds of each phase, of what follows the last one, and of the whole."""
    pdp = world.engine.pdp
    for _ in range(times // 10):
        world.decide()
    stopwatch, whole = Stopwatch(), []
    pdp._tracer = stopwatch  # beside the settings, which know no tracer that is only for this
    clock = world.engine.clock
    gc.freeze()
    for number in range(times):
        request = world.request()
        began_ns = clock()
        pdp.decide(request)
        whole.append(clock() - began_ns)
        if number % 500 == 0:
            world.engine.store.checkpoint()
    gc.unfreeze()
    found = {name: median(taken) / 1000 for name, taken in stopwatch.taken.items()}
    total = median(whole) / 1000
    return {**found, RECORD: max(0.0, total - sum(found.values())), WHOLE: total}


def functions(world: World, times: int) -> None:
    profile = cProfile.Profile()
    profile.enable()
    for _ in range(times):
        world.decide()
    profile.disable()
    pstats.Stats(profile, stream=sys.stdout).sort_stats("tottime").print_stats(40)


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.phases", description="where a decision's time goes")
    parser.add_argument("--store", default="", help="a store's URI; by default a SQLite file in a temporary folder")
    parser.add_argument("--times", type=int, default=5_000)
    parser.add_argument("--functions", action="store_true", help="the functions behind it, by cProfile")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder, opened(Path(folder), store=options.store) as world:
        if options.functions:
            functions(world, options.times)
            return
        found = measure(world, options.times)
    for name, cost_us in found.items():
        sys.stdout.write(f"{name:12} {cost_us:7.1f} us  {cost_us / found[WHOLE]:5.0%}\n")


if __name__ == "__main__":
    main()
