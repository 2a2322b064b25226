"""`authz audit`: who changed which key or budget, when and why; and whether the record of it still holds."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from authz.cli import acting, options, show

if TYPE_CHECKING:
    from authz.audit import AuditStore, Fact, Head

_PAGE: Final = 1_000


@click.group()
def audit() -> None:
    """List the changes of keys and budgets, and verify that none was altered."""


@audit.command("list")
@options.config
@acting.as_user
@click.option("--subject", help='Only of this one, such as `Key::"chatbot-prod"`.')
@options.as_json
def list_entries(config: Path, user: str | None, subject: str | None, as_json: bool) -> None:
    """Every change, the oldest first."""
    from authz.audit import entries
    from authz.bundle import load_bundle
    from authz.errors import ConfigError
    from authz.settings import read_settings
    from authz.store import open_store

    settings = read_settings(config)
    bundle = load_bundle(Path(settings.bundle))
    acting.administrator(settings, bundle, user, time.time_ns()).require("usage.read", bundle.directory.organisation)
    store = open_store(settings.store)
    try:
        found = [entry for entry in entries(_kept(store)) if subject is None or entry.subject == subject]
    except ValueError as error:
        raise ConfigError("the audit chain", f"{error}; `authz audit verify` says where") from None
    finally:
        store.close()
    if as_json:
        show.as_json(found)
        return
    from rich.markup import escape

    table = show.table("no", "time", "who", "login", "what", "subject", "before → after", "why")
    for entry in found:
        names = dict.fromkeys([*entry.before, *entry.after])
        changed = [
            f"{name}: {_short(entry.before.get(name))} → {_short(entry.after.get(name))}"
            for name in names
            if entry.before.get(name) != entry.after.get(name)
        ]
        cells = (str(entry.number), entry.at, entry.who, entry.login, entry.what, entry.subject, "\n".join(changed), entry.why)
        table.add_row(*map(escape, cells))
    show.console().print(table)


@audit.command()
@options.config
@click.option("--head", "expected", help="What an earlier `authz audit verify` printed: it has to be in the chain still.")
def verify(config: Path, expected: str | None) -> None:
    """Follow the chain from its beginning.

    Exits with 1 where an entry was altered, left out, put between or cut off, or where a budget was changed without one.
    """
    from authz.audit import Broken, Head, entries
    from authz.audit import verify as follow
    from authz.settings import read_settings
    from authz.store import open_store

    told: set[Fact] = set()
    noted = _head(expected) if expected is not None else Head()
    store = open_store(read_settings(config).store)
    last = Head()
    seen = not noted.number
    try:
        while page := store.audit_since(last.number, _PAGE):
            for body in page:
                found = follow((body,), last)
                if isinstance(found, Broken):
                    click.echo(f"broken at entry {found.number}: {found.problem}")
                    show.leave(findings=True)
                    return
                last = found
                told.update(entry.after.get("raise") for entry in entries((body,)))
                seen = seen or last == noted
        untold = [each for each in store.raises(0) if each.id not in told]
    finally:
        store.close()
    if untold:
        click.echo(f"{len(untold)} changes of budgets are on no entry, the first by {untold[0].who} on {untold[0].scope}")
        show.leave(findings=True)
    if not seen:
        click.echo(f"entry {noted.number} is not the one that was noted: the chain was cut off or written anew")
        show.leave(findings=True)
        return
    click.echo(f"{last.number} entries hold; head {last.number}:{last.hash}")


def _kept(store: AuditStore) -> Iterator[bytes]:
    number = 0
    while page := store.audit_since(number, _PAGE):
        yield from page
        number += len(page)


def _head(text: str) -> Head:
    from authz.audit import Head

    number, separator, value = text.partition(":")
    if not separator or not number.isascii() or not number.isdigit() or not value:
        raise click.BadParameter(f"`{text}`, expected NUMBER:HASH as `authz audit verify` prints it", param_hint="--head")
    return Head(int(number), value)


def _short(fact: Fact) -> str:
    if fact is None or fact == "":
        return "–"
    text = ", ".join(fact) if isinstance(fact, tuple) else str(fact)
    return f"{text[:12]}…" if len(text) == 64 else text
