"""`authz fmt`: policies as Cedar's own formatter writes them."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import click

from authz.cli import options, show
from authz.errors import ConfigError


@click.command()
@options.folder
@click.option("--check", "only_check", is_flag=True, help="Write nothing: list the files that would change, and exit 1.")
@options.as_json
def fmt(folder: Path, only_check: bool, as_json: bool) -> None:
    """Formats every *.cedar of a bundle in place. Comments stay, and what the policies say is proved to be the same.

    Exit 0, or with --check 1 where a file would change; 2 where a file does not parse, and then none is written.
    """
    changed = _changes(folder)
    for file, text in changed:
        if not only_check:
            _replace(file, text)
        if not as_json:
            click.echo(f"{'would format' if only_check else 'formatted'} {file}")
    if as_json:
        show.as_json({"changed": [str(file) for file, _ in changed], "written": not only_check})
    show.leave(findings=only_check and bool(changed))


def _changes(folder: Path) -> list[tuple[Path, str]]:
    """The files that are not formatted, with what they should be."""
    from authz.policy import CedarText
    from authz.policy.formatting import formatted
    from authz.yamlfile import read_text

    if not folder.is_dir():
        raise ConfigError(str(folder), "no such folder, expected that of a bundle")
    found: list[tuple[Path, str]] = []
    for file in sorted(folder.glob("*.cedar")):
        if file.name.startswith("."):
            continue
        before = read_text(file, str(file))
        after = formatted(CedarText(str(file), before))
        if after != before:
            found.append((file, after))
    return found


def _replace(file: Path, text: str) -> None:
    """All or nothing, for a sidecar may be watching; the name is a hidden one, which is no part of a bundle."""
    target = file.resolve()  # a link stays one
    draft = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        draft.write_text(text, encoding="utf-8", newline="")
        shutil.copymode(target, draft)
        os.replace(draft, target)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise ConfigError(str(file), f"cannot be written: {(error.strerror or str(error)).lower()}") from None
