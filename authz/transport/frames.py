"""HTTP/2's frames (RFC 9113): their names, and those that we write."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEAD_BYTES: Final = 9
MAX_WINDOW: Final = 2**31 - 1
MAX_STREAM: Final = 2**31 - 1

HEAD: Final = Struct(">HBBBI")
"""Length in two parts, type, flags, stream."""
SETTING: Final = Struct(">HI")
UINT32: Final = Struct(">I")
TWO_UINT32: Final = Struct(">II")

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITISED: Final = 0x20


class Kind(IntEnum):
    DATA = 0
    HEADERS = 1
    PRIORITY = 2
    RST_STREAM = 3
    SETTINGS = 4
    PUSH_PROMISE = 5
    PING = 6
    GOAWAY = 7
    WINDOW_UPDATE = 8
    CONTINUATION = 9


class Setting(IntEnum):
    HEADER_TABLE_SIZE = 1
    ENABLE_PUSH = 2
    MAX_CONCURRENT_STREAMS = 3
    INITIAL_WINDOW_SIZE = 4
    MAX_FRAME_SIZE = 5
    MAX_HEADER_LIST_SIZE = 6


class Code(IntEnum):
    """Why a stream or a connection ends."""

    NO_ERROR = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2
    FLOW_CONTROL_ERROR = 3
    SETTINGS_TIMEOUT = 4
    STREAM_CLOSED = 5
    FRAME_SIZE_ERROR = 6
    REFUSED_STREAM = 7
    CANCEL = 8
    COMPRESSION_ERROR = 9
    CONNECT_ERROR = 10
    ENHANCE_YOUR_CALM = 11


class ConnectionFault(Exception):
    """The peer's, and the connection cannot go on: `code` and what was wrong."""

    def __init__(self, code: Code, problem: str) -> None:
        self.code, self.problem = code, problem
        super().__init__(f"{code.name}: {problem}")


def frame(kind: Kind, flags: int, stream: int, payload: bytes = b"") -> bytes:
    size = len(payload)
    return HEAD.pack(size >> 8, size & 0xFF, kind, flags, stream) + payload


def settings(values: dict[Setting, int]) -> bytes:
    return frame(Kind.SETTINGS, 0, 0, b"".join(SETTING.pack(name, value) for name, value in values.items()))


def window_update(stream: int, by: int) -> bytes:
    return frame(Kind.WINDOW_UPDATE, 0, stream, UINT32.pack(by))


def reset(stream: int, code: Code) -> bytes:
    return frame(Kind.RST_STREAM, 0, stream, UINT32.pack(code))


def go_away(last_stream: int, code: Code, problem: str = "") -> bytes:
    return frame(Kind.GOAWAY, 0, 0, TWO_UINT32.pack(last_stream, code) + problem.encode())


def unpadded(flags: int, payload: bytes) -> bytes:
    """What a DATA or HEADERS frame carries. Raises `ConnectionFault`."""
    if not flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise ConnectionFault(Code.PROTOCOL_ERROR, "more padding than the frame is long")
    return payload[1 : len(payload) - payload[0]]
