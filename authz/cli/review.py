"""`authz review`: a pull request to a bundle, in one command."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from authz.cli import options, show
from authz.cli.check import print_checked
from authz.cli.diff import print_diff
from authz.cli.replay import days, document, print_outcomes, run_replay

if TYPE_CHECKING:
    from authz.review.replay import Outcomes

_FOLDER = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("old", type=_FOLDER)
@click.argument("new", type=_FOLDER)
@click.option(
    "--records",
    "-r",
    multiple=True,
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    help="Decision records to replay against NEW; may be given several times.",
)
@days
@options.as_json
def review(old: Path, new: Path, records: tuple[Path, ...], last_days: int | None, as_json: bool) -> None:
    """What a reviewer of a change from OLD to NEW needs: `check` of NEW, `diff`, and `replay` of what was decided lately.

    Exit 0 where the check is clean and nothing changes, 1 where there is something to look at.
    """
    from authz.review import access, gate
    from authz.review.check import check
    from authz.review.diff import compare

    checked = check(new, time.time_ns())
    if not checked.bundle:  # what does not load can be neither compared nor asked
        if as_json:
            show.as_json({"check": checked, "diff": None, "replay": None})
        else:
            print_checked(checked)
        show.leave(findings=True)
    compared = compare(access.load(old), access.load(new))
    outcomes = run_replay(gate.load(new), records, last_days, quiet=as_json) if records else None
    if as_json:
        show.as_json({"check": checked, "diff": compared, "replay": document(outcomes) if outcomes else None})
    else:
        _title("Check")
        print_checked(checked)
        _title("Diff")
        print_diff(show.console(), compared)
        _print_replay(outcomes)
    show.leave(findings=not checked.clean or compared.differs or bool(outcomes and outcomes.changed))


def _print_replay(outcomes: Outcomes | None) -> None:
    _title("Replay")
    if outcomes is None:
        click.echo("no records given: `--records FILE` shows which decisions would change")
    else:
        print_outcomes(outcomes)


def _title(text: str) -> None:
    show.console().rule(f"[bold]{text}", align="left")
