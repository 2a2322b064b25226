"""`python -m tests.chaos`: every fault on both stores, and what was lost. Exit code 1 where a promise is broken.

python -m tests.chaos --only redis --seconds 5
python -m tests.chaos --store sqlite --json
"""

from __future__ import annotations

import argparse
import sys

import msgspec
from rich.console import Console
from rich.table import Table

from tests.chaos.fleet import Kind, Plan
from tests.chaos.schedule import Row, named, run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description="faults under load through the real Envoy")
    parser.add_argument("--seconds", type=float, default=4.0, help="how long each fault goes on")
    parser.add_argument("--store", choices=[kind.value for kind in Kind], action="append", help="both without it")
    parser.add_argument("--only", action="append", default=[], metavar="TEXT", help="faults whose name holds this text")
    parser.add_argument("--json", action="store_true", help="one line of JSON for each fault")
    arguments = parser.parse_args()
    try:
        faults = named(arguments.only)
    except ValueError as error:
        parser.error(str(error))
    progress, rows = Console(stderr=True), list[Row]()
    for kind in map(Kind, arguments.store or Kind):
        for row in run(Plan(kind, own_disk=True), faults, arguments.seconds):
            rows.append(row)
            if arguments.json:
                sys.stdout.write(msgspec.json.encode(row).decode() + "\n")
                sys.stdout.flush()
            else:
                progress.print(f"{row.store}: {row.fault}: {'; '.join(row.broken) or row.injected}", highlight=False)
    if not arguments.json:
        show(rows)
    return 1 if any(row.broken for row in rows) else 0


def show(rows: list[Row]) -> None:
    console = Console(width=max(200, Console().width))
    console.print(_clients(rows))
    console.print(_books(rows))
    broken = [f"{row.store}, {row.fault}: {what}" for row in rows for what in row.broken]
    console.print("\n".join(broken) or "No promise is broken: nothing acknowledged is lost, nothing overspent, no secret seen.")


def _clients(rows: list[Row]) -> Table:
    table = Table(title="What was injected, and what clients saw of it")
    for name in ("store", "fault", "injected"):
        table.add_column(name)
    numbers = ("sent", "answered", "held back", "refused rightly", "503 of ours", "upstream's", "no Envoy")
    for name in (*numbers, "slowest refusal, s", "back after, s"):
        table.add_column(name, justify="right")
    for row in rows:
        counts = (row.sent, row.answered, row.held_back, row.refused, row.unavailable, row.upstream, row.no_answer)
        times = (f"{row.slowest_s:.2f}", f"{row.back_s:.2f}" if row.back_s >= 0 else "–")
        table.add_row(row.store, row.fault, row.injected, *map(str, counts), *times)
    return table


def _books(rows: list[Row]) -> Table:
    table = Table(title="What was lost")
    table.add_column("store")
    table.add_column("fault")
    names = ("upstream saw", "settled to the token", "estimate stands", "given back", "charged twice", "passed as declared")
    for name in (*names, "looks at the budget", "highest of its cap, %"):
        table.add_column(name, justify="right")
    table.add_column("promises broken")
    for row in rows:
        found = row.found
        counts = (found.upstream, found.settled, found.estimated, found.voided, found.twice, found.declared, found.looks)
        highest = f"{100 * found.highest / found.cap:.1f}"
        table.add_row(row.store, row.fault, *map(str, counts), highest, "; ".join(row.broken) or "none")
    return table


if __name__ == "__main__":
    sys.exit(main())
