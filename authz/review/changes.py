"""How a review says that something is not the same on both sides, and what that does."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import StrEnum
from typing import Final, TypeVar

from msgspec import Struct

T = TypeVar("T")
U = TypeVar("U")


class Sort(StrEnum):
    ADDED = "added"
    REMOVED = "removed"
    CHANGED = "changed"


class Effects(Struct, frozen=True):
    """What a change does, as far as it can be said of it alone."""

    more: bool = False
    less: bool = False

    def __or__(self, other: Effects) -> Effects:
        return Effects(self.more or other.more, self.less or other.less)


MORE: Final = Effects(more=True)
LESS: Final = Effects(less=True)
NEITHER: Final = Effects()


class Detail(Struct, frozen=True):
    """One difference, in words, and what it does."""

    text: str
    effects: Effects = NEITHER


class Change(Struct, frozen=True):
    """One thing of a part that differs: `kind` is `key`, `quota`, `model`, …"""

    sort: Sort
    kind: str
    name: str
    details: tuple[Detail, ...] = ()
    effects: Effects = NEITHER


def told(sort: Sort, kind: str, name: str, details: Iterable[Detail]) -> Change:
    """What is removed needs no more words than that."""
    said = tuple(detail for detail in details if detail.text) if sort is not Sort.REMOVED else ()
    return Change(sort, kind, name, said, together(said) if sort is Sort.CHANGED else NEITHER)


def turned(name: str, before: object, after: object, effects: Effects = NEITHER) -> Detail:
    """Empty where nothing turned."""
    one, other = ("none" if value in (None, "") else str(value) for value in (before, after))
    if one == other:
        return Detail("")
    return Detail(f"{name} {other}" if one == "none" else f"{name} {one} → {other}", effects)


def switched(before: bool, after: bool) -> Detail:
    if before == after:
        return Detail("")
    return Detail("disabled", LESS) if after else Detail("no longer disabled", MORE)


def effects_of(rise: int) -> Effects:
    return MORE if rise > 0 else LESS if rise < 0 else NEITHER


def together(details: Iterable[Detail]) -> Effects:
    found = NEITHER
    for detail in details:
        found |= detail.effects
    return found


def named(kind: str, before: set[str], after: set[str]) -> Iterator[Change]:
    for sort, name in differing(dict.fromkeys(before), dict.fromkeys(after), lambda _: _):
        yield Change(sort, kind, name)


def differing(before: Mapping[str, T], after: Mapping[str, T], of: Callable[[T], object]) -> Iterator[tuple[Sort, str]]:
    """Names of what is not the same on both sides, in order: removed, added, changed."""
    yield from ((Sort.REMOVED, name) for name in sorted(before.keys() - after.keys()))
    yield from ((Sort.ADDED, name) for name in sorted(after.keys() - before.keys()))
    yield from ((Sort.CHANGED, name) for name in sorted(before.keys() & after.keys()) if of(before[name]) != of(after[name]))


def unified(before: list[str], after: list[str]) -> Iterator[str]:
    for line in difflib.unified_diff(before, after, lineterm="", n=1):
        if not line.startswith(("---", "+++", "@@")):
            yield line


def both(of: Callable[[T], U], one: T, other: T) -> tuple[U, U]:
    return of(one), of(other)
