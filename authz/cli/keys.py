"""`authz keys`: issue, list and revoke the secrets that stand for the bundle's keys."""

from __future__ import annotations

import secrets
import time
from datetime import UTC, datetime
from pathlib import Path

import click

from authz.cli import options


@click.group()
def keys() -> None:
    """Issue, list and revoke virtual keys."""


@keys.command()
@click.argument("key")
@options.config
@click.option("--days", type=click.IntRange(1, 3650), help="Expires after so many days; never by default.")
@click.option("--note", default="", help="For people: what it is for.")
def create(key: str, config: Path, days: int | None, note: str) -> None:
    """Issue a secret for KEY, a key of the directory, and print it: this once and never again."""
    from authz.bundle import load_bundle
    from authz.errors import ConfigError
    from authz.identity.keys import IssuedKey, digest, mint
    from authz.settings import read_settings
    from authz.store import open_store

    settings = read_settings(config)
    now_ns = time.time_ns()
    if load_bundle(Path(settings.bundle)).directory.principal(key, now_ns) is None:
        raise ConfigError(str(Path(settings.bundle) / "directory.yaml"), f"no key `{key}` in force, expected it under `keys`")
    secret = mint(secrets.choice)
    expires_ns = now_ns + days * 86_400 * 1_000_000_000 if days else 0
    store = open_store(settings.store)
    try:
        store.put_key(IssuedKey(digest(secret), key, now_ns, expires_ns, note=note))
    finally:
        store.close()
    click.echo(secret)


@keys.command("list")
@options.config
@options.as_json
def list_keys(config: Path, as_json: bool) -> None:
    """Every secret ever issued, by its digest."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from authz.settings import read_settings
    from authz.store import open_store

    store = open_store(read_settings(config).store)
    try:
        rows = store.keys_since(0)
    finally:
        store.close()
    if as_json:
        click.echo(msgspec.json.encode(rows))
        return
    table = Table("key", "digest", "created", "expires", "state", "note")
    for row in rows:
        state = "revoked" if row.revoked_ns else "expired" if 0 < row.expires_ns <= time.time_ns() else "active"
        table.add_row(row.key, row.digest[:12], _day(row.created_ns), _day(row.expires_ns), state, row.note)
    Console().print(table)


@keys.command()
@click.argument("digest")
@options.config
def revoke(digest: str, config: Path) -> None:
    """Revoke the secret with this DIGEST, or the start of it that `authz keys list` shows. In force within a second."""
    from authz.errors import ConfigError
    from authz.settings import read_settings
    from authz.store import open_store

    settings = read_settings(config)
    store = open_store(settings.store)
    try:
        found = [row.digest for row in store.keys_since(0) if digest and row.digest.startswith(digest)]
        if len(found) != 1:
            raise ConfigError(settings.store, f"{len(found)} keys whose digest begins with `{digest}`, expected one")
        changed = store.revoke_key(found[0], time.time_ns())
    finally:
        store.close()
    click.echo("revoked" if changed else "was revoked already")


def _day(time_ns: int) -> str:
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).date().isoformat() if time_ns else "never"
