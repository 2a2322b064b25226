"""`authz check`: what a pull request to a bundle has to pass."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from authz.cli import options, show

if TYPE_CHECKING:
    from authz.review.check import Checked
    from authz.review.findings import Finding

_COLOURS: Final = {"error": "red", "warning": "yellow", "note": "cyan"}
_MAX_EXCERPT: Final = 300


@click.command()
@options.folder
@click.option("--envoy", type=click.Path(path_type=Path, dir_okay=False), help="Check this Envoy configuration instead.")
@options.as_json
def check(folder: Path, envoy: Path | None, as_json: bool) -> None:
    """Errors, suspicious policies and failed cases of a bundle; or with `--envoy`, how an Envoy configuration goes round it.

    Exit 0 where there are none (notes do not count), 1 where there are, 2 where there is no such folder.
    """
    from authz.review.check import check as run

    if envoy is not None:
        _check_envoy(envoy, as_json)
        return
    checked = run(folder, time.time_ns())
    if as_json:
        show.as_json(checked)
    else:
        print_checked(checked)
    show.leave(findings=not checked.clean)


def _check_envoy(file: Path, as_json: bool) -> None:
    from authz.envoy.inspection import inspect

    findings = inspect(file)
    if as_json:
        show.as_json({"findings": findings})
    else:
        for finding in findings:
            click.echo(shown(finding))
        click.echo(_counted(len(findings), "way round", "ways round") if findings else "nothing goes round")
    show.leave(findings=bool(findings))


def print_checked(checked: Checked) -> None:
    for finding in checked.findings:
        click.echo(shown(finding))
    click.echo(summary(checked))


def shown(finding: Finding) -> str:
    """As compilers do: place, severity, rule and message; then the line and a caret under the place."""
    from rich.cells import cell_len

    where = f"{finding.file}:{finding.line}:{finding.column}" if finding.line else finding.file
    label = click.style(f"{finding.severity.value}[{finding.rule}]", fg=_COLOURS[finding.severity.value], bold=True)
    head = f"{click.style(_plain(where), bold=True)}: {label}: {_plain(finding.message)}"
    excerpt = _plain(finding.excerpt)
    if not excerpt.strip() or len(excerpt) > _MAX_EXCERPT:
        return head
    caret = " " * cell_len(excerpt[: max(0, finding.column - 1)]) + click.style("^", fg="green", bold=True)
    return f"{head}\n    {excerpt}\n    {caret}"


def summary(checked: Checked) -> str:
    """One line: `4 policies, 22 cases passed, 1 warning`."""
    from authz.review.findings import Severity

    parts: list[str] = []
    if checked.bundle:
        passed = checked.cases - checked.failed
        cases = f"{passed} of {_counted(checked.cases, 'case')}" if checked.failed else _counted(checked.cases, "case")
        parts = [_counted(checked.policies, "policy", "policies"), f"{cases} passed"]
    counts = ((checked.count(severity), severity.value) for severity in Severity)
    return ", ".join([*parts, *(_counted(number, word) for number, word in counts if number)])


def _counted(number: int, word: str, plural: str = "") -> str:
    return f"{number:,} {word if number == 1 else plural or f'{word}s'}"


def _plain(text: str) -> str:
    """On one line and without what a terminal would obey: a file's text is not ours."""
    return "".join(char if char.isprintable() else " " if char.isspace() else "\N{REPLACEMENT CHARACTER}" for char in text)
