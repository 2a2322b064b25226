"""`authz test`: the bundle's own cases."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from authz.cli import options, show

if TYPE_CHECKING:
    from authz.review.suite import Report


@click.command()
@options.folder
@click.option("--coverage", is_flag=True, help="Also name the policies that decided nothing in any case; exit 1 if there are.")
@click.option("-v", "--verbose", is_flag=True, help="List the cases that passed, too.")
@options.as_json
def test(folder: Path, coverage: bool, verbose: bool, as_json: bool) -> None:
    """Run the cases in DIR/tests (DIR is `policies` by default). Exit 1 where one does not come out as expected."""
    from authz.review import gate, suite

    report = suite.run(gate.load(folder))
    if as_json:
        show.as_json(_document(report, coverage=coverage))
    else:
        _print(report, coverage=coverage, verbose=verbose)
    show.leave(findings=bool(report.failed) or (coverage and bool(report.undecided)))


def _document(report: Report, *, coverage: bool) -> dict[str, object]:
    import msgspec

    results = [
        {
            "name": result.case.name,
            "file": result.case.file,
            "line": result.case.line,
            "passed": not result.problems,
            **{field: getattr(result, field) for field in result.__struct_fields__ if field != "case"},
        }
        for result in report.results
    ]
    found: dict[str, object] = {
        "passed": len(report.results) - len(report.failed),
        "failed": len(report.failed),
        "cases": msgspec.to_builtins(results),
    }
    return {**found, "policies": report.policies, "undecided": report.undecided} if coverage else found


def _print(report: Report, *, coverage: bool, verbose: bool) -> None:
    console = show.console()
    for result in report.results:
        if result.problems:
            console.print(f"[red]FAIL[/] {_at(result.case.file, result.case.line)}", end="")
            console.print(f" {result.case.name}", markup=False)
            for problem in result.problems:
                console.print(f"     {problem}", markup=False)
        elif verbose:
            console.print("[green]ok[/]  ", end="")
            console.print(f" {result.case.name}", markup=False)
    if coverage:
        for name in report.undecided:
            console.print("[yellow]UNDECIDED[/]", end="")
            console.print(f" no case is decided by the policy `{name}`", markup=False)
        deciding = report.policies - len(report.undecided)
        console.print(
            f"{deciding} of {report.policies} policies decide a case", style="yellow" if report.undecided else "green"
        )
    failed = len(report.failed)
    console.print(f"{len(report.results) - failed} passed, {failed} failed", style="red" if failed else "green")


def _at(file: str, line: int) -> str:
    from rich.markup import escape

    return escape(f"{file}:{line}")
