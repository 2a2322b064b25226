"""Virtual keys: how they look and how they are kept.

A key is `authz_` and 40 characters of base 62: 34 random ones (202 bits) and 6 that are a check sum of all before it, so that a
secret scanner can tell a leaked key from a look-alike. At rest there is only its SHA-256: with 202 random bits there is nothing
to stretch or to salt, and a digest can be looked up in constant time.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import Final, Protocol

import msgspec
from msgspec import Struct, structs

from authz.audit import AuditStore
from authz.errors import StoreUnavailable

PREFIX: Final = "authz_"
PAGE: Final = 1_000
"""Rows that a store reads or writes at a time: some 30 ms, for others wait behind it."""

_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PAIRS: Final = tuple(one + other for one in _ALPHABET for other in _ALPHABET)
_RANDOM_CHARS: Final = 34
_CHECK_CHARS: Final = 6


class IssuedKey(Struct, frozen=True):
    """A secret's row in the store.

    digest      lower-case hex SHA-256 of the secret
    key         id of the Key entity that it stands for, declared in the bundle's directory
    expires_ns  the first instant at which it does not work, 0 for never; revoked_ns 0 for not revoked
    sequence    grows with every change of any row, so that a reader can ask for what is new; 0 where it is not kept yet
    created_by  who issued it, as Cedar writes it
    roles       those of its key that it has; None for all of them
    generation  1 for the first of a key's secrets, and one more with each rotation
    replaces, replaced_by  digests of the neighbours in a rotation; a secret that is replaced works until it expires
    """

    digest: str
    key: str
    created_ns: int
    expires_ns: int = 0
    revoked_ns: int = 0
    sequence: int = 0
    note: str = ""
    created_by: str = ""
    roles: tuple[str, ...] | None = None
    generation: int = 1
    replaces: str = ""
    replaced_by: str = ""

    def in_force(self, now_ns: int) -> bool:
        return not self.revoked_ns and not 0 < self.expires_ns <= now_ns

    @property
    def life_ns(self) -> int:
        """What it was given when it was made, or what an overlap has left of that; 0 for a life without end."""
        return self.expires_ns - self.created_ns if self.expires_ns else 0


class KeyStore(AuditStore, Protocol):
    """Where issued keys live. Every method raises `StoreUnavailable`."""

    def change(self, number: int, entry: bytes, rows: tuple[IssuedKey, ...] = ()) -> bool:
        """Adds entry `number` to the audit chain, together with the rows that it tells of: all or nothing.

        False, and nothing is done, where the chain has another entry of that number or does not end just before it, or where
        one of the rows is not kept under its `sequence`: who asked has to look again. The same entry twice is one.
        """
        ...

    def keys_since(self, sequence: int, at_most: int = PAGE) -> tuple[IssuedKey, ...]:
        """The first rows of those changed after `sequence`, in its order."""
        ...

    def note_uses(self, uses: dict[str, int]) -> None:
        """When secrets were used last: nanoseconds by digest. An earlier time than is known changes nothing."""
        ...

    def key_uses(self) -> dict[str, int]:
        """When each secret was used last, as far as it was ever noted."""
        ...


_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(IssuedKey).decode


def encode_row(row: IssuedKey) -> bytes:
    """As every store keeps it; the sequence is the store's own."""
    return _encode(structs.replace(row, sequence=0))


def decode_row(body: bytes, sequence: int) -> IssuedKey:
    """Raises `StoreUnavailable` for what is no row: whoever reads on without it could miss a revocation."""
    try:
        return structs.replace(_decode(body), sequence=sequence)
    except msgspec.MsgspecError as error:
        raise StoreUnavailable(f"issued key {sequence} cannot be read: {error}") from None


def digest(secret: str) -> str:
    """The name under which a secret is kept and found."""
    return hashlib.sha256(secret.encode()).hexdigest()


def mint(choice: Callable[[str], str]) -> str:
    """A new secret. `choice` picks one character at random: `secrets.choice` outside tests."""
    body = PREFIX + "".join(choice(_ALPHABET) for _ in range(_RANDOM_CHARS))
    return body + _check_sum(body)


def well_formed(secret: str) -> bool:
    """Whether the text has the shape and check sum of a key of ours; says nothing about whether it exists."""
    body, check = secret[:-_CHECK_CHARS], secret[-_CHECK_CHARS:]
    return (
        len(secret) == len(PREFIX) + _RANDOM_CHARS + _CHECK_CHARS
        and secret.startswith(PREFIX)
        and secret.isascii()
        and check == _check_sum(body)
    )


def _check_sum(body: str) -> str:
    """Six digits of base 62, two at a time: every request has this worked out."""
    upper, last = divmod(zlib.crc32(body.encode()), len(_PAIRS))
    first, middle = divmod(upper, len(_PAIRS))
    return _PAIRS[first] + _PAIRS[middle] + _PAIRS[last]
