"""The strict JSON reader: what common parsers could read differently is refused (A17 to A25)."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.errors import Refused
from authz.inference.jsonbody import MAX_DEPTH, read_object
from authz.reasons import Reason

REFUSED = {
    "empty": (b"", "empty"),
    "not json": (b"{", "not JSON"),
    "not an object": (b"[]", "not a JSON object"),
    "twin key": (b'{"model":"a","model":"b"}', '"model" stands twice'),
    "twin key, one escaped": (b'{"model":"a","\\u006dodel":"b"}', '"model" stands twice'),
    "twin key far down": (b'{"a":[{"b":{"c":1,"c":2}}]}', '"c" stands twice'),
    "byte-order mark": (b'\xef\xbb\xbf{"a":1}', "byte-order mark"),
    "utf-16": ('{"a":1}'.encode("utf-16"), "not UTF-8"),
    "utf-16 without a mark": ('{"a":1}'.encode("utf-16-le"), "NUL"),
    "utf-32": ('{"a":1}'.encode("utf-32-be"), "NUL"),
    "not utf-8": (b'{"a":"\xff"}', "not UTF-8 at byte 6"),
    "NaN": (b'{"a":NaN}', "`NaN` is not JSON"),
    "Infinity": (b'{"a":-Infinity}', "`-Infinity` is not JSON"),
    "1e999": (b'{"a":1e999}', "larger than any double"),
    "30 digits": (b'{"a":' + b"9" * 30 + b"}", "more than 16 digits"),
    "5,000 digits": (b'{"a":' + b"9" * 5000 + b"}", "more than 16 digits"),
    "lone surrogate": (b'{"a":["\\ud800"]}', "half a surrogate pair"),
    "lone surrogate, upper case": (b'{"a":"\\uDC00x"}', "half a surrogate pair"),
    "lone surrogate as a key": (b'{"\\ud800":1}', "half a surrogate pair"),
    "NUL in a key": (b'{"a\\u0000":1}', "NUL"),
    "trailing data": (b'{"a":1} {"b":2}', "not JSON"),
    "control character": (b'{"a":"\n"}', "not JSON"),
    "single quotes": (b"{'a':1}", "not JSON"),
    "nested": (b'{"a":' + b"[" * MAX_DEPTH + b"]" * MAX_DEPTH + b"}", "nested deeper"),
    "nested a million deep": (b"[" * 1_000_000, "nested deeper"),
}


SAID = {
    b"": "the body is empty, expected a JSON object",
    b"[]": "the body is not a JSON object",
    b"{": "the body is not JSON: expecting property name enclosed in double quotes at character 1",
    b'{"x":1,"a\\u0000":1}': "a key holds a NUL",
    b'{"a":1e999}': "a number is larger than any double",
    b'{"a":"\\ud800"}': "a string holds half a surrogate pair",
    b'{"b":1,"a":1,"a":1}': 'the key "a" stands twice',
    b'{"%b":1,"%b":1}' % (b"k" * 41, b"k" * 41): f'the key "{"k" * 40}" stands twice',
}


@pytest.mark.parametrize("body", SAID)
def test_a_refusal_says_what_is_wrong(body: bytes) -> None:
    with pytest.raises(Refused) as caught:
        read_object(body)
    assert caught.value.message == f"We could not parse the body of your request: {SAID[body]}."


def test_only_the_clients_own_words_are_private() -> None:
    for body, private in ((b'{"a":1,"a":1}', '"a"'), (b"", ""), (b"{", "")):
        with pytest.raises(Refused) as caught:
            read_object(body)
        assert caught.value.private == private


@pytest.mark.parametrize("name", REFUSED)
def test_what_parsers_disagree_on_is_refused(name: str) -> None:
    body, problem = REFUSED[name]
    with pytest.raises(Refused, match="We could not parse the body") as caught:
        read_object(body)
    assert caught.value.reason is Reason.INVALID_REQUEST
    assert problem in caught.value.message


def test_the_deepest_nesting_allowed_is_read() -> None:
    inner = MAX_DEPTH - 1
    assert read_object(b'{"a":' + b"[" * inner + b"]" * inner + b"}")


@pytest.mark.parametrize("width", [1, 3, 40])
def test_what_stands_side_by_side_is_not_nested(width: int) -> None:
    """Every bracket that closes takes back the one that it opened with, whatever stands between them."""
    row = b"[" * (MAX_DEPTH - 2) + b'"a\\\\\\"]"' + b"]" * (MAX_DEPTH - 2)
    assert read_object(b'{"a":[' + b",".join([row] * width) + b"]}")
    with pytest.raises(Refused, match="nested deeper"):
        read_object(b'{"a":[' + b",".join([row] * width) + b",[" + row + b"]]}")


def test_an_escaped_key_alone_reads_as_the_plain_one() -> None:
    assert read_object(b'{"\\u006dodel":"x"}') == read_object(b'{"model":"x"}')


def test_a_pair_of_surrogates_is_a_character() -> None:
    assert read_object(b'{"a":"\\ud83d\\ude00"}') == {"a": "\U0001f600"}


@pytest.mark.parametrize("text", ['["]}"]' * 40, '\\"[{' * 40, "\\\\" * 70, "[" * 200])
def test_brackets_inside_strings_are_not_nesting(text: str) -> None:
    assert read_object(json.dumps({"a": text, "b": [[text]]}).encode()) == {"a": text, "b": [[text]]}


_keys = st.text().filter(lambda key: "\0" not in key)
_json = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**15), 10**15) | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(_keys, inner, max_size=4),
    max_leaves=20,
)


@given(st.dictionaries(_keys, _json, max_size=4), st.booleans())
def test_whatever_it_reads_is_what_the_standard_parser_reads(value: dict[str, object], ascii_only: bool) -> None:
    body = json.dumps(value, ensure_ascii=ascii_only).encode()
    assert read_object(body) == value


@given(st.binary(max_size=200))
def test_any_bytes_are_an_object_or_one_declared_refusal(body: bytes) -> None:
    try:
        outcome: object = read_object(body)
    except Refused as refused:
        outcome = refused.reason
    assert isinstance(outcome, dict) or outcome is Reason.INVALID_REQUEST
