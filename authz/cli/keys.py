"""`authz keys`: issue, show, rotate and revoke the secrets that stand for the bundle's keys."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from authz.cli import acting, options, show

if TYPE_CHECKING:
    from authz.administration import KeyDesk

_DAY_NS: Final = 86_400 * 1_000_000_000
_SHOWN: Final = 12

_days = click.option("--days", type=click.IntRange(1, 3650), help="Expires after so many days.")
_why = click.option("--why", default="", help="For the record.")


@click.group()
def keys() -> None:
    """Issue, show, rotate and revoke virtual keys."""


@keys.command()
@click.argument("key")
@options.config
@acting.as_user
@_days
@click.option("--role", "roles", multiple=True, help="Only this role of KEY, and those named likewise; all by default.")
@click.option("--no-roles", is_flag=True, help="None of the roles of KEY.")
@click.option("--note", default="", help="For people: what it is for.")
@_why
def create(
    key: str, config: Path, user: str | None, days: int | None, roles: tuple[str, ...], no_roles: bool, note: str, why: str
) -> None:
    """Issue a secret for KEY, a key of the directory, and print it: this once and never again."""
    if roles and no_roles:
        raise click.UsageError("expected one of --role and --no-roles")
    with _opened(config, user) as desk:
        chosen = roles or (() if no_roles else None)
        issued = desk.create(key, roles=chosen, life_ns=(days or 0) * _DAY_NS, note=note, why=why)
    click.echo(issued.secret.reveal())


@keys.command()
@click.argument("secret")
@options.config
@acting.as_user
@click.option(
    "--overlap", default="24h", show_default=True, help="How long the old one works on, such as `90s`, `30m`, `24h`, `7d`."
)
@_days
@_why
def rotate(secret: str, config: Path, user: str | None, overlap: str, days: int | None, why: str) -> None:
    """Issue a secret that takes over from SECRET, and print it: this once and never again.

    SECRET is the start of a digest, or a key that has one secret in force. The old one works on until the overlap is over, and
    says so to whoever still uses it. Without --days the new one gets as long a life as the old one was given.
    """
    from authz.administration.desk import duration_ns

    try:
        overlap_ns = duration_ns(overlap)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--overlap") from None
    with _opened(config, user) as desk:
        rotated = desk.rotate(secret, overlap_ns=overlap_ns, life_ns=days * _DAY_NS if days else None, why=why)
    click.echo(rotated.issued.secret.reveal())
    click.echo(f"{rotated.old[:_SHOWN]} works until {rotated.ends}", err=True)


@keys.command()
@click.argument("secret")
@options.config
@acting.as_user
@_why
def revoke(secret: str, config: Path, user: str | None, why: str) -> None:
    """Revoke SECRET: the start of a digest, or a key that has one secret in force. In force everywhere within a second."""
    with _opened(config, user) as desk:
        changed = desk.revoke(secret, why=why)
    click.echo("revoked" if changed else "was revoked already")


@keys.command("list")
@click.argument("key", required=False)
@options.config
@acting.as_user
@click.option("--all", "every", is_flag=True, help="Also those that are expired or revoked.")
@options.as_json
def list_keys(key: str | None, config: Path, user: str | None, every: bool, as_json: bool) -> None:
    """Every secret in force that you may see, or those of KEY, by digest."""
    with _opened(config, user) as desk:
        rows = desk.rows(key, every=every or as_json)
    if as_json:
        show.as_json(rows)
        return
    from rich.markup import escape

    table = show.table("key", "team", "digest", "gen", "state", "created", "by", "expires", "last used", "roles", "note")
    for row in rows:
        cells = (row.key, row.team, row.digest[:_SHOWN], str(row.generation), row.state, row.created[:10], row.created_by)
        roles = "all" if row.roles is None else ", ".join(row.roles) or "none"
        table.add_row(*map(escape, (*cells, row.expires or "never", row.last_used or "never", roles, row.note)))
    show.console().print(table)


@keys.command("show")
@click.argument("secret")
@options.config
@acting.as_user
@options.as_json
def show_key(secret: str, config: Path, user: str | None, as_json: bool) -> None:
    """SECRET and every one that it replaced or that replaced it, the first one first."""
    with _opened(config, user) as desk:
        rows = desk.history(secret)
    if as_json:
        show.as_json(rows)
        return
    import msgspec

    for row in rows:
        for name, value in msgspec.to_builtins(row).items():
            click.echo(f"{name:12} {value if value not in ('', None) else '–'}")
        click.echo()


@contextmanager
def _opened(config: Path, user: str | None) -> Iterator[KeyDesk]:
    from authz.administration import KeyDesk
    from authz.bundle import load_bundle
    from authz.identity.issuing import Issuing
    from authz.settings import read_settings
    from authz.store import open_store

    settings = read_settings(config)
    bundle = load_bundle(Path(settings.bundle))
    administrator = acting.administrator(settings, bundle, user, time.time_ns())
    store = open_store(settings.store, wait_s=5)
    try:
        issuing = Issuing(store, clock=time.time_ns, choice=secrets.choice)
        yield KeyDesk(bundle, issuing, administrator, store.key_uses(), login=acting.login())
    finally:
        store.close()
