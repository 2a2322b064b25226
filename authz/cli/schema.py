"""`authz schema`: what policies can speak of, for editors."""

from __future__ import annotations

from pathlib import Path

import click

from authz.cli import options, show
from authz.errors import ConfigError


@click.command()
@options.folder
@click.option("--json", "as_json", is_flag=True, help="Actions, types and the fields of the context as JSON.")
def schema(folder: Path, as_json: bool) -> None:
    """The schema of a bundle, once it is known to be right and to fit what authz asks and sends."""
    from authz.bundle.files import SCHEMA
    from authz.policy import CedarText, SchemaMismatch, read_schema
    from authz.policy.outline import outline
    from authz.yamlfile import read_text

    file = folder / SCHEMA
    text = read_text(file, str(file))
    parsed = read_schema(CedarText(str(file), text))
    try:
        found = outline(parsed)
    except SchemaMismatch as error:
        raise ConfigError(str(file), str(error)) from None
    if as_json:
        show.as_json(found)
    else:
        click.echo(text, nl=not text.endswith("\n"))
