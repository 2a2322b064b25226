"""Any bytes at all, to a connection: a target for a fuzzer. What comes out is calls and frames, whatever went in."""

from __future__ import annotations

from typing import Final

from authz.transport import frames
from authz.transport.connection import Connection
from authz.transport.frames import END_HEADERS, Kind
from authz.transport.heads import Refusal
from authz.transport.limits import Limits, Rate
from authz.transport.streams import Called, Said
from tests.transport.peer import hello, parse

LIMITS: Final = Limits(
    message_bytes=2_000,
    partial_bytes=3_000,
    streams=5,
    stream_window=65_535,
    window=70_000,
    head_bytes=500,
    block_bytes=1_000,
    resets=Rate(20, 5),
    chatter=Rate(30, 5),
    updates=Rate(30, 5),
)
_KINDS: Final = (*Kind, 0xAA)
_FLOWING: Final = (b"/a/b",)
_STEP_NS: Final = 10_000_000


def check_bytes(data: bytes) -> None:
    """The bytes as they are, in pieces whose lengths they choose themselves. Raises AssertionError for a promise broken."""
    connection, now_ns, at = Connection(LIMITS, {}, 0, _FLOWING), 0, 0
    if data[:1] < b"\xf0":
        _say(connection, hello(), 0)
    while at < len(data):
        size = data[at] + 1
        now_ns += _STEP_NS
        _say(connection, data[at + 1 : at + 1 + size], now_ns)
        at += 1 + size
    _end(connection, now_ns)


def check_frames(data: bytes) -> bool:
    """The bytes as frames with lengths that hold: kind, flags, stream and payload are theirs to choose. Whether the connection
    was still open at their end."""
    connection, now_ns, at = Connection(LIMITS, {}, 0, _FLOWING if data[:1] >= b"\x80" else ()), 0, 0
    _say(connection, hello(), 0)
    while at + 4 <= len(data):
        kind, flags, stream, size = data[at : at + 4]
        payload = data[at + 4 : at + 4 + size]
        at += 4 + size
        now_ns += _STEP_NS
        if kind % 4 == 0:  # often enough a head that is one
            payload, flags = GOOD_HEAD, flags | END_HEADERS
        whole = frames.frame(Kind.HEADERS, flags, stream % 16, payload)
        number = _KINDS[kind % len(_KINDS)]
        _say(connection, whole[:3] + bytes((Kind.HEADERS if kind % 4 == 0 else number,)) + whole[4:], now_ns)
    is_open = not connection.finished
    _end(connection, now_ns)
    return is_open


def _say(connection: Connection, data: bytes, now_ns: int) -> None:
    finished = connection.finished
    for event in connection.receive(data, now_ns):
        assert not finished, "a connection that has ended tells of nothing"
        if isinstance(event, Said):
            assert event.head.path in _FLOWING
            assert len(event.message) <= LIMITS.message_bytes
        elif isinstance(event, Called):
            if event.stream % 3 == 0:
                connection.refuse(event.stream, Refusal(12, "no"))
            elif event.stream % 3 == 1:
                connection.answer(event.stream, event.message * 3)
    sent = parse(connection.take())
    assert not (finished and sent), "a connection that has ended says nothing more"
    assert len(connection._streams) <= LIMITS.streams
    partial = connection._receiver._partial
    assert sum(stream.size for stream in connection._streams.values()) == partial <= LIMITS.partial_bytes + 20_000


def _end(connection: Connection, now_ns: int) -> None:
    connection.drain()
    parse(connection.take())
    connection.expire(now_ns + 10**12)
    parse(connection.take())


GOOD_HEAD: Final = b"\x83\x86\x00\x05:path\x04/a/b\x00\x0ccontent-type\x10application/grpc\x00\x0cgrpc-timeout\x0310m"
