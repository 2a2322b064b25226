"""What the upstream's list of models says that the price book does not: proposed, for somebody to review, and never applied.

The list is another machine's word, so it is read strictly and within bounds, and what it says of money counts only where it is
exact. No price is ever made up: one that the list does not state stays as it is in the book, a new model without a stated price
is told of without one, and one that is stated as nothing is not believed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Sequence
from decimal import Decimal, InvalidOperation
from enum import StrEnum
from typing import Any, Final

from msgspec import Struct

from authz.errors import ConfigError, Refused
from authz.inference.jsonbody import read_object
from authz.inference.pricebook import Decommissioned, ModelSpec, PriceBook, is_name, read_pricebook
from authz.model import MAX_AMOUNT
from authz.yamlfile import Source, parse_yaml

MAX_BYTES: Final = 4 * 1024 * 1024
MAX_MODELS: Final = 5_000
MAX_TOKENS: Final = 100_000_000

_PRICES: Final = {"prompt": "input", "completion": "output", "input_cache_read": "cached_input"}
_CEILINGS: Final = {
    "context_tokens": ("context_window", "context_length"),
    "max_output_tokens": ("max_completion_tokens", "max_output_length"),
}
_NANOUSD_A_MILLION: Final = 15
"""Places between USD for a token and nano-dollars for a million of them."""


class Sort(StrEnum):
    CHANGED = "changed"  # a price or a ceiling that the book has otherwise
    NEW = "new"  # a model that the book does not know: denied until it is there
    GONE = "gone"  # a model of the book that the list does not have, or has as inactive
    BACK = "back"  # a decommissioned name that the list has as active
    UNREADABLE = "unreadable"  # something in the list that is not what it should be: not used


class Proposal(Struct, frozen=True):
    """One difference. `field` is its place in the model's row; `ours` and `theirs` as they would be written there, or empty."""

    sort: Sort
    model: str
    field: str = ""
    ours: str = ""
    theirs: str = ""


class Stated(Struct, frozen=True):
    """What the list says of one model: nano-dollars for a million tokens and ceilings by field, and what could not be read."""

    id: str
    active: bool
    prices: dict[str, int]
    ceilings: dict[str, int]
    unreadable: tuple[str, ...]


def read_list(body: bytes, where: str) -> tuple[Stated, ...]:
    """The body of `GET /models`. Raises `ConfigError` where it is not a list of models at all."""
    try:
        rows = read_object(body).get("data")
    except Refused as refused:
        raise ConfigError(where, f"not a list of models: {refused.message}") from None
    if not isinstance(rows, list) or not 1 <= len(rows) <= MAX_MODELS:
        raise ConfigError(where, f"not a list of models: expected `data` with 1 to {MAX_MODELS} of them")
    found: dict[str, Stated] = {}
    for row in rows:
        if not isinstance(row, dict) or not isinstance(row.get("id"), str) or not is_name(row["id"]) or len(row["id"]) > 128:
            raise ConfigError(where, "not a list of models: one of them has no name that a model can have")
        if row["id"] in found:
            raise ConfigError(where, f"not a list of models: `{row['id']}` stands twice")
        found[row["id"]] = _stated(row)
    return tuple(found.values())


def _stated(row: dict[str, Any]) -> Stated:
    prices, ceilings, unreadable = dict[str, int](), dict[str, int](), list[str]()
    pricing = row.get("pricing")
    if pricing is not None and not isinstance(pricing, dict):
        unreadable.append("pricing")
    for theirs, ours in _PRICES.items():
        said = pricing.get(theirs) if isinstance(pricing, dict) else None
        amount = _nanousd_a_million(said)
        if amount is not None:
            prices[ours] = amount
        elif said is not None:
            unreadable.append(f"pricing.{theirs}")
    for ours, names in _CEILINGS.items():
        for name in names:
            said = row.get(name)
            if type(said) is int and 0 < said <= MAX_TOKENS:
                ceilings.setdefault(ours, said)
            elif said is not None:
                unreadable.append(name)
    active = row.get("active")
    if active is not None and type(active) is not bool:
        unreadable.append("active")
    return Stated(row["id"], active is not False, prices, ceilings, tuple(unreadable))


def _nanousd_a_million(said: Any) -> int | None:
    """USD for a token as text → nano-dollars for a million; None for what is not exact, is nothing or is no price at all."""
    if not isinstance(said, str) or not 0 < len(said) <= 40 or not said.isascii():
        return None
    try:
        price = Decimal(said)
    except InvalidOperation:
        return None
    if not price.is_finite() or not 0 < price < 1 or price.adjusted() < -_NANOUSD_A_MILLION:
        return None
    digits, exponent = price.as_tuple().digits, int(price.as_tuple().exponent) + _NANOUSD_A_MILLION
    whole = int("".join(map(str, digits)))
    amount, rest = (whole * 10**exponent, 0) if exponent >= 0 else divmod(whole, 10**-exponent)
    return None if rest or amount > MAX_AMOUNT else amount


def compare(book: PriceBook, stated: Sequence[Stated]) -> tuple[Proposal, ...]:
    """Every difference, in the order of the list, and then what is gone."""
    return (*(proposal for model in stated for proposal in _differences(book, model)), *_gone(book, stated))


def _differences(book: PriceBook, stated: Stated) -> Iterator[Proposal]:
    for name in stated.unreadable:
        yield Proposal(Sort.UNREADABLE, stated.id, name)
    known = book.find(stated.id)
    if not stated.active:
        return
    if known is None:
        yield Proposal(Sort.NEW, stated.id, theirs=_row(stated))
    elif isinstance(known, Decommissioned):
        yield Proposal(Sort.BACK, stated.id)
    else:
        yield from _changes(known, stated)


def _changes(known: ModelSpec, stated: Stated) -> Iterator[Proposal]:
    price = known.price
    if price is not None:
        for field, theirs in stated.prices.items():
            ours = getattr(price, field)
            if ours != theirs:
                yield Proposal(Sort.CHANGED, known.id, f"price.{field}", usd_text(ours), usd_text(theirs))
        for field, theirs in stated.ceilings.items():
            ours = getattr(known, field)
            if ours != theirs:
                yield Proposal(Sort.CHANGED, known.id, field, str(ours), str(theirs))


def _gone(book: PriceBook, stated: Sequence[Stated]) -> Iterator[Proposal]:
    active = {model.id for model in stated if model.active}
    aliased = {found.id for name, found in book.names.items() if name in active and isinstance(found, ModelSpec)}
    for name in book.models:
        if name not in active | aliased:
            yield Proposal(Sort.GONE, name)


def _row(stated: Stated) -> str:
    price = ", ".join(f'{field}: "{usd_text(amount)}"' for field, amount in stated.prices.items())
    fields = [f"price: {{{price}}}"] if price else []
    return ", ".join([*fields, *(f"{field}: {tokens}" for field, tokens in stated.ceilings.items())])


def usd_text(nanousd: int) -> str:
    """Exact, and no longer than it has to be."""
    whole, places = divmod(nanousd, 10**9)
    return f"{whole}.{places:09d}".rstrip("0").rstrip(".")


def edited(text: str, name: str, proposals: Sequence[Proposal], version: str) -> str:
    """The price book's text with what has changed put in its place, and new models as comments: what they may be used for is
    not the upstream's to say. Everything else stays to the byte. Raises `ConfigError` where that would be no price book, or
    change another model too (a value that several share by an anchor)."""
    source = parse_yaml(text, name)
    edits: list[tuple[int, int, str]] = []
    changed = [each for each in proposals if each.sort is Sort.CHANGED]
    for each in changed:
        value = f'"{each.theirs}"' if each.field.startswith("price.") else each.theirs
        edits.append(_put(source, ("models", each.model, *each.field.split(".")), value))
    for each in proposals:
        if each.sort is Sort.NEW:
            at, indent = _first_key(source, ("models",))
            row = ", ".join(filter(None, ["actions: []", each.theirs]))
            edits.append((at, at, f"# new, say what it may be used for: {each.model}: {{{row}}}\n{' ' * indent}"))
    if changed:
        edits.append(_put(source, ("version",), f'"{version}"'))
    for start, end, value in sorted(edits, reverse=True):
        text = text[:start] + value + text[end:]
    _check(source, read_pricebook(parse_yaml(text, name)), {each.model for each in changed})
    return text


def _check(source: Source, after: PriceBook, changed: set[str]) -> None:
    for name, before in read_pricebook(source).models.items():
        if name not in changed and after.models[name] != before:
            raise source.fail(("models", name), f"`{name}` shares a value that is to change")


def _put(source: Source, path: tuple[str, ...], value: str) -> tuple[int, int, str]:
    """In place of what stands at `path`, or before the first key of the mapping that it belongs into."""
    span = source.span(path)
    if span is not None:
        return (*span, value)
    at, indent = _first_key(source, path[:-1])
    between = ", " if source.is_flow(path[:-1]) else "\n" + " " * indent
    return at, at, f"{path[-1]}: {value}{between}"


def _first_key(source: Source, path: tuple[str, ...]) -> tuple[int, int]:
    """Where the first key of the mapping at `path` stands: its offset in the text, and its column from 0."""
    found = source.first_key(path)
    if found is None:
        raise source.fail(path, "expected a mapping that a line can be put into")
    return found


def difference(old: str, new: str, name: str) -> str:
    """A unified diff, as `git apply` and `patch` take it."""
    lines = difflib.unified_diff(old.splitlines(keepends=True), new.splitlines(keepends=True), f"a/{name}", f"b/{name}")
    return "".join(lines)
