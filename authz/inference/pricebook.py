"""The price book: `models.yaml`, which models there are, what they serve, how large a request can be and what it costs.

    version: "2026-08-08"
    tiers:   {flex: "1", batch: "0.5"}            # what a service tier costs, times the on-demand price; others are denied
    groups:  {cheapest: {note: …}}
    models:
      openai/gpt-oss-20b:
        groups: [cheapest]
        actions: [chat, respond]
        price: {input: "0.075", output: "0.30", cached_input: "0.0375"}     # USD per million tokens
        context_tokens: 131072
        max_output_tokens: 65536
        prompt_overhead_tokens: 512
        expected_output_tokens: 400
    aliases: {fast: openai/gpt-oss-20b}
    decommissioned: {gemma2-9b-it: {since: 2025-10-08, replacement: openai/gpt-oss-20b}}

Names are matched exactly. Money is integers from the first: a price is read as the decimal that stands in the file and becomes
whole nano-dollars, or is refused. (YAML makes a float of an unquoted `0.05`; its shortest representation is that text again,
for every number of up to 15 digits, so quoting is a matter of taste.)
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Annotated, Final, Literal

from msgspec import Meta, Struct

from authz.model import MAX_AMOUNT, NANOS_PER_USD, Price, Uid
from authz.yamlfile import Source

Tier = Literal["flex", "performance", "batch"]
Action = Literal["chat", "respond", "embed", "transcribe", "translate", "speak", "batch"]
Text = Annotated[str, Meta(max_length=500)]
Name = Annotated[str, Meta(min_length=1, max_length=128)]
Tokens = Annotated[int, Meta(ge=0, le=100_000_000)]
Dollars = str | int | float

_PUNCTUATION: Final = frozenset("._-/:")
_NANO_PLACES: Final = 9

ON_DEMAND: Final = "on_demand"
BATCH: Final = "batch"


class GroupRow(Struct, frozen=True, forbid_unknown_fields=True):
    note: Text = ""


class PriceRow(Struct, frozen=True, forbid_unknown_fields=True):
    """USD: for a million tokens (`input`, `output`, `cached_input`), an hour of audio, a million characters of speech."""

    input: Dollars | None = None
    output: Dollars | None = None
    cached_input: Dollars | None = None
    audio_hour: Dollars | None = None
    million_characters: Dollars | None = None


class ModelRow(Struct, frozen=True, forbid_unknown_fields=True):
    actions: tuple[Action, ...]
    groups: tuple[Name, ...] = ()
    price: PriceRow | None = None
    context_tokens: Tokens = 0
    max_output_tokens: Tokens = 0
    prompt_overhead_tokens: Tokens = 0
    expected_output_tokens: Tokens = 0
    minimum_audio_seconds: Annotated[int, Meta(ge=0, le=3600)] = 0
    note: Text = ""


class DecommissionedRow(Struct, frozen=True, forbid_unknown_fields=True):
    since: date | None = None
    replacement: Name | None = None
    note: Text = ""


class PriceBookFile(Struct, frozen=True, forbid_unknown_fields=True):
    version: Name
    models: dict[Name, ModelRow]
    tiers: dict[Tier, Dollars] = {}
    groups: dict[Name, GroupRow] = {}
    aliases: dict[Name, Name] = {}
    decommissioned: dict[Name, DecommissionedRow] = {}


class ModelSpec(Struct, frozen=True):
    """A model that can be asked.

    price                   by token; None where it has none: then nothing that is metered by token is allowed
    audio_hour              nano-dollars for an hour of audio, or None
    million_characters      nano-dollars for a million characters of speech, or None
    context_tokens          prompt and answer together, at most; 0 where tokens do not apply
    max_output_tokens       the upstream's own ceiling on an answer; 0 where there is no answer in tokens
    prompt_overhead_tokens  what the upstream's chat template adds to a prompt at most, beside what the body holds
    expected_output_tokens  the prior for an answer's length, until calibration knows better
    minimum_audio_seconds   a shorter upload is billed as this long
    tiers                   the price by token of every service tier that has one, on demand among them
    """

    id: str
    groups: tuple[Uid, ...]
    actions: frozenset[str]
    price: Price | None
    audio_hour: int | None
    million_characters: int | None
    context_tokens: int
    max_output_tokens: int
    prompt_overhead_tokens: int
    expected_output_tokens: int
    minimum_audio_seconds: int = 0
    tiers: dict[str, Price] = {}


class Decommissioned(Struct, frozen=True):
    """A name that the upstream has retired; `replacement` is a model of this book or None."""

    id: str
    since: date | None
    replacement: str | None


class PriceBook(Struct, frozen=True):
    """names  every name that `find` knows: models, aliases and decommissioned ones"""

    version: str
    groups: tuple[Uid, ...]
    models: dict[str, ModelSpec]
    names: dict[str, ModelSpec | Decommissioned]

    def find(self, name: str) -> ModelSpec | Decommissioned | None:
        """By exact name. An alias yields the model that it stands for, which is priced and, beside the alias, authorised."""
        return self.names.get(name)


def read_pricebook(source: Source) -> PriceBook:
    """Raises `ConfigError` at the first name, reference, ceiling or price that is not right."""
    rows = source.convert(PriceBookFile)
    sections = (
        ("groups", rows.groups),
        ("models", rows.models),
        ("aliases", rows.aliases),
        ("decommissioned", rows.decommissioned),
    )
    for section, entries in sections:
        for entry in entries:
            _check_name(source, (section, entry), entry)
    times = {tier: _amount(source, ("tiers", tier), value) or 0 for tier, value in rows.tiers.items()}
    for tier, nanos in times.items():
        if not nanos:
            raise source.fail(("tiers", tier), "expected more than nothing: times the on-demand price, like `1`")
    models = {name: _model(source, rows, name, times) for name in rows.models}
    names: dict[str, ModelSpec | Decommissioned] = {**models}
    for name, row in rows.decommissioned.items():
        if name in names:
            raise source.fail(("decommissioned", name), f"`{name}` stands under `models` too")
        if row.replacement is not None and row.replacement not in models:
            raise source.fail(("decommissioned", name, "replacement"), f"unknown model `{row.replacement}`")
        names[name] = Decommissioned(name, row.since, row.replacement)
    for alias, target in rows.aliases.items():
        if alias in names:
            raise source.fail(("aliases", alias), f"`{alias}` is the name of a model already")
        if target not in models:
            raise source.fail(("aliases", alias), f"unknown model `{target}`, expected one of `models`")
        names[alias] = models[target]
    return PriceBook(
        version=rows.version, groups=tuple(Uid("ModelGroup", group) for group in rows.groups), models=models, names=names
    )


def _model(source: Source, rows: PriceBookFile, name: str, times: Mapping[Tier, int]) -> ModelSpec:
    row, at = rows.models[name], ("models", name)
    if not row.actions:
        raise source.fail((*at, "actions"), "expected at least one action")
    for index, group in enumerate(row.groups):
        if group not in rows.groups:
            raise source.fail((*at, "groups", index), f"unknown group `{group}`, expected one of `groups`")
    if row.max_output_tokens > row.context_tokens:
        raise source.fail((*at, "max_output_tokens"), f"above `context_tokens`, which is {row.context_tokens}")
    if row.expected_output_tokens > row.max_output_tokens:
        raise source.fail((*at, "expected_output_tokens"), f"above `max_output_tokens`, which is {row.max_output_tokens}")
    price = row.price or PriceRow()
    token_price = _token_price(source, at, price)
    return ModelSpec(
        id=name,
        groups=tuple(Uid("ModelGroup", group) for group in row.groups),
        actions=frozenset(row.actions),
        price=token_price,
        audio_hour=_amount(source, (*at, "price", "audio_hour"), price.audio_hour),
        million_characters=_amount(source, (*at, "price", "million_characters"), price.million_characters),
        context_tokens=row.context_tokens,
        max_output_tokens=row.max_output_tokens,
        prompt_overhead_tokens=row.prompt_overhead_tokens,
        expected_output_tokens=row.expected_output_tokens,
        minimum_audio_seconds=row.minimum_audio_seconds,
        tiers=_tiers(token_price, times),
    )


def _tiers(price: Price | None, times: Mapping[Tier, int]) -> dict[str, Price]:
    """Each tier's price, rounded up. With `auto` the upstream chooses: the dearest of them, where flex has a price at all.

    No request can choose `batch`: it is the price of what runs as one.
    """
    if price is None:
        return {}
    found: dict[str, Price] = {ON_DEMAND: price}
    for tier, nanos in times.items():
        amounts = (price.input, price.output, price.cached_input)
        found[tier] = Price(*(-(-amount * nanos // NANOS_PER_USD) for amount in amounts))
    if "flex" in found:
        could_be = [each for tier, each in found.items() if tier != BATCH]
        found["auto"] = Price(
            input=max(each.input for each in could_be),
            output=max(each.output for each in could_be),
            cached_input=max(each.cached_input for each in could_be),
        )
    return found


def _token_price(source: Source, at: tuple[str | int, ...], row: PriceRow) -> Price | None:
    at = (*at, "price")
    input_, output = (_amount(source, (*at, name), value) for name, value in (("input", row.input), ("output", row.output)))
    cached = _amount(source, (*at, "cached_input"), row.cached_input)
    if input_ is None and output is None and cached is None:
        return None
    if input_ is None or output is None:
        raise source.fail(at, "expected both `input` and `output`: half a price would leave the other half free")
    if cached is not None and cached > input_:
        raise source.fail((*at, "cached_input"), "above `input`: a budget's bound rests on cached input being no dearer")
    return Price(input=input_, output=output, cached_input=input_ if cached is None else cached)


def _amount(source: Source, at: tuple[str | int, ...], value: Dollars | None) -> int | None:
    """USD as written → whole nano-dollars."""
    if value is None:
        return None
    expected = "expected an amount in USD of at most 9 decimals, like `0.59`"
    try:
        dollars = Decimal(repr(value) if isinstance(value, float) else value)
    except InvalidOperation:
        raise source.fail(at, f"{value!r}: {expected}") from None
    if not dollars.is_finite() or not 0 <= dollars <= MAX_AMOUNT // NANOS_PER_USD:
        raise source.fail(at, f"{value!r}: {expected}, from 0 to {MAX_AMOUNT // NANOS_PER_USD}")
    if not dollars:
        return 0
    # By digits and exponent: arithmetic of `Decimal` rounds, and a fraction of `1e-999999999` would fill the memory.
    written, exponent = dollars.as_tuple().digits, int(dollars.as_tuple().exponent)
    digits = "".join(map(str, written)).rstrip("0")
    places = exponent + len(written) - len(digits) + _NANO_PLACES
    if places < 0:
        raise source.fail(at, f"{value!r}: {expected}")
    return int(int(digits) * 10**places)


def is_name(name: str) -> bool:
    """Whether a model can be called so."""
    return name.isascii() and name[:1].isalnum() and all(char.isalnum() or char in _PUNCTUATION for char in name)


def _check_name(source: Source, at: tuple[str | int, ...], name: str) -> None:
    if not is_name(name):
        raise source.fail(at, f"name {name!r}: expected letters, digits and `._-/:`, beginning with a letter or a digit")
