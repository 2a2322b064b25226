"""`multipart/form-data` read so that every parser would have read the same parts; whatever they could disagree on is refused.

The parser is a library's. Parsers differ in what they forgive: a preamble, bare line feeds, padding behind a boundary, folded
headers, a missing end. So what was read is written out once more in the one canonical form and has to be the body, byte for
byte; and the boundary may stand nowhere but between parts, for those who look for it without its line break.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from msgspec import Struct
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser

from authz.errors import Refused
from authz.reasons import Reason

if TYPE_CHECKING:
    from python_multipart.multipart import MultipartCallbacks

MAX_PARTS: Final = 16
MAX_HEADERS: Final = 4
MAX_HEADER_BYTES: Final = 512
MAX_BOUNDARY_BYTES: Final = 70

_BOUNDARY: Final = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_.")
"""Narrower than the RFC, wider than what any client makes: nothing that one reader quotes and another does not."""

_PREFIX: Final = "multipart/form-data;"


class Part(Struct, frozen=True):
    """One part. `filename` is None for a field; `content_type` is "" where none is given."""

    name: str
    filename: str | None
    content_type: str
    content: bytes


def boundary_of(content_type: str) -> str | None:
    """The boundary of a `multipart/form-data` content type with this one parameter and nothing else, or None."""
    if content_type[: len(_PREFIX)].lower() != _PREFIX:
        return None
    name, _, boundary = content_type[len(_PREFIX) :].strip(" ").partition("=")
    if len(boundary) > 1 and boundary[0] == boundary[-1] == '"':
        boundary = boundary[1:-1]
    if name.lower() != "boundary" or not 1 <= len(boundary) <= MAX_BOUNDARY_BYTES or not _BOUNDARY.issuperset(boundary):
        return None
    return boundary


def read_parts(body: bytes, boundary: str) -> tuple[Part, ...]:
    """The parts in order. Raises `Refused` (`invalid_request_error`)."""
    raw = _Reading()
    parser = MultipartParser(
        boundary.encode("ascii"), raw.callbacks(), max_header_count=MAX_HEADERS, max_header_size=MAX_HEADER_BYTES
    )
    try:
        parser.write(body)
    except FormParserError as error:
        raise _refused(f"it is not multipart/form-data: {str(error)[:120].lower()}") from None
    delimiter = b"--" + boundary.encode("ascii")
    if body.count(delimiter) != len(raw.parts) + 1:
        raise _refused("the boundary stands where no part begins or ends")
    if not _is_canonical(body, raw.parts, delimiter):
        raise _refused(
            "it is not in the form that every parser reads alike: no preamble, no padding, lines end in CR LF, an end"
        )
    return tuple(_part(part.headers, body[part.start : part.end]) for part in raw.parts)


def _refused(problem: str) -> Refused:
    return Refused(Reason.INVALID_REQUEST, f"We could not parse the body of your request: {problem}.")


_Headers = list[tuple[bytes, bytes]]


class _Span(Struct):
    """A part as it is read: where its content stands in the body, and how much of it the parser has called out."""

    headers: _Headers
    start: int = 0
    end: int = 0
    length: int = 0


class _Reading:
    """Collects what the parser calls out. The body is written to it in one piece, so that places are places in the body."""

    def __init__(self) -> None:
        self.parts: list[_Span] = []

    def callbacks(self) -> MultipartCallbacks:
        return {
            "on_part_begin": self._begin,
            "on_header_begin": lambda: self.parts[-1].headers.append((b"", b"")),
            "on_header_field": self._field,
            "on_header_value": self._value,
            "on_part_data": self._content,
        }

    def _begin(self) -> None:
        if len(self.parts) == MAX_PARTS:
            raise _refused(f"it has more than {MAX_PARTS} parts")
        self.parts.append(_Span([]))

    def _field(self, data: bytes, start: int, end: int) -> None:
        headers = self.parts[-1].headers
        headers[-1] = (headers[-1][0] + data[start:end], headers[-1][1])

    def _value(self, data: bytes, start: int, end: int) -> None:
        headers = self.parts[-1].headers
        headers[-1] = (headers[-1][0], headers[-1][1] + data[start:end])

    def _content(self, data: bytes, start: int, end: int) -> None:
        part = self.parts[-1]
        part.start = start if part.length == 0 else part.start
        part.end, part.length = end, part.length + end - start


def _is_canonical(body: bytes, parts: list[_Span], delimiter: bytes) -> bool:
    """Whether the parts, written out once more, are the body, byte for byte; contents are compared by where they stand."""
    place = 0
    for part in parts:
        head = b"".join(b"%s: %s\r\n" % header for header in part.headers)
        before = b"%s\r\n%s\r\n" % (delimiter, head)
        if not body.startswith(before, place):
            return False
        place += len(before)
        if part.length == 0:
            part.start = part.end = place
        if part.start != place or part.end != place + part.length or not body.startswith(b"\r\n", part.end):
            return False
        place = part.end + 2
    return body[place:] in (delimiter + b"--", delimiter + b"--\r\n")


def _part(headers: _Headers, content: bytes) -> Part:
    found: dict[str, str] = {}
    for raw_name, raw_value in headers:
        name = raw_name.decode("ascii").lower()  # the parser lets only a token's characters through
        if name not in ("content-disposition", "content-type") or name in found:
            raise _refused("a part has a header other than one Content-Disposition and one Content-Type")
        try:
            value = raw_value.decode("utf-8")
        except UnicodeDecodeError:
            raise _refused("a part's header is not UTF-8") from None
        if not value.isprintable():
            raise _refused("a part's header holds a control character")
        found[name] = value
    name, filename = _disposition(found.get("content-disposition", ""))
    return Part(name, filename, found.get("content-type", ""), content)


def _disposition(value: str) -> tuple[str, str | None]:
    """`form-data; name="…"`, and for a file `; filename="…"`: as every client writes it, with nothing to unescape."""
    if "\\" not in value:
        match value.split('"'):
            case ["form-data; name=", name, ""]:
                return name, None
            case ["form-data; name=", name, "; filename=", filename, ""]:
                return name, filename
    raise _refused('expected parts with `Content-Disposition: form-data; name="…"`, a file with `; filename="…"` after it')
