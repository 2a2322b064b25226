"""JSON read so that every common parser would have read the same; whatever they could disagree on is refused.

The gateway behind us parses the body again with a parser of its own. A key given twice, a number that overflows, a byte-order
mark or half a surrogate pair may then name another model than the one that was authorised, so none of them is let through.
Nesting is bounded by a flat scan before the parser, which recurses, ever runs.
"""

from __future__ import annotations

import json
import math
from typing import Any, Final

from authz.errors import Refused
from authz.reasons import Reason

MAX_DEPTH: Final = 64
MAX_INTEGER_DIGITS: Final = 16
"""Integers that a double holds exactly end within 16 digits; beyond them parsers differ."""

_ALL_BUT_BRACKETS: Final = bytes(byte for byte in range(256) if byte not in b"[]{}")
_OPENING: Final = frozenset(b"[{")


def read_object(body: bytes) -> dict[str, Any]:
    """The body as an object of plain values. Raises `Refused` (`invalid_request_error`) and says what was expected."""
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
    # Dropping escaped backslashes, then escaped quotes, leaves only the quotes that open and close strings.
    outside = b"".join(body.replace(b"\\\\", b"").replace(b'\\"', b"").split(b'"')[::2])
    depth = 0
    for bracket in outside.translate(None, _ALL_BUT_BRACKETS):
        if bracket in _OPENING:
            depth += 1
            if depth > limit:
                return True
        else:
            depth -= 1
    return False


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
