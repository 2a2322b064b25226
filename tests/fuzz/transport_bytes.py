"""Bytes on the transport's socket: frames of HTTP/2 in any order and any pieces. A connection answers, or ends and says why."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from hpack import Encoder

from authz.transport import frames
from authz.transport.connection import Connection
from authz.transport.frames import ACK, END_STREAM, Kind
from authz.transport.heads import Head
from authz.transport.limits import Limits
from authz.transport.messages import framed
from authz.transport.streams import Called

_PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
_END_HEADERS: Final = 0x4
_MOST: Final = Limits()


def _block() -> bytes:
    encoder = Encoder()
    encoder.header_table_size = 0
    path = "/envoy.service.auth.v3.Authorization/Check"
    headers = ((":method", "POST"), (":scheme", "http"), (":path", path), (":authority", "a"))
    more = (("content-type", "application/grpc"), ("te", "trailers"), ("grpc-timeout", "600m"))
    return bytes(encoder.encode([*headers, *more]))


def _streams() -> Iterator[bytes]:
    begin = _PREFACE + frames.settings({})
    head = frames.frame(Kind.HEADERS, _END_HEADERS, 1, _block())
    data = frames.frame(Kind.DATA, END_STREAM, 1, framed(b"hello"))
    yield begin
    yield begin + head + data
    yield begin + head + frames.frame(Kind.DATA, 0, 1, framed(b"hello")[:4]) + frames.frame(Kind.RST_STREAM, 0, 1, bytes(4))
    yield (
        begin + frames.frame(Kind.HEADERS, 0, 1, _block()[:9]) + frames.frame(Kind.CONTINUATION, _END_HEADERS, 1, _block()[9:])
    )
    yield begin + frames.frame(Kind.SETTINGS, ACK, 0, b"") + frames.frame(Kind.PING, 0, 0, bytes(8)) + head + data
    yield begin + frames.frame(Kind.WINDOW_UPDATE, 0, 0, b"\x7f\xff\xff\xff") + frames.frame(Kind.GOAWAY, 0, 0, bytes(8))
    yield begin + frames.frame(Kind.PRIORITY, 0, 3, bytes(5)) + frames.frame(Kind.PUSH_PROMISE, _END_HEADERS, 1, bytes(4))
    yield b"GET / HTTP/1.1\r\n\r\n"


SEEDS: Final = tuple(bytes([cut]) + stream for stream in _streams() for cut in (0, 9))


def target() -> Callable[[bytes], str]:
    def one(data: bytes) -> str:
        """The first byte says how long the pieces are in which they arrive."""
        cut, rest = (data[0] or len(data), data[1:]) if data else (1, b"")
        known: dict[bytes, Head] = {}
        connection = Connection(_MOST, known, 0)
        called = answered = now_ns = 0
        for start in range(0, len(rest), cut):
            now_ns += 1_000_000
            for event in connection.receive(rest[start : start + cut], now_ns):
                if isinstance(event, Called):
                    called += 1
                    answered += connection.answer(event.stream, b"a" * 40)
            connection.take()
        connection.expire(now_ns + 60_000_000_000)
        connection.drain()
        left = connection.take()
        assert answered <= called
        if connection.fault is not None:
            assert connection.finished
            return str(connection.fault.code)
        assert connection.finished or left or not rest
        return "called" if called else "open"

    return one
