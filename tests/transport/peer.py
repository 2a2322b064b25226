"""A client of ours, by hand: it writes what a test wants to be written, and reads the answers frame by frame."""

from __future__ import annotations

from typing import Final, NamedTuple

from hpack import Decoder, Encoder

from authz.transport import frames
from authz.transport.frames import END_HEADERS, END_STREAM, Code, Kind, Setting, frame
from authz.transport.messages import framed

PATH: Final = "/envoy.service.auth.v3.Authorization/Check"
HEADERS: Final = (
    (":method", "POST"),
    (":scheme", "http"),
    (":path", PATH),
    (":authority", "sidecar"),
    ("te", "trailers"),
    ("content-type", "application/grpc"),
    ("grpc-timeout", "600m"),
)


class Frame(NamedTuple):
    kind: int
    flags: int
    stream: int
    payload: bytes


def parse(data: bytes) -> list[Frame]:
    """Whole frames, and nothing else."""
    found, at = [], 0
    while at < len(data):
        high, low, kind, flags, number = frames.HEAD.unpack_from(data, at)
        size = high << 8 | low
        at += frames.HEAD_BYTES
        assert at + size <= len(data), "a frame is cut off"
        found.append(Frame(kind, flags, number, data[at : at + size]))
        at += size
    return found


def hello(settings: dict[Setting, int] | None = None) -> bytes:
    return frames.PREFACE + frames.settings(settings or {})


ACKNOWLEDGED: Final = frame(Kind.SETTINGS, frames.ACK, 0)


class Peer:
    """Encodes with a table until it has acknowledged our settings, and then without, as a real one does."""

    def __init__(self) -> None:
        self._encoder = Encoder()
        self._decoder = Decoder()

    def acknowledge(self) -> bytes:
        self._encoder.header_table_size = 0
        return ACKNOWLEDGED

    def head(self, stream: int, headers: tuple[tuple[str, str], ...] = HEADERS, *, flags: int = END_HEADERS) -> bytes:
        return frame(Kind.HEADERS, flags, stream, self.block(headers))

    def block(self, headers: tuple[tuple[str, str], ...] = HEADERS) -> bytes:
        return self._encoder.encode(headers)

    def call(self, stream: int, message: bytes = b"", headers: tuple[tuple[str, str], ...] = HEADERS) -> bytes:
        return self.head(stream, headers) + frame(Kind.DATA, END_STREAM, stream, framed(message))

    def fields(self, block: bytes) -> dict[str, str]:
        return {str(name): str(value) for name, value in self._decoder.decode(block)}

    def answers(self, data: bytes) -> dict[int, tuple[dict[str, str], bytes, bool]]:
        """By stream: headers and trailers in one, the body, and whether that was all."""
        found: dict[int, tuple[dict[str, str], bytes, bool]] = {}
        for kind, flags, stream, payload in parse(data):
            fields, body, ended = found.get(stream, ({}, b"", False))
            if kind == Kind.HEADERS:
                fields = fields | self.fields(payload)
            elif kind == Kind.DATA:
                body += payload
            else:
                continue
            found[stream] = (fields, body, ended or bool(flags & END_STREAM))
        return found


def ended_with(data: bytes) -> tuple[Code, str] | None:
    """The code and the words of the last GOAWAY."""
    for kind, _, _, payload in reversed(parse(data)):
        if kind == Kind.GOAWAY:
            return Code(frames.TWO_UINT32.unpack(payload[:8])[1]), payload[8:].decode()
    return None


def resets(data: bytes) -> dict[int, Code]:
    return {
        stream: Code(frames.UINT32.unpack(payload)[0]) for kind, _, stream, payload in parse(data) if kind == Kind.RST_STREAM
    }
