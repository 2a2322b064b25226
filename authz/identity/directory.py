"""Who there is: `directory.yaml`, read, cross-checked and resolved once, so that a decision only looks a principal up.

    organisation: {id: acme, name: Acme}
    roles:        {developer: {note: …}}
    teams:        {chatbot: {note: …, disabled: false}}
    users:        {ada: {teams: [chatbot], roles: [developer]}}
    keys:         {chatbot-prod: {team: chatbot, user: ada, roles: […], expires: 2027-03-31, digests: ["sha256:…"]}}
    issuers:      see authz/identity/issuers.py

The hierarchy has four levels by its types (key, user, team, organisation) and cannot grow deeper. A key acts in exactly one
team. A key of a user acts for the user *in that team*: it has the user's roles, or those of them that it lists, and never the
user's other teams.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from itertools import combinations
from typing import Annotated, Final, NamedTuple
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct

from authz.identity.issuers import IssuerRow, check_issuers
from authz.model import Principal, Uid
from authz.yamlfile import Source

Text = Annotated[str, Meta(max_length=500)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]

_PUNCTUATION: Final = frozenset("._@+-")
_DIGEST_PREFIX: Final = "sha256:"
_DIGEST_CHARS: Final = 64
_HEX: Final = frozenset("0123456789abcdef")
_SPIFFE: Final = re.compile(r"spiffe://[a-z0-9._-]+(?:/[A-Za-z0-9._-]+)+")
_SPIFFE_CHARS: Final = 2048
_COMBINED: Final = 3


class OrganisationRow(Struct, frozen=True, forbid_unknown_fields=True):
    id: Name
    name: Text = ""


class RoleRow(Struct, frozen=True, forbid_unknown_fields=True):
    note: Text = ""


class TeamRow(Struct, frozen=True, forbid_unknown_fields=True):
    """disabled  nobody acts in it: none of its keys, and none of its users"""

    disabled: bool = False
    note: Text = ""


class UserRow(Struct, frozen=True, forbid_unknown_fields=True):
    teams: tuple[Name, ...]
    roles: tuple[Name, ...] = ()
    disabled: bool = False
    note: Text = ""


class KeyRow(Struct, frozen=True, forbid_unknown_fields=True):
    """expires  the last day on which the key works, in the organisation's time zone
    digests  SHA-256 of secrets that are declared by pull request, not issued by the command line
    spiffe   identities of clients that come with a certificate: `spiffe://acme.example/ns/prod/sa/chatbot`
    """

    team: Name
    user: Name | None = None
    roles: tuple[Name, ...] | None = None
    expires: date | None = None
    disabled: bool = False
    digests: tuple[str, ...] = ()
    spiffe: tuple[str, ...] = ()
    note: Text = ""


class DirectoryFile(Struct, frozen=True, forbid_unknown_fields=True):
    organisation: OrganisationRow
    roles: dict[Name, RoleRow] = {}
    teams: dict[Name, TeamRow] = {}
    users: dict[Name, UserRow] = {}
    keys: dict[Name, KeyRow] = {}
    issuers: dict[Name, IssuerRow] = {}


class Member(NamedTuple):
    """A principal and for how long it may act: `expires_ns` is the first instant at which it may not, 0 for never."""

    principal: Principal
    disabled: bool
    expires_ns: int


class Directory(Struct, frozen=True):
    """The resolved directory. Look-ups are by exact text.

    keys     by id of the Key entity
    users    by id of the User entity, then by the team in which the user acts
    digests  lower-case hex SHA-256 of a declared secret → id of its key
    peers    SPIFFE id → id of the key that it stands for
    issuers  by what their tokens have for `iss`
    disabled_teams, disabled_users  by id
    """

    organisation: Uid
    name: str
    teams: tuple[Uid, ...]
    roles: tuple[Uid, ...]
    keys: dict[str, Member]
    users: dict[str, dict[str, Member]]
    digests: dict[str, str]
    peers: dict[str, str]
    issuers: dict[str, IssuerRow] = {}
    disabled_teams: frozenset[str] = frozenset()
    disabled_users: frozenset[str] = frozenset()

    def principal(self, key_id: str, now_ns: int) -> Principal | None:
        """Who a key stands for; None where it is unknown, disabled or expired, which a caller cannot tell apart."""
        return _active(self.keys.get(key_id), now_ns)

    def key_of_digest(self, digest: str) -> str | None:
        """The key that a declared secret stands for, by the lower-case hex SHA-256 of the secret."""
        return self.digests.get(digest)

    def principal_of_peer(self, spiffe_id: str, now_ns: int) -> Principal | None:
        """Who a client with this verified identity stands for."""
        key = self.peers.get(spiffe_id)
        return self.principal(key, now_ns) if key is not None else None

    def user(self, user_id: str, team_id: str, now_ns: int) -> Principal | None:
        """A user acting in one of their teams; None where there is no such user, not in that team, or disabled."""
        return _active(self.users.get(user_id, {}).get(team_id), now_ns)

    def acting(self, user_id: str, issuer: IssuerRow, groups: tuple[str, ...]) -> dict[str, Principal]:
        """A user whom an issuer vouches for, by each team in which they may act: by their groups, and by their own row."""
        rows = self.users.get(user_id, {})
        if user_id in self.disabled_users:
            return {}
        given = [issuer.groups[group] for group in groups]
        own = next((member.principal.roles for member in rows.values()), ())
        roles = tuple(dict.fromkeys((*own, *(Uid("Role", role) for row in given for role in row.roles))))
        teams = dict.fromkeys((*rows, *(team for row in given for team in row.teams)))
        uid = Uid("User", user_id)
        return {
            team: Principal(uid=uid, organisation=self.organisation, team=Uid("Team", team), user=uid, roles=roles)
            for team in teams
            if team not in self.disabled_teams
        }

    def guest(self, user_id: str, team_id: str, roles: tuple[str, ...]) -> Principal | None:
        """A user whom an issuer vouched for, as it was recorded: as far as the directory still has what that says."""
        team, uid = Uid("Team", team_id), Uid("User", user_id)
        if not self.issuers or user_id in self.disabled_users or team not in self.teams or team_id in self.disabled_teams:
            return None
        kept = tuple(role for role in self.roles if role.id in roles)
        return Principal(uid=uid, organisation=self.organisation, team=team, user=uid, roles=kept)

    def guests(self) -> Iterator[tuple[Principal, bool]]:
        """Who may come with a token beyond what `users` says, one for all who are alike, and whether their team is disabled.

        In each team that an issuer's groups give, or its users' own rows: with the roles that come with it, and with what other
        groups add to them, each alone and all together, and in every combination where they are few. Named after the issuer's
        prefix and the roles, with signs that no name has: `okta.*`, `okta.*+developer`.
        """
        for issuer in self.issuers.values():
            rows = [by_team for user, by_team in self.users.items() if issuer.groups and user.startswith(issuer.prefix)]
            own: dict[str, set[frozenset[str]]] = {}
            for member in (member for by_team in rows for member in by_team.values() if not member.disabled):
                own.setdefault(member.principal.team.id, set()).add(frozenset(role.id for role in member.principal.roles))
            owned = {frozenset[str](), *(roles for sets in own.values() for roles in sets)}
            added = _combined(tuple(dict.fromkeys(frozenset(row.roles) for row in issuer.groups.values() if row.roles)))
            for team in dict.fromkeys((*(team for row in issuer.groups.values() for team in row.teams), *own)):
                given = {frozenset(row.roles) | roles for row in issuer.groups.values() if team in row.teams for roles in owned}
                for roles in sorted({base | more for base in given | own.get(team, set()) for more in added}, key=sorted):
                    uid = Uid("User", "+".join((f"{issuer.prefix}*", *sorted(roles))))
                    known = tuple(role for role in self.roles if role.id in roles)
                    yield Principal(uid, self.organisation, Uid("Team", team), uid, known), team in self.disabled_teams

    def vouched(self, user_id: str) -> bool:
        """Whether an issuer can name this user and give a team, so that a row need not."""
        return any(
            user_id.startswith(issuer.prefix) and any(row.teams for row in issuer.groups.values())
            for issuer in self.issuers.values()
        )


def read_directory(source: Source, zone: ZoneInfo) -> Directory:
    """`zone` is the organisation's. Raises `ConfigError` at the first name, reference or digest that is not right."""
    rows = source.convert(DirectoryFile)
    _check_names(source, rows)
    check_issuers(source, rows.issuers, frozenset(rows.teams), frozenset(rows.roles))
    organisation = Uid("Org", rows.organisation.id)
    users = {user: _user(source, rows, organisation, user) for user in rows.users}
    keys = {key: _key(source, rows, organisation, zone, key) for key in rows.keys}
    return Directory(
        organisation=organisation,
        name=rows.organisation.name or rows.organisation.id,
        teams=tuple(Uid("Team", team) for team in rows.teams),
        roles=tuple(Uid("Role", role) for role in rows.roles),
        keys=keys,
        users=users,
        digests=_digests(source, rows),
        peers=_peers(source, rows),
        issuers={row.issuer: row for row in rows.issuers.values()},
        disabled_teams=frozenset(team for team, row in rows.teams.items() if row.disabled),
        disabled_users=frozenset(user for user, row in rows.users.items() if row.disabled),
    )


def _combined(sets: tuple[frozenset[str], ...]) -> set[frozenset[str]]:
    """What some of these make together: of few every choice, of many none, one or all."""
    sizes = range(len(sets) + 1) if len(sets) <= _COMBINED else (0, 1, len(sets))
    return {frozenset[str]().union(*some) for size in sizes for some in combinations(sets, size)}


def _active(member: Member | None, now_ns: int) -> Principal | None:
    if member is None or member.disabled or (member.expires_ns and now_ns >= member.expires_ns):
        return None
    return member.principal


def _user(source: Source, rows: DirectoryFile, organisation: Uid, user: str) -> dict[str, Member]:
    row = rows.users[user]
    roles = _known_roles(source, rows, row.roles, ("users", user, "roles"))
    for index, team in enumerate(row.teams):
        if team not in rows.teams:
            raise source.fail(("users", user, "teams", index), f"unknown team `{team}`, expected one of `teams`")
    uid = Uid("User", user)
    return {
        team: Member(
            Principal(uid=uid, organisation=organisation, team=Uid("Team", team), user=uid, roles=roles),
            row.disabled or rows.teams[team].disabled,
            0,
        )
        for team in row.teams
    }


def _key(source: Source, rows: DirectoryFile, organisation: Uid, zone: ZoneInfo, key: str) -> Member:
    row, at = rows.keys[key], ("keys", key)
    if row.team not in rows.teams:
        raise source.fail((*at, "team"), f"unknown team `{row.team}`, expected one of `teams`")
    roles = _known_roles(source, rows, row.roles or (), (*at, "roles"))
    disabled, user = row.disabled or rows.teams[row.team].disabled, None
    if row.user is not None:
        owner = rows.users.get(row.user)
        if owner is None:
            raise source.fail((*at, "user"), f"unknown user `{row.user}`, expected one of `users`")
        if row.team not in owner.teams:
            raise source.fail((*at, "team"), f"user `{row.user}` is not in team `{row.team}`")
        for index, role in enumerate(row.roles or ()):
            if role not in owner.roles:  # a key never has more than whom it acts for
                raise source.fail((*at, "roles", index), f"user `{row.user}` does not have role `{role}`")
        if row.roles is None:
            roles = tuple(Uid("Role", role) for role in owner.roles)
        disabled, user = disabled or owner.disabled, Uid("User", row.user)
    principal = Principal(uid=Uid("Key", key), organisation=organisation, team=Uid("Team", row.team), user=user, roles=roles)
    return Member(principal, disabled, _end_of(row.expires, zone) if row.expires else 0)


def _known_roles(source: Source, rows: DirectoryFile, roles: tuple[str, ...], at: tuple[str | int, ...]) -> tuple[Uid, ...]:
    for index, role in enumerate(roles):
        if role not in rows.roles:
            raise source.fail((*at, index), f"unknown role `{role}`, expected one of `roles`")
        if role in roles[:index]:
            raise source.fail((*at, index), f"role `{role}` stands twice")
    return tuple(Uid("Role", role) for role in roles)


def _digests(source: Source, rows: DirectoryFile) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, row in rows.keys.items():
        for index, text in enumerate(row.digests):
            at = ("keys", key, "digests", index)
            hexes = text.removeprefix(_DIGEST_PREFIX)
            if not text.startswith(_DIGEST_PREFIX) or len(hexes) != _DIGEST_CHARS or not _HEX.issuperset(hexes):
                raise source.fail(at, "expected `sha256:` and 64 lower-case hexadecimal digits, not the secret itself")
            if hexes in found:
                raise source.fail(at, f"this digest stands for key `{found[hexes]}` already")
            found[hexes] = key
    return found


def _peers(source: Source, rows: DirectoryFile) -> dict[str, str]:
    found: dict[str, str] = {}
    for key, row in rows.keys.items():
        for index, text in enumerate(row.spiffe):
            at = ("keys", key, "spiffe", index)
            if _SPIFFE.fullmatch(text) is None or len(text) > _SPIFFE_CHARS:
                raise source.fail(at, "expected an identity such as `spiffe://acme.example/ns/prod/sa/chatbot`")
            if text in found:
                raise source.fail(at, f"this identity stands for key `{found[text]}` already")
            found[text] = key
    return found


def _check_names(source: Source, rows: DirectoryFile) -> None:
    problem = bad_name(rows.organisation.id)
    if problem:
        raise source.fail(("organisation", "id"), problem)
    sections: tuple[tuple[str, Iterable[str]], ...] = (
        ("roles", rows.roles),
        ("teams", rows.teams),
        ("users", rows.users),
        ("keys", rows.keys),
        ("issuers", rows.issuers),
    )
    for section, entries in sections:
        for name in entries:
            problem = bad_name(name)
            if problem:
                raise source.fail((section, name), problem)


def bad_name(name: str) -> str | None:
    """What is wrong with an identifier, or None.

    Names end up in headers, file names, metrics and terminals. Everything treats them as data all the same; this only keeps
    them readable: ASCII letters, digits and `._@+-`, beginning with a letter or a digit.
    """
    if name.isascii() and name[:1].isalnum() and all(char.isalnum() or char in _PUNCTUATION for char in name):
        return None
    return f"name {name!r}: expected letters, digits and `._@+-`, beginning with a letter or a digit"


def _end_of(day: date, zone: ZoneInfo) -> int:
    try:
        after = datetime.combine(day + timedelta(days=1), time(), zone)
    except OverflowError:
        return 0  # 9999-12-31 has no day after it: the usual way to write "never"
    return int(after.timestamp()) * 1_000_000_000
