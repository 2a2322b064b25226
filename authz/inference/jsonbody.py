"""JSON read so that every common parser would have read the same; whatever they could disagree on is refused.

The gateway behind us parses the body again with a parser of its own. A key given twice, a number that overflows, a byte-order
mark or half a surrogate pair may then name another model than the one that was authorised, so none of them is let through.
Nesting is bounded by a flat scan before the parser, which recurses, ever runs.

There are two readers. The careful one says what is taken and what is wrong with the rest. The plain one is several times as
fast and has no opinion: what it reads the careful one would have read just so, and what it is not sure of it leaves to that.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any, Final

import msgspec

from authz.errors import Refused
from authz.reasons import Reason

MAX_DEPTH: Final = 64
MAX_INTEGER_DIGITS: Final = 16
"""Integers that a double holds exactly end within 16 digits; beyond them parsers differ."""

_END_OF_INTEGERS: Final = 10**MAX_INTEGER_DIGITS
_parse: Final[Callable[[bytes], Any]] = msgspec.json.Decoder().decode

_ALL_BUT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_OPENING: Final = frozenset(b"[{")


def read_object(body: bytes) -> dict[str, Any]:
    """The body as an object of plain values. Raises `Refused` (`invalid_request_error`) and says what was expected."""
    return read_plain(body) or read_carefully(body)


def read_plain(body: bytes) -> dict[str, Any] | None:
    """The body as `read_carefully` reads it, or None where that has to look itself.

    The parser refuses all that is not JSON, what is not UTF-8 and numbers beyond a double. Left to see are: a key that stands
    twice (there are more colons outside of strings than members), large integers, and what only `\\u` can bring: half a
    surrogate pair, a NUL in a key.
    """
    if b"\\u" in body or _deeper_than(body, MAX_DEPTH):
        return None
    try:
        value = _parse(body)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
    if type(value) is not dict:
        return None
    members = _members(value)
    # Where all colons of the body are accounted for, those outside of strings are.
    if members != body.count(b":") and members != _outside_strings(body).count(b":"):
        return None
    return value


def _members(value: dict[str, Any]) -> int:
    """How many members all objects in it have; -1 where there is an integer too large to be sure of."""
    found = len(value)
    stack: list[Any] = [value.values()]
    while stack:
        for item in stack.pop():
            kind = type(item)
            if kind is dict:
                found += len(item)
                stack.append(item.values())
            elif kind is list:
                stack.append(item)
            elif kind is int and not -_END_OF_INTEGERS < item < _END_OF_INTEGERS:
                return -1
    return found


def read_carefully(body: bytes) -> dict[str, Any]:
    """Raises `Refused`."""
    if not body:
        raise _refused("the body is empty, expected a JSON object")
    if _deeper_than(body, MAX_DEPTH):
        raise _refused(f"the body is nested deeper than {MAX_DEPTH} levels")
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise _refused(f"the body is not UTF-8 at byte {error.start}") from None
    if text.startswith("\ufeff") or "\0" in text:
        raise _refused("the body is not plain UTF-8 JSON: it holds a byte-order mark or a NUL byte")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise _refused(f"the body is not JSON: {error.msg.lower()} at character {error.pos}") from None
    if not isinstance(value, dict):
        raise _refused("the body is not a JSON object")
    # A lone surrogate can only have come as an escape, since the text itself was UTF-8.
    if "\\u" in text and ("\\ud" in text or "\\uD" in text):
        _refuse_lone_surrogates(value)
    return value


def _refused(problem: str, private: str = "") -> Refused:
    return Refused(Reason.INVALID_REQUEST, f"We could not parse the body of your request: {problem}.", private=private)


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        seen: set[str] = set()
        twin = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        name = _shown(twin)
        raise _refused(f"the key {name} stands twice", name)
    for key in found:
        if "\0" in key:
            raise _refused("a key holds a NUL")
    return found


def _integer(digits: str) -> int:
    if len(digits.lstrip("-")) > MAX_INTEGER_DIGITS:
        raise _refused(f"an integer has more than {MAX_INTEGER_DIGITS} digits")
    return int(digits)


def _float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise _refused("a number is larger than any double")
    return value


def _constant(name: str) -> Any:
    raise _refused(f"`{name}` is not JSON")


_DECODER: Final = json.JSONDecoder(object_pairs_hook=_pairs, parse_int=_integer, parse_float=_float, parse_constant=_constant)


def _deeper_than(body: bytes, limit: int) -> bool:
    """Whether brackets outside strings nest deeper than `limit`; what is not JSON the parser refuses whatever this says."""
    if body.count(b"[") + body.count(b"{") <= limit:
        return False
    depth = 0
    for bracket in _outside_strings(body).translate(None, _ALL_BUT_BRACKETS):
        if bracket in _OPENING:
            depth += 1
            if depth > limit:
                return True
        else:
            depth -= 1
    return False


def _outside_strings(body: bytes) -> bytes:
    if b"\\" in body:
        # Dropping escaped backslashes, then escaped quotes, leaves only the quotes that open and close strings.
        body = body.replace(b"\\\\", b"").replace(b'\\"', b"")
    return b"".join(body.split(b'"')[::2])


def _refuse_lone_surrogates(value: Any) -> None:
    stack = [value]
    while stack:
        item = stack.pop()
        if isinstance(item, str):
            if not _is_unicode(item):
                raise _refused("a string holds half a surrogate pair")
        elif isinstance(item, dict):
            stack.extend(item.keys())
            stack.extend(item.values())
        elif isinstance(item, list):
            stack.extend(item)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _shown(key: str) -> str:
    """A client's key in a message: short, and on one line."""
    return json.dumps(key[:40])
