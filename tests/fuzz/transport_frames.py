"""Whole frames of HTTP/2: kinds, flags, streams and payloads are the fuzzer's. Limits are small, so that they are met."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from authz.transport.frames import Kind
from tests.transport.anything import check_frames


def _said(*sent: tuple[int, int, int, bytes]) -> bytes:
    return b"".join(bytes((kind, flags, stream, len(payload))) + payload for kind, flags, stream, payload in sent)


SEEDS: Final = (
    _said((0, 0, 1, b""), (Kind.DATA + 11, 1, 1, bytes(5))),
    _said((0, 0, 1, b""), (Kind.WINDOW_UPDATE, 0, 1, bytes(4)), (Kind.RST_STREAM, 0, 1, bytes(4))),
    _said((Kind.SETTINGS + 11, 0, 0, b"\x00\x04\x00\x00\x00\x05"), (Kind.PING, 0, 0, bytes(8)), (Kind.GOAWAY, 0, 0, bytes(8))),
    _said((0x80, 0, 1, b""), (Kind.DATA + 11, 0, 1, b"\0\0\0\0\1a\0\0\0\0\2b"), (Kind.DATA + 11, 1, 1, b"b")),
    _said((Kind.HEADERS, 0, 1, b"\x83"), (Kind.CONTINUATION, 4, 1, b"\x86\x84")),
)


def target() -> Callable[[bytes], str]:
    def one(data: bytes) -> str:
        return "open" if check_frames(data) else "ended"

    return one
