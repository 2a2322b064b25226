"""Who changed what, and why: a chain of entries of which none can be altered, left out or put between unnoticed.

Each entry carries the SHA-256 of the one before it, over the very bytes that are kept. What a chain cannot show by itself is
that its end was cut off: whoever notes the last hash elsewhere (`authz audit verify` prints it) can tell that as well.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Final, Protocol

import msgspec
from msgspec import Struct

from authz.errors import StoreUnavailable

Fact = str | int | bool | None | tuple[str, ...]
Facts = dict[str, Fact]

BEGINNING: Final = "0" * 64
"""What the first entry has for the hash of the one before it."""


class Act(Struct, frozen=True, kw_only=True):
    """One change, before it has its place in the chain. It never holds a secret.

    who      who acted, as the directory knows them: `User::"dev"` · login: the operating system's user behind the command
    what     the action by its name in Cedar (`key.create`) · subject: to what, as Cedar writes it
    before, after  as far as they differ or identify; empty where there was nothing, or is nothing any more
    """

    at: str
    who: str
    login: str
    what: str
    subject: str
    why: str = ""
    before: Facts = {}
    after: Facts = {}


class Entry(Act, frozen=True, kw_only=True):
    """number  1, 2, 3, … without a gap · previous: hash of the entry before"""

    number: int
    previous: str


class Head(Struct, frozen=True):
    """The last entry of a chain, by its number and hash."""

    number: int = 0
    hash: str = BEGINNING


class AuditStore(Protocol):
    """Where the chain is kept. Every method raises `StoreUnavailable`."""

    def audit_since(self, number: int, at_most: int) -> tuple[bytes, ...]:
        """Entries after `number`, in order, as they were written."""
        ...

    def audit_last(self) -> bytes:
        """The last entry as it was written; empty where there is none."""
        ...


class Broken(Struct, frozen=True):
    """Where a chain does not hold: the number that was expected there, and what is wrong."""

    number: int
    problem: str


_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Entry).decode


def head(store: AuditStore) -> Head:
    """Raises `StoreUnavailable`, also where the last entry cannot be read: nothing is added before somebody has looked."""
    last = store.audit_last()
    try:
        return Head(_read(last).number, _hash(last)) if last else Head()
    except ValueError as error:
        raise StoreUnavailable(f"the audit chain ends in what is {error}") from None


def holds(store: AuditStore, noted: Head) -> bool:
    """Whether the chain still has the entry that was once its head. Raises `StoreUnavailable`."""
    return noted == Head() or [_hash(body) for body in store.audit_since(noted.number - 1, 1)] == [noted.hash]


def following(last: Head, act: Act) -> tuple[int, bytes]:
    """The act as the entry after `last`: its number, and the bytes to keep."""
    entry = Entry(number=last.number + 1, previous=last.hash, **msgspec.structs.asdict(act))
    return entry.number, _encode(entry)


def entries(kept: Iterable[bytes]) -> Iterable[Entry]:
    """Raises `ValueError` at one that cannot be read."""
    return map(_read, kept)


def verify(kept: Iterable[bytes], last: Head | None = None) -> Head | Broken:
    """Follows the chain on from `last`, or from its beginning: the head that it ends in, or the first place where it breaks."""
    last = last or Head()
    for body in kept:
        number = last.number + 1
        try:
            entry = _read(body)
        except ValueError as error:
            return Broken(number, str(error))
        if entry.number != number:
            return Broken(number, f"found entry {entry.number} in its place")
        if entry.previous != last.hash:
            return Broken(number, "the entry before it is not the one that it followed")
        last = Head(number, _hash(body))
    return last


def _read(body: bytes) -> Entry:
    try:
        return _decode(body)
    except msgspec.MsgspecError as error:
        raise ValueError(f"not an entry: {error}") from None


def _hash(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()
