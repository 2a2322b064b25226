"""YAML errors name file, line, column and what was expected."""

from __future__ import annotations

from enum import StrEnum

import pytest
from msgspec import Struct

from authz.errors import ConfigError
from authz.yamlfile import parse_yaml


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


class Item(Struct, forbid_unknown_fields=True):
    team: str
    count: int = 1
    colour: Colour | None = None


class Whole(Struct, forbid_unknown_fields=True):
    items: dict[str, Item]
    rows: list[Item] = []


@pytest.mark.parametrize(
    ("text", "line", "column", "problem"),
    [
        ("items: {a: {team: x}, b: {team: 3}}", 1, 33, "items.b.team: expected `str`, got `int`"),
        ("items: {}\nrows:\n- team: a\n  nope: 3", 4, 3, "rows[0].nope: unknown field, expected `team`, `count` or `colour`"),
        ("items: {a: {team: x}}\nrow:\n- team: a", 2, 1, "row: unknown field, expected `items` or `rows`"),
        ("items: {a: {team: x, nope:\n  [1]}}", 1, 22, "items.a.nope: unknown field, expected `team`, `count` or `colour`"),
        ("items: {a: {team: x, colour: blue}}", 1, 30, "items.a.colour: invalid enum value 'blue', expected `red` or `green`"),
        ("items: {}\nitems: {}", 2, 1, "`items` stands twice"),
        ("items: [", 2, 1, "not YAML: did not find expected node content"),
        ("items: {a: {}}", 1, 12, "items.a: object missing required field `team`"),
        ("just text", 1, 1, "expected `object`, got `str`"),
        ("items: {[1]: 2}", 1, 9, "expected a plain text key"),
        ("items: {1: {team: x}}", 1, 8, "items: expected `str`, got `int`"),
    ],
)
def test_an_error_says_where_and_what(text: str, line: int, column: int, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml(text, "f.yaml").convert(Whole)
    error = caught.value
    assert (error.line, error.column, error.problem) == (line, column, problem)
    assert str(error).startswith(f"f.yaml:{line}:{column}: ")


def test_the_caret_stands_under_the_fault() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_yaml("items: {a: {team: 3}}", "f.yaml").convert(Whole)
    message, excerpt, caret = str(caught.value).splitlines()
    assert excerpt[caret.index("^")] == "3"
    assert message.endswith("got `int`")


def test_an_empty_file_lacks_what_is_required() -> None:
    with pytest.raises(ConfigError, match="missing required field `items`"):
        parse_yaml("", "f.yaml").convert(Whole)


def test_nesting_without_end_is_an_error_and_no_crash() -> None:
    for text in ("a: " + "[" * 100_000, "- " * 100_000, "{a: " * 100_000):
        with pytest.raises(ConfigError, match="nested deeper than 64"):
            parse_yaml(text, "f.yaml")
