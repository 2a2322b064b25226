"""The credential of a request, and the issued keys in memory. Whatever is wrong with it, the answer is the same one."""

from __future__ import annotations

import re
import threading
from sys import intern
from typing import Final

from msgspec import Struct

from authz import audit
from authz.errors import Refused
from authz.identity import keys
from authz.model import Request
from authz.reasons import Reason

_TOKEN: Final = re.compile(r"[A-Za-z0-9._~+/=-]+")
"""RFC 6750's characters: no space, no comma, nothing that two readers could cut in two places."""


def bearer(request: Request) -> str:
    """The one bearer token. Raises `Refused`: none, several (some proxies join them with a comma), or another scheme."""
    values = request.header("authorization")
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or _TOKEN.fullmatch(token) is None:
        raise invalid()
    return token


def invalid() -> Refused:
    """The one answer to every credential that does not work, so that a caller learns nothing from the difference."""
    return Refused(Reason.INVALID_API_KEY, "Invalid API Key")


class Live(Struct, frozen=True):
    """What a decision needs to know of an issued secret.

    expires_ns  0 for never · roles: those of its key that it has, None for all
    replaced    another has taken over from it, and it works until it expires
    """

    key: str
    expires_ns: int = 0
    roles: tuple[str, ...] | None = None
    replaced: bool = False


class KeyRing:
    """Issued keys in memory: a look-up costs the same among a hundred and a hundred thousand, and needs no I/O.

    Safe in threads. `refresh` brings what has changed since the last one. A revoked key is out of force one refresh later: it
    is forgotten, so that it is looked up in vain exactly as one that never was.
    """

    def __init__(self, store: keys.KeyStore) -> None:
        self._store = store
        self._live: dict[str, Live] = {}
        self._used: dict[str, int] = {}
        self._sequence = 0
        self._seen = audit.Head()
        self._refreshing = threading.Lock()

    def __len__(self) -> int:
        return len(self._live)

    def refresh(self) -> None:
        """Raises `StoreUnavailable`; what was known stays.

        No row changes without an entry in the audit chain, so its head tells whether there is anything to read. Where the
        entry that was the head is not in the chain any more, this is not the store that was read: a backup, or a replica that
        had not heard of the last changes. Then its sequence means nothing, and all is read anew.
        """
        with self._refreshing:
            head = audit.head(self._store)
            if head == self._seen:
                return
            anew = not audit.holds(self._store, self._seen)
            live, sequence = ({}, 0) if anew else (self._live, self._sequence)
            while page := self._store.keys_since(sequence):
                for row in page:
                    if row.revoked_ns:
                        live.pop(row.digest, None)
                    else:
                        live[row.digest] = Live(intern(row.key), row.expires_ns, row.roles, bool(row.replaced_by))
                sequence = page[-1].sequence
                if not anew:
                    self._sequence = sequence
            self._live, self._sequence, self._seen = live, sequence, head

    def find(self, digest: str, now_ns: int) -> Live | None:
        """What the secret with this digest stands for, if it is in force."""
        found = self._live.get(digest)
        if found is None or 0 < found.expires_ns <= now_ns:
            return None
        return found

    def note(self, digest: str, now_ns: int) -> None:
        """The secret was used. Costs no I/O: `flush` tells the store."""
        self._used[digest] = now_ns

    def flush(self) -> None:
        """Tells the store what was used since the last time. Raises `StoreUnavailable`; the next call tells it again."""
        used, self._used = self._used, {}
        noted = list(dict(used).items())  # a copy, whole at once: a decision under way may still be writing to it
        try:
            while noted:
                self._store.note_uses(dict(noted[-keys.PAGE :]))
                del noted[-keys.PAGE :]
        finally:
            if noted:
                self._used = dict(noted) | self._used
