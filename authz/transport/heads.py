"""A call's header block, read once: a peer that is told to keep no table sends the same bytes for the same headers."""

from __future__ import annotations

import re
from typing import Final

from hpack import Decoder, HPACKError
from msgspec import Struct

from authz.transport.frames import Code, ConnectionFault

INVALID_ARGUMENT: Final = 3
DEADLINE_EXCEEDED: Final = 4
RESOURCE_EXHAUSTED: Final = 8
UNIMPLEMENTED: Final = 12
INTERNAL: Final = 13

_MAX_CACHED: Final = 512
_MAX_CACHED_BYTES: Final = 2048
_MAX_PROBLEM: Final = 200
_FIELD_BYTES: Final = 32
"""What a field counts beside its name and value (RFC 9113, 6.5.2)."""

_NAME: Final = re.compile(rb"[!#$%&'*+\-.^_`|~0-9a-z]+")
_BAD_VALUE: Final = re.compile(rb"[\x00\r\n]")
_TIMEOUT: Final = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS_NS: Final = {b"H": 3_600 * 10**9, b"M": 60 * 10**9, b"S": 10**9, b"m": 10**6, b"u": 10**3, b"n": 1}
_OF_ONE_CONNECTION: Final = frozenset({b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"})
_PSEUDO: Final = frozenset({b":method", b":scheme", b":path", b":authority"})


class Refusal(Struct, frozen=True):
    """A call that is answered with an error: gRPC's status, and HTTP's where it is no gRPC at all."""

    status: int
    message: str
    http: int = 200


class Head(Struct, frozen=True):
    """What counts of a call's headers.

    malformed  what makes it no request of HTTP/2's; the stream is reset · refusal  what makes it no call that we answer
    timeout_ns  how long the peer waits for the answer; None for as long as it takes
    length     of the body, where the peer says it
    """

    path: bytes = b""
    timeout_ns: int | None = None
    traceparent: str = ""
    length: int | None = None
    malformed: str = ""
    refusal: Refusal | None = None


class Heads:
    """The header blocks of one connection. `known` may be shared: what is in it depends on nothing but the block itself."""

    def __init__(self, known: dict[bytes, Head], *, head_bytes: int, block_bytes: int) -> None:
        self._known, self._head_bytes = known, head_bytes
        self._decoder = Decoder(max_header_list_size=4 * block_bytes)

    def forbid_table(self) -> None:
        """The peer has acknowledged that it keeps no table: its next block says so."""
        self._decoder.max_allowed_table_size = 0

    def read(self, block: bytes) -> Head:
        """Raises `ConnectionFault` where the block cannot be decoded: every later one would be misread."""
        stateless = self._decoder.header_table_size == 0
        if stateless and (found := self._known.get(block)) is not None:
            return found
        try:
            fields = [(bytes(name), bytes(value)) for name, value in self._decoder.decode(block, raw=True)]
        except HPACKError as error:
            raise ConnectionFault(Code.COMPRESSION_ERROR, f"a header block cannot be decoded: {type(error).__name__}") from None
        head = _read(fields, self._head_bytes)
        # INVARIANT: with a table of no size before and after it, a block means the same on every connection.
        if stateless and self._decoder.header_table_size == 0 and len(block) <= _MAX_CACHED_BYTES:
            if len(self._known) >= _MAX_CACHED:
                self._known.clear()  # what is used comes back at its next use
            self._known[block] = head
        return head


def _read(fields: list[tuple[bytes, bytes]], most_bytes: int) -> Head:
    if malformed := _malformed(fields):
        return Head(malformed=malformed)
    said = dict(fields)
    path, kind = said[b":path"], said.get(b"content-type", b"")
    if sum(len(name) + len(value) + _FIELD_BYTES for name, value in fields) > most_bytes:
        return Head(refusal=Refusal(RESOURCE_EXHAUSTED, f"metadata: expected at most {most_bytes} bytes"))
    if kind.partition(b";")[0].strip() not in (b"application/grpc", b"application/grpc+proto"):
        return Head(refusal=Refusal(UNIMPLEMENTED, "content-type: expected `application/grpc`", http=415))
    if said[b":method"] != b"POST":
        return Head(refusal=Refusal(UNIMPLEMENTED, "method: expected POST", http=405))
    if said.get(b"te", b"trailers") != b"trailers":
        return Head(refusal=Refusal(UNIMPLEMENTED, "te: expected `trailers`"))
    timeout = _TIMEOUT.fullmatch(said[b"grpc-timeout"]) if b"grpc-timeout" in said else None
    if timeout is None and b"grpc-timeout" in said:
        return Head(refusal=Refusal(INVALID_ARGUMENT, "grpc-timeout: expected 1 to 8 digits and one of H M S m u n"))
    length = said.get(b"content-length", b"")
    return Head(
        path=path,
        timeout_ns=int(timeout[1]) * _UNITS_NS[timeout[2]] if timeout is not None else None,
        traceparent=said.get(b"traceparent", b"").decode("ascii", "replace"),
        length=int(length) if length else None,
    )


def _malformed(fields: list[tuple[bytes, bytes]]) -> str:
    """What RFC 9113 (8.2, 8.3) calls malformed, in words; empty where nothing is."""
    seen: set[bytes] = set()
    regular = False
    for name, value in fields:
        if _BAD_VALUE.search(value):
            return "a value with a line break or a NUL"
        if name.startswith(b":"):
            if name not in _PSEUDO or name in seen or regular:
                return "a pseudo-header that is unknown, doubled or late"
            seen.add(name)
            continue
        regular = True
        if _NAME.fullmatch(name) is None:
            return "a name that is none, or not in lower case"
        if name in _OF_ONE_CONNECTION:
            return "a header of HTTP/1 connections"
        if name == b"content-length" and (not value.isdigit() or len(value) > 19 or name in seen):
            return "a content-length that is no number, or doubled"
        seen.add(name)
    if not {b":method", b":scheme", b":path"} <= seen or not dict(fields)[b":path"]:
        return "no method, scheme or path"
    return ""


def percent_encoded(message: str) -> bytes:
    """As `grpc-message` wants it."""
    told = message[:_MAX_PROBLEM].encode()
    return b"".join(bytes((byte,)) if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte for byte in told)
