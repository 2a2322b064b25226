"""`authz replay`: recorded decisions against a candidate bundle."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from authz.cli import options, show

if TYPE_CHECKING:
    from authz.bundle import Bundle
    from authz.review.replay import Change, Outcomes


_DAY_NS: Final = 86_400 * 10**9

days = click.option("--days", "last_days", type=click.IntRange(1, 3650), help="Only the records of so many days until now.")


@click.command()
@click.argument("records", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False, exists=True))
@click.option(
    "--bundle",
    "folder",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("policies"),
    show_default=True,
    help="The candidate.",
)
@days
@options.as_json
def replay(records: tuple[Path, ...], folder: Path, last_days: int | None, as_json: bool) -> None:
    """Decide what RECORDS hold again with another bundle, and report each decision that would change; exit 1 if any does.

    RECORDS are files that `records.file` of the settings names, of one sidecar or of several.
    """
    from authz.review import gate

    bundle = gate.load(folder)
    outcomes = run_replay(bundle, records, last_days, quiet=as_json)
    if as_json:
        show.as_json(document(outcomes))
    else:
        print_outcomes(outcomes)
    show.leave(findings=bool(outcomes.changed))


def run_replay(bundle: Bundle, records: tuple[Path, ...], last_days: int | None, *, quiet: bool) -> Outcomes:
    """With a progress bar on standard error, unless it is to be quiet or nobody looks."""
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

    from authz.review.recordfile import read_records, since
    from authz.review.replay import run

    columns = (TextColumn("replay"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=quiet, transient=True) as progress:
        task = progress.add_task("replay", total=sum(path.stat().st_size for path in records))
        read = read_records(records, lambda count: progress.advance(task, count))
        return run(bundle, since(read, time.time_ns() - last_days * _DAY_NS) if last_days else read)


def document(outcomes: Outcomes) -> dict[str, object]:
    changes = [
        {
            "team": change.team,
            "model": change.model,
            "before": change.before,
            "after": change.after,
            "by": change.by,
            "decisions": number,
            "examples": outcomes.examples[change],
        }
        for change, number in _ordered(outcomes)
    ]
    return {
        "decisions": outcomes.decisions,
        "judged": outcomes.judged,
        "changed": outcomes.changed.total(),
        "changes": changes,
        "spend": outcomes.spend,
    }


def print_outcomes(outcomes: Outcomes) -> None:
    from rich.markup import escape

    from authz.answers import usd

    console = show.console()
    console.print(
        f"{outcomes.decisions:,} decisions in the records, {outcomes.judged:,} of them a bundle's to make, "
        f"{outcomes.changed.total():,} would change"
    )
    if outcomes.changed:
        table = show.table("team", "model", "before", "after", "by", "decisions", "for example")
        for change, number in _ordered(outcomes):
            style = "red" if change.after == "allow" else "yellow"
            cells = (change.team, change.model, change.before, change.after, ", ".join(change.by))
            example = outcomes.examples[change][0][:12]
            table.add_row(*(escape(cell) for cell in cells), f"{number:,}", example, style=style)
        console.print(table)
    moved = {team: spend for team, spend in outcomes.spend.items() if spend.before_nanousd != spend.after_nanousd}
    if moved:
        table = show.table("team", "spent (USD)", "would have spent (USD)")
        for team, spend in sorted(moved.items()):
            table.add_row(escape(team), usd(spend.before_nanousd), usd(spend.after_nanousd))
        console.print(table)


def _ordered(outcomes: Outcomes) -> list[tuple[Change, int]]:
    """What is newly allowed first, then by how much there is of it."""
    return sorted(outcomes.changed.items(), key=lambda item: (item[0].after != "allow", -item[1], item[0].team, item[0].model))
