"""`authz prices sync`: what the upstream's list of models says that the price book does not."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from authz.cli import options, show

if TYPE_CHECKING:
    from authz.settings import Settings

_TIMEOUT_S: Final = 10.0
_PATH: Final = "/openai/v1/models"


@click.group()
def prices() -> None:
    """The price book, and what the upstream says of prices."""


@prices.command()
@options.config
@click.option(
    "--upstream", "name", default="", help="The upstream key to ask with, by its name in the settings; else the first."
)
@options.as_json
def sync(config: Path, name: str, as_json: bool) -> None:
    """Ask the upstream for its models and propose a change of models.yaml, as a diff to review. Writes nothing.

    Exit 0: nothing to propose; 1: proposals; 2: the upstream or the price book cannot be read.
    """
    from authz.bundle import files
    from authz.errors import ConfigError
    from authz.inference.pricebook import read_pricebook
    from authz.review import pricesync
    from authz.settings import read_settings
    from authz.yamlfile import parse_yaml, read_text

    settings = read_settings(config)
    path = Path(settings.bundle) / files.MODELS
    text = read_text(path, str(path))
    book = read_pricebook(parse_yaml(text, str(path)))
    body, where = _fetch(settings, name, pricesync.MAX_BYTES)
    proposals = pricesync.compare(book, pricesync.read_list(body, where))
    today = datetime.fromtimestamp(time.time(), UTC).date().isoformat()
    problem = diff = ""
    try:
        diff = pricesync.difference(text, pricesync.edited(text, str(path), proposals, today), files.MODELS)
    except ConfigError as error:  # the two do not go together: what differs is told all the same
        problem = error.problem
    if as_json:
        show.as_json({"proposals": proposals, "diff": diff, "problem": problem})
    else:
        for each in proposals:
            what = " ".join(filter(None, [each.sort.value, each.model, each.field]))
            click.echo(what + (f": {each.ours} -> {each.theirs}" if each.ours else f": {each.theirs}" if each.theirs else ""))
        if problem:
            click.echo(f"no diff can be made of this: {problem}")
        click.echo(diff, nl=False)
    show.leave(findings=bool(proposals))


def _fetch(settings: Settings, name: str, most: int) -> tuple[bytes, str]:
    """The upstream's answer, within bounds, and where it came from. Raises `ConfigError`; never shows the key."""
    import httpx

    from authz.compose import upstream_sources
    from authz.errors import ConfigError
    from authz.identity.issuers import is_safe
    from authz.identity.upstream import Upstreams

    upstream = settings.upstream
    sources = [source for source in upstream_sources(upstream) if name in ("", source.name)]
    if not sources:
        raise ConfigError("upstream.keys", f"no key is called `{name}`")
    team = sources[0].teams[0] if sources[0].teams else ""
    key = Upstreams((sources[0],), os.environ).find(team, 0)
    if key is None:
        raise ConfigError("upstream", f"the key `{sources[0].name}` is not set")
    address = upstream.url + _PATH
    if not is_safe(address):
        raise ConfigError(address, "expected https: the upstream key would travel in the clear")
    headers = {"authorization": f"Bearer {key.secret.reveal()}", "accept": "application/json"}
    body = b""
    try:
        with httpx.stream("GET", address, timeout=_TIMEOUT_S, follow_redirects=False, headers=headers) as answer:
            if answer.status_code != httpx.codes.OK:
                raise ConfigError(address, f"status {answer.status_code}, expected a list of models")
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > most:
                    raise ConfigError(address, f"more than {most} bytes, expected a list of models")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise ConfigError(address, f"no answer: {type(error).__name__}") from None
    return body, address
