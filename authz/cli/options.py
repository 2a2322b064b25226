"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path

import click

config = click.option(
    "--config",
    "-c",
    "config",
    type=click.Path(path_type=Path, dir_okay=False),
    default=Path("authz.yaml"),
    show_default=True,
    help="The settings file.",
)
as_json = click.option("--json", "as_json", is_flag=True, help="JSON instead of a table.")
folder = click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default=Path("policies"), metavar="[DIR]")
"""A bundle's folder."""
