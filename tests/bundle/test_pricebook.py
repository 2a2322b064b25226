from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.errors import ConfigError
from authz.inference.pricebook import PriceBook, read_pricebook
from authz.model import MAX_AMOUNT, NANOS_PER_USD, Price
from authz.yamlfile import parse_yaml

GOOD = """
version: v1
groups: {g: {}}
models:
  a/b: {actions: [chat], groups: [g], price: {input: 0.05, output: "0.08"}, context_tokens: 100, max_output_tokens: 10}
  free: {actions: [chat]}
aliases: {fast: a/b}
decommissioned: {old: {replacement: a/b}}
"""


def read(text: str) -> PriceBook:
    return read_pricebook(parse_yaml(text, "models.yaml"))


def price(text: str) -> int:
    book = read(GOOD.replace("0.05", text, 1))
    found = book.models["a/b"].price
    assert found is not None
    return found.input


@pytest.mark.parametrize(
    ("text", "nanos"),
    [
        ("0.05", 50_000_000),
        ('"0.05"', 50_000_000),
        ("0.1", 100_000_000),
        ("3", 3 * NANOS_PER_USD),
        ("0", 0),
        ("1e-9", 1),
        ('"1.10"', 1_100_000_000),
        ("0.000000001", 1),
        ('"0.50000000000000000000000000000000000"', 500_000_000),
        ('"0e-99"', 0),
    ],
)
def test_a_price_is_exact(text: str, nanos: int) -> None:
    assert price(text) == nanos


@given(st.integers(0, 10**12))
def test_every_price_that_can_be_written_is_read_as_written(nanos: int) -> None:
    text = format(Decimal(nanos).scaleb(-9), "f")
    assert price(f'"{text}"') == nanos
    assert price(text) == nanos


@pytest.mark.parametrize(
    "text",
    [
        "-1", '"-0.1"', ".nan", ".inf", '"NaN"', '"Infinity"', '"1/2"', '"$1"', "true", "0.0000000001",
        f"{MAX_AMOUNT // NANOS_PER_USD + 1}", "1e300", '"1e999999999"', '"1e-999999999"',
        '"1.0000000000000000000000000000000000001"',
    ],
)  # fmt: skip
def test_what_is_no_price_is_refused(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        price(text)
    assert caught.value.line == 5


def test_names_are_found_exactly_and_aliases_resolve() -> None:
    book = read(GOOD)
    assert book.find("fast") is book.models["a/b"]
    assert book.find("Fast") is None
    assert book.models["free"].price is None


def test_cached_input_costs_as_much_as_any_unless_it_is_said() -> None:
    found = read(GOOD).models["a/b"].price
    assert found is not None
    assert found.cached_input == found.input


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ('output: "0.08"', "cached_input: 0.01", "expected both `input` and `output`"),
        ('output: "0.08"', "output: 1, cached_input: 0.06", "above `input`"),
        ("max_output_tokens: 10", "max_output_tokens: 101", "above `context_tokens`"),
        ("max_output_tokens: 10", "max_output_tokens: 10, expected_output_tokens: 11", "above `max_output_tokens`"),
        ("context_tokens: 100", "context_tokens: -1", ">= 0"),
        ("groups: [g]", "groups: [h]", "unknown group `h`"),
        ("actions: [chat], groups", "actions: [], groups", "at least one action"),
        ("actions: [chat], groups", "actions: [train], groups", "invalid enum value"),
        ("{fast: a/b}", "{fast: b}", "unknown model `b`"),
        ("{fast: a/b}", "{old: a/b}", "is the name of a model already"),
        ("{old: {", "{free: {", "stands under `models` too"),
        ("replacement: a/b", "replacement: c", "unknown model `c`"),
        ("  free:", '  "fr ee":', "expected letters, digits"),
    ],
)
def test_what_is_wrong_is_said_with_its_place(old: str, new: str, problem: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        read(GOOD.replace(old, new, 1))
    assert problem in caught.value.problem
    assert caught.value.line > 0


def test_a_tier_costs_so_many_times_the_on_demand_price_rounded_up() -> None:
    book = read(GOOD + 'tiers: {flex: "0.5", performance: "1.1000001"}')
    tiers = book.models["a/b"].tiers
    assert tiers == {
        "on_demand": Price(50_000_000, 80_000_000, 50_000_000),
        "flex": Price(25_000_000, 40_000_000, 25_000_000),
        "performance": Price(55_000_005, 88_000_008, 55_000_005),
        "auto": Price(55_000_005, 88_000_008, 55_000_005),  # the upstream chooses: the dearest
    }
    assert set(read(GOOD).models["a/b"].tiers) == {"on_demand"}, "what the book does not name has no price"
    assert set(read(GOOD + "tiers: {performance: 2}").models["a/b"].tiers) == {"on_demand", "performance"}
    assert book.models["free"].tiers == {}


@pytest.mark.parametrize(
    "tiers",
    ["{flex: 0}", "{flex: -1}", "{flex: x}", "{on_demand: 2}", "{auto: 1}", "{batch: 0}", "{scale: 1}", "{flex: 1e-10}"],
)
def test_what_is_no_tier_is_refused(tiers: str) -> None:
    with pytest.raises(ConfigError):
        read(GOOD + f"tiers: {tiers}")
