"""`authz keys`: issue, show, rotate and revoke the secrets that stand for the bundle's keys."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct, structs

from authz.cli import acting, options, show

if TYPE_CHECKING:
    from authz.administration import Administrator
    from authz.bundle import Bundle
    from authz.identity.issuing import Actor, Issuing
    from authz.identity.keys import IssuedKey
    from authz.model import Principal

_NS: Final = 1_000_000_000
_DAY_S: Final = 86_400
_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": _DAY_S}
_DURATION: Final = re.compile(r"(\d{1,6})([smhd])")
_SHOWN: Final = 12

_days = click.option("--days", type=click.IntRange(1, 3650), help="Expires after so many days.")
_why = click.option("--why", default="", help="For the record.")


class Row(Struct, frozen=True):
    """A secret, as commands show it; never the secret itself. Times are RFC 3339, empty where there is none.

    state  active, replaced (works until it expires), expired, revoked, orphaned (its key is not in force in the directory), or
           declared: it stands in the bundle, and is changed there
    roles  those of its key that it has; null for all of them
    """

    digest: str
    key: str
    team: str
    user: str
    state: str
    roles: tuple[str, ...] | None
    created: str
    created_by: str
    expires: str
    revoked: str
    last_used: str
    generation: int
    replaces: str
    replaced_by: str
    note: str


class _Desk(Struct):
    """What a command works with."""

    bundle: Bundle
    issuing: Issuing
    administrator: Administrator
    uses: dict[str, int]
    now_ns: int

    def principal(self, key: str) -> Principal | None:
        return self.bundle.directory.principal(key, self.now_ns)

    def actor(self, why: str) -> Actor:
        from authz.identity.issuing import Actor

        return Actor(str(self.administrator.uid), acting.login(), why)


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
    from authz.errors import ConfigError

    if roles and no_roles:
        raise click.UsageError("expected one of --role and --no-roles")
    with _opened(config, user) as desk:
        principal = desk.principal(key)
        if principal is None:
            raise ConfigError("directory.yaml", f"no key `{key}` in force, expected it under `keys`")
        chosen = roles or (() if no_roles else None)
        unknown = sorted(set(chosen or ()) - {role.id for role in principal.roles})
        if unknown:
            raise ConfigError("directory.yaml", f"key `{key}` does not have role `{unknown[0]}`")
        desk.administrator.require("key.create", principal.team)
        desk.administrator.require_no_more(principal, chosen)
        expires_ns = desk.now_ns + days * _DAY_S * _NS if days else 0
        issued = desk.issuing.issue(key, desk.actor(why), roles=chosen, expires_ns=expires_ns, note=note)
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
    from authz.identity.issuing import shown
    from authz.model import Uid

    overlap_ns = _duration_ns(overlap)
    with _opened(config, user) as desk:
        old = desk.issuing.find(secret)
        principal = _in_force(desk, old.key)
        desk.administrator.require("key.rotate", Uid("Key", old.key))
        desk.administrator.require_no_more(principal, old.roles)
        expires_ns = desk.now_ns + days * _DAY_S * _NS if days else None
        if expires_ns is not None and 0 < old.expires_ns - old.created_ns < expires_ns - desk.now_ns:
            desk.administrator.require("key.create", principal.team)  # a longer life is more than what was there to rotate
        issued = desk.issuing.rotate(old.digest, desk.actor(why), overlap_ns=overlap_ns, expires_ns=expires_ns)
        ends = shown(desk.issuing.find(old.digest).expires_ns)
    click.echo(issued.secret.reveal())
    click.echo(f"{old.digest[:_SHOWN]} works until {ends}", err=True)


@keys.command()
@click.argument("secret")
@options.config
@acting.as_user
@_why
def revoke(secret: str, config: Path, user: str | None, why: str) -> None:
    """Revoke SECRET: the start of a digest, or a key that has one secret in force. In force everywhere within a second."""
    from authz.model import Uid

    with _opened(config, user) as desk:
        old = desk.issuing.find(secret)
        directory = desk.bundle.directory
        if old.key in directory.keys:
            desk.administrator.require("key.revoke", Uid("Key", old.key))
        else:  # gone from the directory, and with it from its team
            desk.administrator.require("policy.publish", directory.organisation)
        changed = desk.issuing.revoke(old.digest, desk.actor(why))
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
        chosen = [
            row
            for row in desk.issuing.rows()
            if (key is None or row.key == key) and (every or as_json or row.in_force(desk.now_ns))
        ]
        seen = {name: desk.administrator.sees(name) for name in {row.key for row in chosen}}
        rows = [_row(desk, row) for row in chosen if seen[row.key]]
        rows += [row for row in _declared(desk) if key is None or row.key == key]
    if as_json:
        show.as_json(rows)
        return
    from rich.markup import escape
    from rich.table import Table

    table = Table("key", "team", "digest", "gen", "state", "created", "by", "expires", "last used", "roles", "note")
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
    from authz.administration import NotPermitted

    with _opened(config, user) as desk:
        found = desk.issuing.find(secret)
        if not desk.administrator.sees(found.key):
            raise NotPermitted(f'{desk.administrator.uid} may not `usage.read` on Key::"{found.key}"')
        by_digest = {row.digest: row for row in desk.issuing.rows()}
        first = found
        while first.replaces in by_digest:
            first = by_digest[first.replaces]
        chain = [first]
        while chain[-1].replaced_by in by_digest:
            chain.append(by_digest[chain[-1].replaced_by])
        rows = [_row(desk, row) for row in chain]
    if as_json:
        show.as_json(rows)
        return
    import msgspec

    for row in rows:
        for name, value in msgspec.to_builtins(row).items():
            click.echo(f"{name:12} {value if value not in ('', None) else '–'}")
        click.echo()


@contextmanager
def _opened(config: Path, user: str | None) -> Iterator[_Desk]:
    from authz.bundle import load_bundle
    from authz.identity.issuing import Issuing
    from authz.settings import read_settings
    from authz.store import open_store

    settings, now_ns = read_settings(config), time.time_ns()
    bundle = load_bundle(Path(settings.bundle))
    administrator = acting.administrator(settings, bundle, user, now_ns)
    store = open_store(settings.store, wait_s=5)
    try:
        issuing = Issuing(store, clock=time.time_ns, choice=secrets.choice)
        yield _Desk(bundle, issuing, administrator, store.key_uses(), now_ns)
    finally:
        store.close()


def _in_force(desk: _Desk, key: str) -> Principal:
    from authz.errors import ConfigError

    principal = desk.principal(key)
    if principal is None:
        raise ConfigError("directory.yaml", f"no key `{key}` in force, expected it under `keys`")
    return principal


def _row(desk: _Desk, row: IssuedKey) -> Row:
    from authz.identity.issuing import shown

    principal = desk.principal(row.key)
    return Row(
        digest=row.digest,
        key=row.key,
        team=principal.team.id if principal else "",
        user=principal.user.id if principal and principal.user else "",
        state=_state(row, desk.now_ns, known=principal is not None),
        roles=row.roles,
        created=shown(row.created_ns),
        created_by=row.created_by,
        expires=shown(row.expires_ns),
        revoked=shown(row.revoked_ns),
        last_used=shown(desk.uses.get(row.digest, 0)),
        generation=row.generation,
        replaces=row.replaces,
        replaced_by=row.replaced_by,
        note=row.note,
    )


def _declared(desk: _Desk) -> Iterator[Row]:
    """Secrets that stand in the bundle by their digests."""
    from authz.identity.keys import IssuedKey

    for digest, key in sorted(desk.bundle.directory.digests.items(), key=lambda pair: pair[::-1]):
        if desk.administrator.sees(key):
            yield structs.replace(_row(desk, IssuedKey(digest, key, 0)), state="declared", generation=0)


def _state(row: IssuedKey, now_ns: int, *, known: bool) -> str:
    if row.revoked_ns:
        return "revoked"
    if not row.in_force(now_ns):
        return "expired"
    if not known:
        return "orphaned"
    return "replaced" if row.replaced_by else "active"


def _duration_ns(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None:
        raise click.BadParameter(f"`{text}`, expected a number and one of s, m, h, d, such as `24h`", param_hint="--overlap")
    return int(match[1]) * _UNITS_S[match[2]] * _NS
