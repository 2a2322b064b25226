"""`authz publish`: a reviewed bundle takes the place of the one in force."""

from __future__ import annotations

import time
from pathlib import Path

import click

from authz.cli import acting, options


@click.command()
@click.argument("new", type=click.Path(path_type=Path, file_okay=False, exists=True))
@options.config
@acting.as_user
@click.option("--why", required=True, help="For the record.")
def publish(new: Path, config: Path, user: str | None, why: str) -> None:
    """Put NEW, a bundle's folder, in the place of the settings' one, where the policies in force permit `policy.publish`.

    It is checked and tested first, and recorded with who and why. Running sidecars take it up by themselves. What was there
    before stays beside it as `….before`; where the settings' folder is a link, it is turned to a new folder.
    """
    from authz.bundle import load_bundle
    from authz.review import publishing
    from authz.settings import read_settings
    from authz.store import open_store

    if not why.strip():
        raise click.BadParameter("found nothing, expected words for the record", param_hint="--why")
    settings = read_settings(config)
    place = Path(settings.bundle)
    current = load_bundle(place)
    administrator = acting.administrator(settings, current, user, time.time_ns())
    store = open_store(settings.store, wait_s=5)
    try:
        published = publishing.publish(new, place, current, store, administrator, login=acting.login(), why=why)
    finally:
        store.close()
    click.echo("is in force already" if published is current else f"published {published.digest}")
