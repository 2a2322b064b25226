"""How commands show what they found: tables for people, JSON for machines, one exit code for both."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

import click
import msgspec

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

CLEAN: Final = 0
FINDINGS: Final = 1
CANNOT_RUN: Final = 2


def console() -> Console:
    """For tables: as wide as the terminal, and wide enough for a log where there is none."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 160)


def table(*headers: str, title: str | None = None, lines: bool = False) -> Table:
    """Whatever the terminal's width, nothing is cut off: a name without its end is no name. `lines` between the rows."""
    from rich import box
    from rich.table import Column, Table

    columns = (Column(header, overflow="fold") for header in headers)
    if console().width < _NARROW:
        return Table(*columns, title=title, show_lines=lines, box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    return Table(*columns, title=title, show_lines=lines)


_NARROW: Final = 100
"""Columns of a terminal below which a table has no frame."""


def as_json(value: object) -> None:
    click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2))


def leave(*, findings: bool) -> None:
    """Ends the command with 1 where there is something to look at."""
    if findings:
        sys.exit(FINDINGS)
