"""`make bench` and `make bench-quick`: every figure of docs/performance.md, each a ratio taken in turns in this one run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence

from bench import inprocess, load, report, served
from bench.measure import Figure

Step = Callable[[], Figure | list[Figure]]


def full() -> Iterator[Step]:
    yield lambda: inprocess.decision_and_cedar(15, 600)
    yield lambda: inprocess.teams(9, 400)
    yield lambda: inprocess.keys(9, 400)
    yield lambda: inprocess.redis(15, 400)
    yield lambda: served.throughput_and_memory(7, 3_000)
    yield lambda: served.workers(5, 8_000)
    yield lambda: served.through_envoy(7, 1_500)
    yield lambda: served.tail(5, 8_000)


def quick() -> Iterator[Step]:
    """Under 50 seconds: fewer rounds, a tenth of the teams and keys, and without P7, P8 and P10."""
    yield lambda: inprocess.decision_and_cedar(5, 200)
    yield lambda: inprocess.teams(5, 100, many=1_000)
    yield lambda: inprocess.keys(5, 100, many=10_000)
    yield lambda: inprocess.redis(5, 200)
    yield lambda: served.throughput_and_memory(2, 700)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description="how fast authz is")
    parser.add_argument("--quick", action="store_true", help="under 50 seconds; writes nothing")
    options = parser.parse_args(arguments)
    client, on = load.version(), report.machine(os.getloadavg()[0])
    figures: list[Figure] = []
    for step in quick() if options.quick else full():
        found = step()
        for figure in found if isinstance(found, list) else [found]:
            report.tell(figure)
            figures.append(figure)
    if not options.quick:
        report.write(report.results(client, on, figures))
    sys.stdout.write(report.summary(figures) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
