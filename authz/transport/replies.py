"""What we answer with, ready but for the stream's number: no header of ours differs from one answer to the next, and none of
them enters the peer's table."""

from __future__ import annotations

from typing import Final

from authz.transport.frames import END_HEADERS, END_STREAM, HEAD, UINT32, Kind, frame
from authz.transport.heads import Refusal, percent_encoded
from authz.transport.messages import PREFIX_BYTES

_STATUS_200: Final = b"\x88"


def _literal(name: bytes, value: bytes) -> bytes:
    """A field that is not to be indexed (RFC 7541, 6.2.2), in plain bytes."""
    return b"\x00" + _string(name) + _string(value)


def _string(text: bytes) -> bytes:
    if len(text) < 127:
        return bytes((len(text),)) + text
    rest, size = len(text) - 127, [127]
    while rest >= 128:
        size.append(rest % 128 | 128)
        rest //= 128
    return bytes((*size, rest)) + text


NO_TABLE: Final = b"\x20"
"""Before the first block of a connection: we use no table, whatever the peer allows."""

_HEADERS: Final = _STATUS_200 + _literal(b"content-type", b"application/grpc")
_TRAILERS: Final = _literal(b"grpc-status", b"0")

_HEADERS_HEAD: Final = HEAD.pack(0, len(_HEADERS), Kind.HEADERS, END_HEADERS, 0)[:5]
_TRAILERS_HEAD: Final = HEAD.pack(0, len(_TRAILERS), Kind.HEADERS, END_HEADERS | END_STREAM, 0)[:5]


def whole(stream: int, message: bytes) -> bytes:
    """Headers, one DATA frame and trailers; the message with its prefix fits into a frame and the windows."""
    size, number = len(message), UINT32.pack(stream)
    framed = size + PREFIX_BYTES
    return b"".join(
        (
            _HEADERS_HEAD,
            number,
            _HEADERS,
            HEAD.pack(framed >> 8, framed & 0xFF, Kind.DATA, 0, stream),
            b"\x00",
            UINT32.pack(size),
            message,
            _TRAILERS_HEAD,
            number,
            _TRAILERS,
        )
    )


def begin(stream: int, prefix: bytes = b"") -> bytes:
    return frame(Kind.HEADERS, END_HEADERS, stream, prefix + _HEADERS)


def end(stream: int) -> bytes:
    return frame(Kind.HEADERS, END_HEADERS | END_STREAM, stream, _TRAILERS)


def refuse(stream: int, refusal: Refusal, prefix: bytes = b"") -> bytes:
    """An error as the whole answer."""
    status = _STATUS_200 if refusal.http == 200 else _literal(b":status", str(refusal.http).encode())
    block = (
        prefix
        + status
        + _literal(b"content-type", b"application/grpc")
        + _literal(b"grpc-status", str(refusal.status).encode())
        + _literal(b"grpc-message", percent_encoded(refusal.message))
        + _literal(b"grpc-accept-encoding", b"identity")
    )
    return frame(Kind.HEADERS, END_HEADERS | END_STREAM, stream, block)
