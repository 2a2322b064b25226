"""Bytes into frames: the preface, and header blocks put together from as many frames as they came in."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from authz.transport import frames
from authz.transport.frames import END_HEADERS, PADDED, PRIORITISED, Code, ConnectionFault, Kind

FRAME_BYTES: Final = 16_384
_PRIORITY_BYTES: Final = 5
_MOST_CONTINUATIONS: Final = 64

Frame = tuple[int, int, int, bytes]
"""Kind, flags, stream and payload; of HEADERS the whole block, without padding and priority. CONTINUATION is no frame here."""


class FrameReader:
    """block_bytes  of the largest header block"""

    def __init__(self, block_bytes: int) -> None:
        self._block_bytes = block_bytes
        self._missing = frames.PREFACE
        self._rest = b""  # the beginning of a frame
        self._block: tuple[int, int, bytearray, int] | None = None  # flags, stream, what is there of it, in how many frames
        self._greeted = False

    def feed(self, data: bytes) -> Iterator[Frame]:
        """The frames that end in these bytes; to be read to the end. Raises `ConnectionFault`."""
        if self._missing:
            data = self._greet(data)
        buffer = self._rest + data if self._rest else data
        at, end = 0, len(buffer)
        while end - at >= frames.HEAD_BYTES:
            high, low, kind, flags, number = frames.HEAD.unpack_from(buffer, at)
            size = high << 8 | low
            if size > FRAME_BYTES:
                raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"a frame of {size} bytes, expected at most {FRAME_BYTES}")
            begin = at + frames.HEAD_BYTES
            following = begin + size
            if following > end:
                break
            at, payload, number = following, buffer[begin:following], number & frames.MAX_STREAM
            if not self._greeted and kind != Kind.SETTINGS:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "expected SETTINGS first")
            self._greeted = True
            if kind == Kind.HEADERS or kind == Kind.CONTINUATION or self._block is not None:
                whole = self._headers(kind, flags, number, payload)
                if whole is not None:
                    yield whole
            else:
                yield kind, flags, number, payload
        self._rest = buffer[at:]

    def _greet(self, data: bytes) -> bytes:
        """Takes the preface; answers what comes after it."""
        missing = self._missing
        if data[: len(missing)] != missing[: len(data)]:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "expected HTTP/2's preface: this socket speaks gRPC and nothing else")
        self._missing = missing[len(data) :]
        return data[len(missing) :]

    def _headers(self, kind: int, flags: int, number: int, payload: bytes) -> Frame | None:
        if self._block is None:
            if kind != Kind.HEADERS:
                raise ConnectionFault(Code.PROTOCOL_ERROR, "CONTINUATION without HEADERS")
            block = frames.unpadded(flags, payload) if flags & PADDED else payload
            if flags & PRIORITISED:
                if len(block) < _PRIORITY_BYTES:
                    raise ConnectionFault(Code.FRAME_SIZE_ERROR, "HEADERS are too short for their priority")
                block = block[_PRIORITY_BYTES:]
            if flags & END_HEADERS:
                return Kind.HEADERS, flags, number, block
            self._block = (flags, number, bytearray(block), 1)
            return None
        began, stream, pieces, count = self._block
        if kind != Kind.CONTINUATION or number != stream:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "a header block was not ended, expected CONTINUATION")
        pieces += payload
        if len(pieces) > self._block_bytes or count > _MOST_CONTINUATIONS:
            raise ConnectionFault(
                Code.ENHANCE_YOUR_CALM, f"a header block above {self._block_bytes} bytes, or in too many frames"
            )
        if flags & END_HEADERS:
            self._block = None
            return Kind.HEADERS, began, stream, bytes(pieces)
        self._block = (began, stream, pieces, count + 1)
        return None
