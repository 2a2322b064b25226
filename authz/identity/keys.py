"""Virtual keys: how they look, how they are kept, how one is found.

A key is `authz_` and 40 characters of base 62: 34 random ones (202 bits) and 6 that are a check sum of all before it, so that a
secret scanner can tell a leaked key from a look-alike. At rest there is only its SHA-256: with 202 random bits there is nothing
to stretch or to salt, and a digest can be looked up in constant time.
"""

from __future__ import annotations

import hashlib
import zlib
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import Struct

PREFIX: Final = "authz_"
_ALPHABET: Final = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_RANDOM_CHARS: Final = 34
_CHECK_CHARS: Final = 6


class IssuedKey(Struct, frozen=True):
    """A secret's row in the store.

    digest      lower-case hex SHA-256 of the secret
    key         id of the Key entity that it stands for, declared in the bundle's directory
    expires_ns  0 for never; revoked_ns 0 for not revoked
    sequence    grows with every change of any row, so that a reader can ask for what is new
    """

    digest: str
    key: str
    created_ns: int
    expires_ns: int = 0
    revoked_ns: int = 0
    sequence: int = 0
    note: str = ""


class KeyStore(Protocol):
    """Where issued keys live. Every method raises `StoreUnavailable`."""

    def put_key(self, row: IssuedKey) -> None: ...

    def revoke_key(self, digest: str, now_ns: int) -> bool: ...

    def keys_since(self, sequence: int) -> tuple[IssuedKey, ...]:
        """Every row changed after `sequence`, in its order."""
        ...


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
    value = zlib.crc32(body.encode())
    digits = []
    for _ in range(_CHECK_CHARS):
        value, rest = divmod(value, len(_ALPHABET))
        digits.append(_ALPHABET[rest])
    return "".join(reversed(digits))
