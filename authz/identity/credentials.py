"""From a request's credential to the key it stands for. Whatever is wrong with it, the answer is the same one."""

from __future__ import annotations

from authz.errors import Refused
from authz.identity import keys
from authz.model import Request
from authz.reasons import Reason


def bearer(request: Request) -> str:
    """The one bearer token. Raises `Refused`: none, several (some proxies join them with a comma), or another scheme."""
    values = request.header("authorization")
    scheme, _, token = values[0].partition(" ") if len(values) == 1 else ("", "", "")
    if scheme.lower() != "bearer" or not keys.well_formed(token):
        raise invalid()
    return token


def invalid() -> Refused:
    """The one answer to every credential that does not work, so that a caller learns nothing from the difference."""
    return Refused(Reason.INVALID_API_KEY, "Invalid API Key")


class KeyRing:
    """Issued keys in memory: a look-up costs the same among a hundred and a hundred thousand, and needs no I/O.

    `refresh` brings what has changed since the last one. A revoked key is out of force one refresh later.
    """

    def __init__(self, store: keys.KeyStore) -> None:
        self._store = store
        self._rows: dict[str, keys.IssuedKey] = {}
        self._sequence = 0

    def refresh(self) -> None:
        """Raises `StoreUnavailable`; what was known stays."""
        for row in self._store.keys_since(self._sequence):
            self._rows[row.digest] = row
            self._sequence = max(self._sequence, row.sequence)

    def find(self, digest: str, now_ns: int) -> str | None:
        """The id of the Key entity that the secret with this digest stands for, if it is in force."""
        row = self._rows.get(digest)
        if row is None or row.revoked_ns or (row.expires_ns and row.expires_ns <= now_ns):
            return None
        return row.key
