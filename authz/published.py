"""Which bundles were in force, in the audit chain: with them roles, teams and rules change.

Whoever changed the folder by hand is not known here; their own review knows. (`authz publish` puts on record who it was.) Told
is when this organisation went from which bundle to which, and what of people and keys differs where both are known.
"""

from __future__ import annotations

from typing import Final

from authz import audit
from authz.bundle import Bundle
from authz.clock import Clock
from authz.identity.changes import changes
from authz.identity.issuing import record, shown
from authz.identity.keys import IssuedKey, KeyStore

WHAT: Final = "policy.publish"
_LOOK_BACK: Final = 1_000


class Published:
    """Puts every change of the bundle on record, once for all processes that share a store.

    login  the operating system's user of this process
    """

    def __init__(self, store: KeyStore, *, clock: Clock, login: str) -> None:
        self._store, self._clock, self._login = store, clock, login
        self._told: Bundle | None = None

    def tell(self, bundle: Bundle) -> None:
        """Raises `StoreUnavailable`; the next call tells it again."""
        before = self._told
        if before is not None and before.digest == bundle.digest:
            return
        record(self._store, lambda: self._plan(before, bundle))
        self._told = bundle

    def _plan(self, before: Bundle | None, bundle: Bundle) -> tuple[tuple[IssuedKey, ...], audit.Act] | None:
        last = self._last()
        if last == bundle.digest:
            return None  # another process was here first, or this one has only been started again
        why = "the bundle in the folder has changed" if last else "the first bundle of this store"
        known = before if before is not None and before.digest == last else None
        return (), act(known, bundle, last, at_ns=self._clock(), who="", login=self._login, why=why)

    def _last(self) -> str:
        """The digest that was put on record last; empty where none was, or too long ago to look for."""
        number = audit.head(self._store).number
        for entry in reversed(list(audit.entries(self._store.audit_since(max(0, number - _LOOK_BACK), _LOOK_BACK)))):
            if entry.what == WHAT:
                return str(entry.after["bundle"])
        return ""


def act(before: Bundle | None, after: Bundle, was: str, *, at_ns: int, who: str, login: str, why: str) -> audit.Act:
    """before  where it is known, for what differs of people and keys · was: its digest, empty for the first of all"""
    past, now = changes(before.directory, after.directory) if before is not None else ({}, {})
    return audit.Act(
        at=shown(at_ns),
        who=who,
        login=login,
        what=WHAT,
        subject=str(after.directory.organisation),
        why=why,
        before={"bundle": was, **past} if was else {},
        after={"bundle": after.digest, **now},
    )
