"""Which bundles were in force, in the audit chain: with them roles, teams and rules change.

Whoever changed the folder is not known here; their own review knows. What is on record is when this organisation went from
which bundle to which, and what of people and keys differs between the two where this process has had both.
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
        was, now = changes(before.directory, bundle.directory) if before is not None and before.digest == last else ({}, {})
        return (), audit.Act(
            at=shown(self._clock()),
            who="",
            login=self._login,
            what=WHAT,
            subject=str(bundle.directory.organisation),
            why="the bundle in the folder has changed" if last else "the first bundle of this store",
            before={"bundle": last, **was} if last else {},
            after={"bundle": bundle.digest, **now},
        )

    def _last(self) -> str:
        """The digest that was put on record last; empty where none was, or too long ago to look for."""
        number = audit.head(self._store).number
        for entry in reversed(list(audit.entries(self._store.audit_since(max(0, number - _LOOK_BACK), _LOOK_BACK)))):
            if entry.what == WHAT:
                return str(entry.after["bundle"])
        return ""
