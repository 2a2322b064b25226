"""Secrets are issued, rotated and revoked here, each with its entry in the audit chain: neither is written without the other.

A rotation issues a second secret for the same key and lets the first one work on for a stated time. What a request is charged
to, seen as and recorded under is the key, never the secret: one identity, one budget and one history throughout.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final

from msgspec import Struct, structs

from authz import audit
from authz.clock import Clock
from authz.errors import AuthzError, StoreUnavailable
from authz.identity import keys
from authz.identity.keys import IssuedKey, KeyStore
from authz.model import Secret, Uid

_ATTEMPTS: Final = 20
_SHOWN: Final = 12

Planned = tuple[tuple[IssuedKey, ...], audit.Facts, audit.Facts]
"""Rows to keep, and what was before and is after."""


def record(store: KeyStore, plan: Callable[[], tuple[tuple[IssuedKey, ...], audit.Act] | None]) -> bool:
    """Adds an act to the audit chain, with the rows that it tells of. `plan` is asked again whenever somebody else was faster.

    False where it plans nothing. Raises `StoreUnavailable`.
    """
    for _ in range(_ATTEMPTS):
        last = audit.head(store)
        planned = plan()
        if planned is None:
            return False
        rows, act = planned
        if store.change(*audit.following(last, act), rows):
            return True
    raise StoreUnavailable("too many others change keys at the same moment")


class Unfit(AuthzError):
    """The secret is not one to which this can be done; `str()` says why."""


class Actor(Struct, frozen=True):
    """who: in the directory, as Cedar writes it · login: the operating system's user · why: in their own words"""

    who: str
    login: str
    why: str = ""


class Issued(Struct, frozen=True):
    """A new secret, which nobody can be shown again, and its row."""

    secret: Secret
    row: IssuedKey


class Issuing:
    """Changes issued keys. Safe beside others that do the same; every method raises `StoreUnavailable`.

    choice  picks one character at random: `secrets.choice` outside tests
    """

    def __init__(self, store: KeyStore, *, clock: Clock, choice: Callable[[str], str]) -> None:
        self._store, self._clock, self._choice = store, clock, choice
        self._rows: dict[str, IssuedKey] = {}
        self._sequence = 0

    def rows(self) -> tuple[IssuedKey, ...]:
        """Every secret ever issued, in the order in which they were."""
        self._read()
        return tuple(sorted(self._rows.values(), key=lambda row: (row.created_ns, row.sequence)))

    def find(self, name: str) -> IssuedKey:
        """The only one in force of the key of that name, or where there is no such key the one whose digest begins so.

        A key may be called `cafe`: its name is never taken for the start of somebody else's digest. Raises `Unfit`.
        """
        rows, now_ns = self.rows(), self._clock()
        of_key = [row for row in rows if row.key == name]
        if of_key:
            found = [row for row in of_key if row.in_force(now_ns)]
        else:
            found = [row for row in rows if name and row.digest.startswith(name)]
        if len(found) != 1:
            these = f": {', '.join(row.digest[:_SHOWN] for row in found)}" if found else ""
            kind = "secrets in force of key" if of_key else "secrets whose digest begins with"
            raise Unfit(f"{len(found)} {kind} `{name}`, expected one{these}")
        return found[0]

    def issue(
        self, key: str, actor: Actor, *, roles: tuple[str, ...] | None = None, life_ns: int = 0, note: str = ""
    ) -> Issued:
        """A first secret, or one more, for a key of the directory. A life of 0 is without end."""
        secret, now_ns = keys.mint(self._choice), self._clock()
        expires_ns = now_ns + life_ns if life_ns else 0
        row = IssuedKey(keys.digest(secret), key, now_ns, expires_ns, note=note, created_by=actor.who, roles=roles)
        self._change("key.create", key, actor, lambda: ((row,), {}, facts(row)))
        return Issued(Secret(secret), row)

    def rotate(self, digest: str, actor: Actor, *, overlap_ns: int, life_ns: int | None = None) -> Issued:
        """A secret that takes over from another, which works on for `overlap_ns` at most.

        life_ns  of the new one, 0 without end; None gives it as long a life as the old one was given
        Raises `Unfit`: a secret that is revoked, expired or replaced already has no successor.
        """
        secret, now_ns = keys.mint(self._choice), self._clock()
        made: list[IssuedKey] = []

        def plan() -> Planned:
            old = self._kept(digest)
            if old.replaced_by:
                raise Unfit(f"secret `{digest[:_SHOWN]}` is replaced by `{old.replaced_by[:_SHOWN]}`, expected the newest one")
            if not old.in_force(now_ns):
                raise Unfit(f"secret `{digest[:_SHOWN]}` is revoked or expired, expected one in force: create a new one")
            lives_ns = old.life_ns if life_ns is None else life_ns
            new = structs.replace(
                old,
                digest=keys.digest(secret),
                created_ns=now_ns,
                expires_ns=now_ns + lives_ns if lives_ns else 0,
                sequence=0,
                created_by=actor.who,
                generation=old.generation + 1,
                replaces=old.digest,
            )
            ends_ns = min(old.expires_ns or now_ns + overlap_ns, now_ns + overlap_ns)
            made[:] = [new]
            return (structs.replace(old, expires_ns=ends_ns, replaced_by=new.digest), new), facts(old), facts(new)

        self._change("key.rotate", self._kept(digest).key, actor, plan)
        return Issued(Secret(secret), made[0])

    def revoke(self, digest: str, actor: Actor) -> bool:
        """Out of force for good. False where it was before."""
        row = self._kept(digest)
        if row.revoked_ns:
            return False
        now_ns = self._clock()

        def plan() -> Planned:
            old = self._kept(digest)
            new = structs.replace(old, revoked_ns=old.revoked_ns or max(now_ns, 1))
            return (new,), facts(old), facts(new)

        self._change("key.revoke", row.key, actor, plan)
        return True

    def _kept(self, digest: str) -> IssuedKey:
        self._read()
        if digest not in self._rows:
            raise Unfit(f"no secret `{digest[:_SHOWN]}`")
        return self._rows[digest]

    def _read(self) -> None:
        """What has changed since the last look."""
        while page := self._store.keys_since(self._sequence):
            self._rows.update((row.digest, row) for row in page)
            self._sequence = page[-1].sequence

    def _change(self, what: str, key: str, actor: Actor, plan: Callable[[], Planned]) -> None:
        def act() -> tuple[tuple[IssuedKey, ...], audit.Act]:
            rows, before, after = plan()
            return rows, audit.Act(
                at=shown(self._clock()),
                who=actor.who,
                login=actor.login,
                what=what,
                subject=str(Uid("Key", key)),
                why=actor.why,
                before=before,
                after=after,
            )

        record(self._store, act)


def facts(row: IssuedKey) -> audit.Facts:
    """A row as the audit chain tells of it."""
    return {
        "digest": row.digest,
        "generation": row.generation,
        "roles": row.roles,
        "expires": shown(row.expires_ns),
        "revoked": shown(row.revoked_ns),
        "replaces": row.replaces,
        "replaced_by": row.replaced_by,
        "note": row.note,
    }


def shown(time_ns: int) -> str:
    """RFC 3339 to the second, rounded down; empty for 0."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ") if time_ns else ""
