"""What our reader of JSON takes, every common parser reads the same way: none that stands behind us sees another request."""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable
from typing import Any, Final

import jiter
import msgspec
import pydantic_core
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.errors import Refused
from authz.inference.jsonbody import read_object

PARSERS: Final[dict[str, Callable[[bytes], Any]]] = {
    "json": json.loads,
    "msgspec": msgspec.json.decode,
    "jiter": jiter.from_json,  # Rust, what the SDKs read with
    "pydantic": pydantic_core.from_json,
}


def _also(name: str) -> None:
    """Those that happen to be installed."""
    try:
        PARSERS[name] = importlib.import_module(name).loads
    except ImportError:
        return


_also("orjson")
_also("ujson")

_SEEDS: Final = [
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"n":1,"max_tokens":10,"temperature":0.7,"stream":true}',
    b'{"model":"m","\\u006dodel":"n","input":["a",null,-0,1e2,1E-7,9007199254740993]}',
    b'{"a":{"b":[{"c":"\\ud83d\\ude00 \\/ \\b \\u0000"},[],{}]},"d":12345678901234567890}',
]
_PIECES: Final = [
    *(bytes([byte]) for byte in b'{}[]",:\\/ \t\r\n\x00-+.eE0123456789au'),
    b'"model":"m"', b'"model":"n",', b"\\u006d", b"\\ud800", b"\\uDC00", b"NaN", b"-Infinity", b"1e999", b"0x1", b"01",
    b"1.", b".5", b"-0", b"-0.0", b"\xef\xbb\xbf", b"\xff", b"\xed\xa0\x80", b"\xc0\x80", b"true", b"null", b"9" * 17,
    b"//", b"/*", b"'", b"\xc2\xa0", b"\x1f",
]  # fmt: skip

_edits = st.lists(st.tuples(st.integers(0, 120), st.integers(0, 3), st.sampled_from(_PIECES)), max_size=6)


def same(one: Any, other: Any) -> bool:
    """Equal, and of the same types, also where Python calls `1`, `1.0` and `True` equal."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def agree(body: bytes) -> bool:
    """Whether ours takes it; fails where another then reads it differently, or not at all."""
    try:
        ours = read_object(body)
    except Refused:
        return False
    for name, parse in PARSERS.items():
        assert same(parse(body), ours), name
    return True


@settings(max_examples=1500)
@given(st.sampled_from(_SEEDS), _edits)
def test_what_we_take_every_parser_reads_alike(seed: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    body = seed
    for place, length, piece in edits:
        body = body[:place] + piece + body[place + length :]
    agree(body)


_scalars = (
    st.none()
    | st.booleans()
    | st.integers(-(10**16) + 1, 10**16 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text()
)
_values = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3), max_leaves=12
)


@given(st.dictionaries(st.text().filter(lambda key: "\0" not in key), _values, max_size=4), st.booleans())
def test_what_they_disagree_on_is_little(value: dict[str, Any], ascii_only: bool) -> None:
    """The test above would hold of a reader that takes nothing."""
    keys = json.dumps(value)
    assert agree(json.dumps(value, ensure_ascii=ascii_only).encode()) or "\\u0000" in keys


def test_there_is_something_to_agree_on() -> None:
    assert agree(_SEEDS[0])
    assert not agree(b'{"a":1,"a":2}')
    assert {"json", "msgspec", "jiter"} <= PARSERS.keys()
