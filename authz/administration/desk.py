"""Keys, as a user may see and change them: every call asks the policies first, and nothing is shown that they do not permit."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from enum import StrEnum
from typing import Final

from msgspec import Struct

from authz.administration.administrator import PUBLISH, Administrator, NotPermitted
from authz.bundle import Bundle
from authz.identity.issuing import Actor, Issued, Issuing, Unfit, shown
from authz.identity.keys import IssuedKey
from authz.model import Principal, Uid

_UNITS_S: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}
_DURATION: Final = re.compile(r"(\d{1,6})([smhd])", re.ASCII)


def duration_ns(text: str) -> int:
    """A time such as `24h`, in nanoseconds. Raises `ValueError`."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError(f"`{text}`, expected a number and one of s, m, h, d, such as `24h`")
    return int(match[1]) * _UNITS_S[match[2]] * 1_000_000_000


class State(StrEnum):
    ACTIVE = "active"
    REPLACED = "replaced"
    """Another has taken over, and it works until it expires."""
    EXPIRED = "expired"
    REVOKED = "revoked"
    ORPHANED = "orphaned"
    """Its key is not in force in the directory, and so neither is it."""
    DECLARED = "declared"
    """It stands in the bundle by its digest, and is changed there."""


class SecretRow(Struct, frozen=True):
    """A secret as it may be shown; never the secret itself. Times are RFC 3339, empty where there is none.

    roles  those of its key that it has; null for all of them
    """

    digest: str
    key: str
    team: str
    user: str
    state: State
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


class Rotated(Struct, frozen=True):
    """old: the digest of the one that was replaced · ends: when that stops working, RFC 3339"""

    issued: Issued
    old: str
    ends: str


class KeyDesk:
    """Made for one command or one request; `issuing` may live as long as the process.

    uses   when secrets were used last: `store.key_uses()`
    login  who is behind it outside the directory: the operating system's user, or the page's own name
    Every method raises `NotPermitted`, `Unfit` for what cannot be done to this key or secret, and `StoreUnavailable`.
    """

    def __init__(
        self, bundle: Bundle, issuing: Issuing, administrator: Administrator, uses: Mapping[str, int], *, login: str
    ) -> None:
        self._directory, self._issuing, self._administrator = bundle.directory, issuing, administrator
        self._uses, self._login, self._now_ns = uses, login, administrator.now_ns

    def create(
        self, key: str, *, roles: tuple[str, ...] | None = None, life_ns: int = 0, note: str = "", why: str = ""
    ) -> Issued:
        """A secret for a key of the directory. `roles` of it, None for all; a life of 0 is without end."""
        principal = self._in_force(key)
        unknown = sorted(set(roles or ()) - {role.id for role in principal.roles})
        if unknown:
            raise Unfit(f"key `{key}` does not have role `{unknown[0]}`")
        self._administrator.require("key.create", principal.team)
        self._administrator.require_no_more(principal, roles)
        return self._issuing.issue(key, self._actor(why), roles=roles, life_ns=life_ns, note=note)

    def rotate(self, name: str, *, overlap_ns: int, life_ns: int | None = None, why: str = "") -> Rotated:
        """A secret that takes over from another, which is named by the start of its digest or as its key's only one.

        life_ns  None for as long a life as the old one was given. A longer one is more than what there was to rotate, and
                 takes whoever may create.
        """
        old = self._issuing.find(name)
        principal = self._in_force(old.key)
        self._administrator.require("key.rotate", Uid("Key", old.key))
        self._administrator.require_no_more(principal, old.roles)
        if life_ns is not None and old.life_ns and not 0 < life_ns <= old.life_ns:
            self._administrator.require("key.create", principal.team)
        issued = self._issuing.rotate(old.digest, self._actor(why), overlap_ns=overlap_ns, life_ns=life_ns)
        return Rotated(issued, old.digest, shown(self._issuing.find(old.digest).expires_ns))

    def revoke(self, name: str, *, why: str = "") -> bool:
        """False where it was revoked before."""
        old = self._issuing.find(name)
        if old.key in self._directory.keys:
            self._administrator.require("key.revoke", Uid("Key", old.key))
        else:  # gone from the directory, and with it from its team
            self._administrator.require(PUBLISH, self._directory.organisation)
        return self._issuing.revoke(old.digest, self._actor(why))

    def rows(self, key: str | None = None, *, every: bool = False) -> list[SecretRow]:
        """Those in force, or every one there was, that the user may see; the oldest first, then those of the bundle."""
        chosen = [
            row for row in self._issuing.rows() if (key is None or row.key == key) and (every or row.in_force(self._now_ns))
        ]
        declared = [each for each in self._declared() if key is None or each.key == key]
        seen = {name: self._administrator.sees(name) for name in {row.key for row in (*chosen, *declared)}}
        found = [self._row(row, self._state(row)) for row in chosen if seen[row.key]]
        return found + [self._row(row, State.DECLARED) for row in declared if seen[row.key]]

    def history(self, name: str) -> list[SecretRow]:
        """A secret with every one that it replaced or that replaced it, the first one first."""
        first = found = self._issuing.find(name)
        if not self._administrator.sees(found.key):
            raise NotPermitted(f"{self._administrator.uid} may not `usage.read` on {Uid('Key', found.key)}")
        by_digest = {row.digest: row for row in self._issuing.rows()}
        while first.replaces in by_digest:
            first = by_digest[first.replaces]
        chain = [first]
        while chain[-1].replaced_by in by_digest:
            chain.append(by_digest[chain[-1].replaced_by])
        return [self._row(row, self._state(row)) for row in chain]

    def _actor(self, why: str) -> Actor:
        return Actor(str(self._administrator.uid), self._login, why)

    def _in_force(self, key: str) -> Principal:
        principal = self._directory.principal(key, self._now_ns)
        if principal is None:
            raise Unfit(f"no key `{key}` in force in the directory, expected one of `keys`")
        return principal

    def _declared(self) -> Iterator[IssuedKey]:
        for digest, key in sorted(self._directory.digests.items(), key=lambda pair: pair[::-1]):
            yield IssuedKey(digest, key, 0, generation=0)

    def _state(self, row: IssuedKey) -> State:
        if row.revoked_ns:
            return State.REVOKED
        if not row.in_force(self._now_ns):
            return State.EXPIRED
        if self._directory.principal(row.key, self._now_ns) is None:
            return State.ORPHANED
        return State.REPLACED if row.replaced_by else State.ACTIVE

    def _row(self, row: IssuedKey, state: State) -> SecretRow:
        principal = self._directory.principal(row.key, self._now_ns)
        return SecretRow(
            digest=row.digest,
            key=row.key,
            team=principal.team.id if principal else "",
            user=principal.user.id if principal and principal.user else "",
            state=state,
            roles=row.roles,
            created=shown(row.created_ns),
            created_by=row.created_by,
            expires=shown(row.expires_ns),
            revoked=shown(row.revoked_ns),
            last_used=shown(self._uses.get(row.digest, 0)),
            generation=row.generation,
            replaces=row.replaces,
            replaced_by=row.replaced_by,
            note=row.note,
        )
