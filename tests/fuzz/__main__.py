"""`python -m tests.fuzz [TARGET …] [--runs N] [--seconds S] [--keep]`: each target in turn, then a table.

What a run finds goes on from what earlier ones found, in `run/fuzz/TARGET/`, and so do the sums. Exit 1 where anything crashed:
the input is in that folder, and `python -m tests.fuzz.run TARGET FILE` runs it again.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any, Final, NamedTuple

from tests.fuzz import TARGETS, corpora

ROOT: Final = Path("run/fuzz")
TOTALS: Final = ROOT / "totals.json"
_EXECUTED: Final = re.compile(r"stat::number_of_executed_units:\s+(\d+)")
_COVERED: Final = re.compile(r" cov: (\d+) ft: (\d+)")


class Result(NamedTuple):
    target: str
    executions: int
    seconds: float
    edges: int
    crashes: list[str]


def fuzz(target: str, runs: int, seconds: int) -> Result:
    """runs  0 for as many as there is time for"""
    folder = ROOT / target
    found, given = folder / "found", folder / "given"
    for each in (found, given):
        each.mkdir(parents=True, exist_ok=True)
    module = importlib.import_module(f"tests.fuzz.{target}")
    for seed in (*module.SEEDS, *corpora.kept(target)):
        (given / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    options = {
        "runs": runs or -1,
        "max_total_time": seconds,
        "max_len": corpora.MAX_BYTES,
        "timeout": 10,
        "rss_limit_mb": 2048,
        "print_final_stats": 1,
        "artifact_prefix": f"{folder}/",
    }
    command = [sys.executable, "-m", "tests.fuzz.run", target, *(f"-{name}={value}" for name, value in options.items())]
    began = time.monotonic()
    before = set(_artifacts(folder))
    with (folder / "log").open("wb") as log:
        code = subprocess.run([*command, str(found), str(given)], stdout=log, stderr=log, check=False).returncode
    took_s = time.monotonic() - began
    text = (folder / "log").read_text(errors="replace")
    executed = _EXECUTED.search(text)
    covered = _COVERED.findall(text)
    crashes = sorted(set(_artifacts(folder)) - before)
    if code and not crashes:
        crashes = [f"{folder}/log: ended with {code}"]
    return Result(target, int(executed.group(1)) if executed else 0, took_s, int(covered[-1][0]) if covered else 0, crashes)


def _artifacts(folder: Path) -> list[str]:
    return [str(path) for kind in ("crash", "timeout", "oom", "leak", "slow-unit") for path in folder.glob(f"{kind}-*")]


def keep(target: str) -> int:
    """The shortest inputs that go ways which no seed and no shorter one goes, from what was found into the repository."""
    module = importlib.import_module(f"tests.fuzz.{target}")
    one = module.target()
    gone: set[Way] = set()
    for seed in module.SEEDS:
        gone |= ways(one, seed)
    chosen = []
    for path in sorted((ROOT / target / "found").iterdir(), key=lambda path: (path.stat().st_size, path.name)):
        if path.stat().st_size <= corpora.MAX_BYTES:
            new = ways(one, data := path.read_bytes()) - gone
            if new:
                gone |= new
                chosen.append(data)
    return corpora.keep(target, chosen)


Way = tuple[str, int, int]
"""A file of ours, a line of it, and the one that came before."""


def ways(one: Callable[[bytes], str], data: bytes) -> set[Way]:
    taken: set[Way] = set()
    before: dict[int, int] = {}

    def trace(frame: FrameType, event: str, argument: object) -> Any:
        name = frame.f_code.co_filename
        if "/authz/" not in name:
            return None
        if event == "line":
            taken.add((name, before.get(id(frame), 0), frame.f_lineno))
            before[id(frame)] = frame.f_lineno
        return trace

    sys.settrace(trace)
    try:
        one(data)
    finally:
        sys.settrace(None)
    return taken


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"by default all: {', '.join(TARGETS)}")
    parser.add_argument("--runs", type=int, default=0, help="executions of each target; by default what there is time for")
    parser.add_argument("--seconds", type=int, default=60, help="for each target, at most")
    parser.add_argument("--keep", action="store_true", help="put the smallest corpus of what was found into the repository")
    given = parser.parse_args()
    if unknown := set(given.targets) - set(TARGETS):
        parser.error(f"no such target: {', '.join(sorted(unknown))}")
    crashed, totals = False, dict[str, int]()
    print(f"{'target':<18}{'executions':>12}{'seconds':>9}{'per s':>8}{'edges':>7}{'in all':>13}  crashes")
    for target in given.targets or TARGETS:
        result = fuzz(target, given.runs, given.seconds)
        totals = json.loads(TOTALS.read_text()) if TOTALS.exists() else {}  # anew: another run may go on beside this one
        totals[target] = totals.get(target, 0) + result.executions
        TOTALS.write_text(json.dumps(totals))
        crashed = crashed or bool(result.crashes)
        pace = result.executions / max(result.seconds, 0.001)
        row = f"{target:<18}{result.executions:>12,}{result.seconds:>9.0f}{pace:>8,.0f}{result.edges:>7}{totals[target]:>13,}"
        print(f"{row}  {', '.join(result.crashes) or 'none'}", flush=True)
        if given.keep:
            print(f"{'':<18}kept {keep(target)} inputs", flush=True)
    print(f"{'in all':<18}{'':>36}{sum(totals.values()):>13,}")
    return int(crashed)


if __name__ == "__main__":
    sys.exit(main())
