"""Options that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from authz.listening import Listen

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
workers = click.option(
    "--workers", type=click.IntRange(1, 64), help="How many processes serve, in place of the number in the settings."
)


def listens(listen: Listen, sockets: tuple[str, ...] = (), workers: int | None = None) -> tuple[Listen, ...]:
    """Where each process listens: as the settings say, or as the command line says instead of them."""
    from msgspec.structs import replace

    if sockets:
        return tuple(replace(listen, socket=str(Path(socket).resolve()), workers=1) for socket in sockets)
    return replace(listen, workers=workers or listen.workers).each()
