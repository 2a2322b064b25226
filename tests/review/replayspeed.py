"""How long a replay takes: a day's traffic, repeated on the days after it, decided again by the bundle that made it.

    python -m tests.review.replayspeed --decisions 100000

Exits with 1 where a decision comes out otherwise.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from authz.bundle import load_bundle
from authz.review.recordfile import read_records
from authz.review.replay import run
from tests.bundle.folders import REFERENCE
from tests.review import traffic

A_DAY = 4_000


class Result(NamedTuple):
    decisions: int
    changed: int
    seconds: float


def measure(decisions: int, folder: Path, a_day: int = A_DAY) -> Result:
    """At least so many decisions, in whole days."""
    file = folder / "records.jsonl"
    traffic.grow(traffic.record(folder, a_day), -(-decisions // a_day), file)
    bundle = load_bundle(REFERENCE)
    begun = time.perf_counter()
    outcomes = run(bundle, read_records([file]))
    return Result(outcomes.decisions, outcomes.changed.total(), time.perf_counter() - begun)


def main() -> None:
    parser = argparse.ArgumentParser(description="the speed of a replay")
    parser.add_argument("--decisions", type=int, default=100_000)
    with tempfile.TemporaryDirectory(prefix="authz-replay-") as folder:
        result = measure(parser.parse_args().decisions, Path(folder))
    sys.stdout.write(f"{result.decisions:,} decisions replayed in {result.seconds:.1f} s, {result.changed:,} changed\n")
    sys.exit(bool(result.changed))


if __name__ == "__main__":
    main()
