"""Issued keys and the audit chain in Redis. Rows and entries are bytes there: no script looks into them."""

from __future__ import annotations

from authz.identity.keys import IssuedKey, decode_row, encode_row
from authz.store.redis import rows as packing
from authz.store.redis.connection import Server


class IssuedKeys:
    """`KeyStore`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def change(self, number: int, entry: bytes, rows: tuple[IssuedKey, ...] = ()) -> bool:
        changed = [part for row in rows for part in (row.digest, row.sequence, encode_row(row))]
        return bool(self._server.run("change", number, entry, *changed))

    def keys_since(self, sequence: int, at_most: int) -> tuple[IssuedKey, ...]:
        found = self._server.run("keys_since", sequence, at_most)
        return tuple(decode_row(found[at], int(found[at + 1])) for at in range(0, len(found), 2))

    def note_uses(self, uses: dict[str, int]) -> None:
        self._server.run("note_uses", *(part for digest, used_ns in uses.items() for part in (digest, packing.moment(used_ns))))

    def key_uses(self) -> dict[str, int]:
        found = self._server.run("key_uses")
        return {found[at].decode(): int(found[at + 1]) for at in range(0, len(found), 2)}

    def audit_since(self, number: int, at_most: int) -> tuple[bytes, ...]:
        return tuple(self._server.run("audit_since", number, at_most))

    def audit_last(self) -> bytes:
        return b"".join(self._server.run("audit_since", -1, 1))
