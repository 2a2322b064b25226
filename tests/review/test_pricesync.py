"""The upstream's list of models against the price book: what is proposed, what is not believed, what stays to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from hypothesis import given
from hypothesis import strategies as st

from authz.cli import cli
from authz.errors import ConfigError
from authz.inference.pricebook import PriceBook, read_pricebook
from authz.review.pricesync import Proposal, Sort, compare, difference, edited, read_list, usd_text
from authz.yamlfile import parse_yaml
from demo.answers import Behaviour
from demo.standin import StandIn
from tests.place import lay_out

BOOK = """# a comment that stays
version: v1
models:
  a/b:  # and this one
    actions: [chat]
    price: {input: "0.05", output: 0.08}   # USD
    context_tokens: 1000
    max_output_tokens: 100
  block:
    price:
      input: 1
      output: "2"
    actions: [chat]
    context_tokens: 1000
    max_output_tokens: 100
  heard: {actions: [transcribe], price: {audio_hour: 1}}
aliases: {fast: a/b}
decommissioned: {old: {}}
"""


def book(text: str = BOOK) -> PriceBook:
    return read_pricebook(parse_yaml(text, "models.yaml"))


def row(name: str, **fields: Any) -> dict[str, Any]:
    return {"id": name, "object": "model", "active": True} | fields


def priced(prompt: Any = "0.00000005", completion: Any = "0.00000008", **more: Any) -> dict[str, Any]:
    return {"pricing": {"prompt": prompt, "completion": completion} | more}


ALL = [row("a/b"), row("block"), row("heard")]


def proposed(*rows: dict[str, Any]) -> tuple[Proposal, ...]:
    """Of these rows and of the rest of the book's models as they are."""
    named = {each["id"] for each in rows}
    body = {"object": "list", "data": [*rows, *(each for each in ALL if each["id"] not in named)]}
    return compare(book(), read_list(json.dumps(body).encode(), "list"))


def test_what_is_as_the_book_says_is_not_told() -> None:
    assert proposed() == ()
    said = row("a/b", context_window=1000, max_completion_tokens=100, **priced("5e-8", "0.000000080"), created=1, owned_by="x")
    assert proposed(said) == ()
    assert proposed(row("fast"), *ALL) == ()


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (row("a/b", **priced("0.00000006")), [Proposal(Sort.CHANGED, "a/b", "price.input", "0.05", "0.06")]),
        (
            row("a/b", **priced(input_cache_read="0.000000025")),
            [Proposal(Sort.CHANGED, "a/b", "price.cached_input", "0.05", "0.025")],
        ),
        (row("a/b", context_length=2000), [Proposal(Sort.CHANGED, "a/b", "context_tokens", "1000", "2000")]),
        (row("a/b", max_output_length=50), [Proposal(Sort.CHANGED, "a/b", "max_output_tokens", "100", "50")]),
        (row("new"), [Proposal(Sort.NEW, "new")]),
        (
            row("new", context_window=9, **priced("0.000001")),
            [Proposal(Sort.NEW, "new", theirs='price: {input: "1", output: "0.08"}, context_tokens: 9')],
        ),
        (row("old"), [Proposal(Sort.BACK, "old")]),
        (row("new", active=False), []),
        (row("old", active=False), []),
        (row("a/b", active=False), [Proposal(Sort.GONE, "a/b")]),
    ],
)
def test_what_differs_is_proposed(said: dict[str, Any], expected: list[Proposal]) -> None:
    assert list(proposed(said)) == expected


def test_what_the_list_does_not_have_is_gone() -> None:
    body = json.dumps({"data": [row("fast"), row("heard")]}).encode()
    assert compare(book(), read_list(body, "list")) == (Proposal(Sort.GONE, "block"),)


@pytest.mark.parametrize(
    "said",
    ["0", "0.0", "-0.1", "", "1", "NaN", "Infinity", "1e-16", "1e-999999999", "1e999999999", "0,1", "1/2", "٠.١",
     "0." + "1" * 40, 0.00000005, 1, True, [], {}],
)  # fmt: skip
def test_a_price_that_cannot_be_is_told_of_and_never_used(said: Any) -> None:
    found = proposed(row("a/b", **priced(said)))
    assert found == (Proposal(Sort.UNREADABLE, "a/b", "pricing.prompt"),)
    assert edited(BOOK, "models.yaml", found, "v2") == BOOK


@pytest.mark.parametrize("field", ["context_window", "context_length", "max_completion_tokens", "max_output_length"])
@pytest.mark.parametrize("said", [0, -1, True, "9", 1.5, 10**12, [9]])
def test_a_ceiling_that_cannot_be_is_told_of_and_never_used(field: str, said: Any) -> None:
    assert proposed(row("a/b", **{field: said})) == (Proposal(Sort.UNREADABLE, "a/b", field),)


@pytest.mark.parametrize("pricing", ["0.1", [], 5, True])
def test_pricing_that_is_no_object_is_told_of(pricing: Any) -> None:
    assert proposed(row("a/b", pricing=pricing)) == (Proposal(Sort.UNREADABLE, "a/b", "pricing"),)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"[]", b"{}", b"null", b"<html>", b'{"data":{}}', b'{"data":[]}', b'{"data":[1]}', b'{"data":[{}]}',
        b'{"data":[{"id":1}]}', b'{"data":[{"id":""}]}', b'{"data":[{"id":"a b"}]}', b'{"data":[{"id":"a\\u001b[2J"}]}',
        b'{"data":[{"id":"a"},{"id":"a"}]}', b'{"data":[{"id":"a","id":"b"}]}', b'{"data":[{"id":"' + b"a" * 129 + b'"}]}',
        b'{"data":' + b"[" * 100 + b"]" * 100 + b"}", b'{"data":[{"id":"a","created":' + b"9" * 5000 + b"}]}",
    ],
)  # fmt: skip
def test_what_is_no_list_of_models_is_refused_whole(body: bytes) -> None:
    with pytest.raises(ConfigError, match="not a list of models"):
        read_list(body, "list")


@given(st.integers(1, 10**12 - 1))
def test_a_price_for_a_token_is_read_exactly(nanousd_a_million: int) -> None:
    digits = f"{nanousd_a_million:015d}"
    (said,) = read_list(json.dumps({"data": [row("m", **priced(f"0.{digits}"))]}).encode(), "list")
    assert said.prices["input"] == nanousd_a_million
    assert usd_text(nanousd_a_million).replace(".", "").lstrip("0").rstrip("0") == digits.strip("0")


# ---- the diff


NEW = '# new, say what it may be used for: new: {actions: [], price: {input: "0.05", output: "0.08"}}'


def test_only_what_is_proposed_changes_in_the_text() -> None:
    found = proposed(
        row("a/b", context_window=2000, **priced("0.00000006", input_cache_read="0.00000003")),
        row("block", **priced("0.000001", "0.000003", input_cache_read="0.0000005")),
        row("new", **priced()),
    )
    text = edited(BOOK, "models.yaml", found, "2027-01-01")
    expected = (
        BOOK.replace("version: v1", 'version: "2027-01-01"')
        .replace('{input: "0.05"', '{cached_input: "0.03", input: "0.06"')
        .replace(
            "    context_tokens: 1000\n    max_output_tokens: 100\n  block",
            "    context_tokens: 2000\n    max_output_tokens: 100\n  block",
        )
        .replace('      input: 1\n      output: "2"', '      cached_input: "0.5"\n      input: 1\n      output: "3"')
        .replace("  a/b:", f"  {NEW}\n  a/b:")
    )
    assert text == expected
    after = book(text)
    assert after.version == "2027-01-01"
    assert after.models["heard"] == book().models["heard"]
    assert "new" not in after.models, "nobody has said what it may be used for"
    lines = difference(BOOK, text, "models.yaml").splitlines()
    assert lines[:2] == ["--- a/models.yaml", "+++ b/models.yaml"]
    assert sum(line.startswith("-") for line in lines[2:]) == 4
    assert compare(after, read_list(json.dumps({"data": [row("new"), *ALL]}).encode(), "list")) == (Proposal(Sort.NEW, "new"),)


def test_a_change_that_makes_no_price_book_is_refused() -> None:
    with pytest.raises(ConfigError, match="above `context_tokens`"):
        edited(BOOK, "models.yaml", proposed(row("a/b", context_window=50)), "v2")


def test_a_value_that_two_models_share_is_not_changed_for_one() -> None:
    shared = BOOK.replace("price: {input", "price: &p {input").replace("{audio_hour: 1}", "*p")
    body = json.dumps({"data": [row("a/b", **priced("0.00000006")), row("block"), row("heard")]}).encode()
    found = compare(book(shared), read_list(body, "list"))
    with pytest.raises(ConfigError, match="`heard` shares a value"):
        edited(shared, "models.yaml", found, "v2")


# ---- the command


@pytest.fixture
def standin(tmp_path: Path) -> Iterator[StandIn]:
    with StandIn("gsk_made_up") as groq:
        config = lay_out(tmp_path)
        upstream = f"{{key_env: MADE_UP, host: 127.0.0.1, port: {groq.port}, tls: false}}"
        config.write_text(config.read_text() + f"upstream: {upstream}\n")
        yield groq


def sync(folder: Path, *arguments: str, key: str = "gsk_made_up") -> Result:
    command = ["prices", "sync", "--config", str(folder / "authz.yaml"), *arguments]
    return CliRunner().invoke(cli, command, env={"MADE_UP": key})


def listed(folder: Path) -> list[dict[str, Any]]:
    return [row(name) for name in book((folder / "policies/models.yaml").read_text()).models]


def test_nothing_to_propose_is_0_and_a_proposal_is_1_and_writes_nothing(tmp_path: Path, standin: StandIn) -> None:
    standin.behave(Behaviour(more={"data": listed(tmp_path)}))
    done = sync(tmp_path)
    assert (done.exit_code, done.output) == (0, "")
    rows = [row("llama-3.1-8b-instant", **priced("0.00000006")), *listed(tmp_path)]
    del rows[[each["id"] for each in rows].index("llama-3.1-8b-instant", 1)]
    standin.behave(Behaviour(more={"data": rows}))
    path = tmp_path / "policies/models.yaml"
    before = path.read_bytes()
    done = sync(tmp_path)
    assert done.exit_code == 1
    assert done.output.startswith("changed llama-3.1-8b-instant price.input: 0.05 -> 0.06\n--- a/models.yaml\n")
    assert '+    price: {input: "0.06", output: "0.08"}\n' in done.output
    found = json.loads(sync(tmp_path, "--json").output)
    assert found["proposals"] == [
        {"sort": "changed", "model": "llama-3.1-8b-instant", "field": "price.input", "ours": "0.05", "theirs": "0.06"}
    ]
    assert found["diff"] in done.output
    assert path.read_bytes() == before
    assert standin.received()[-1].header("authorization") == ("Bearer gsk_made_up",)


@pytest.mark.parametrize(
    ("behaviour", "key", "problem"),
    [
        (Behaviour(), "gsk_another", "status 401"),
        (Behaviour(), "", "the key `default` is not set"),
        (Behaviour(status=503), "gsk_made_up", "status 503"),
        (Behaviour(more={"data": "x" * 5_000_000}), "gsk_made_up", "more than 4194304 bytes"),
        (Behaviour(more={"data": []}), "gsk_made_up", "not a list of models"),
    ],
)
def test_what_cannot_be_read_is_no_proposal(
    tmp_path: Path, standin: StandIn, behaviour: Behaviour, key: str, problem: str
) -> None:
    standin.behave(behaviour)
    done = sync(tmp_path, key=key)
    assert isinstance(done.exception, ConfigError)  # which `main` makes exit 2 of
    assert problem in str(done.exception)
    assert "gsk_" not in str(done.exception)


def test_the_key_never_travels_in_the_clear(tmp_path: Path) -> None:
    config = lay_out(tmp_path)
    config.write_text(config.read_text() + "upstream: {key_env: MADE_UP, host: groq.example, tls: false}\n")
    done = sync(tmp_path)
    assert "expected https" in str(done.exception)


def test_a_key_is_chosen_by_its_name(tmp_path: Path, standin: StandIn) -> None:
    config = tmp_path / "authz.yaml"
    keys = "keys: [{name: one, key_env: NOWHERE}, {name: two, key_env: MADE_UP, teams: [chatbot]}]"
    config.write_text(config.read_text().replace("key_env: MADE_UP", keys))
    assert sync(tmp_path, "--upstream", "two").exit_code == 1
    assert "the key `one` is not set" in str(sync(tmp_path).exception)
    assert "no key is called `three`" in str(sync(tmp_path, "--upstream", "three").exception)
