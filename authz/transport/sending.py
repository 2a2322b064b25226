"""What a connection sends: frames in order, and answers as the peer's windows let them through."""

from __future__ import annotations

from typing import Final

from authz.transport import frames, replies
from authz.transport.frames import Code, ConnectionFault, Setting
from authz.transport.heads import Refusal
from authz.transport.messages import PREFIX_BYTES, framed
from authz.transport.streams import State, Stream

DEFAULT_WINDOW: Final = 65_535
DEFAULT_FRAME_BYTES: Final = 16_384


class Sender:
    def __init__(self) -> None:
        self._out: list[bytes] = []
        self._window = self._initial = DEFAULT_WINDOW
        self._frame_bytes = DEFAULT_FRAME_BYTES
        self._prefix = replies.NO_TABLE

    def put(self, frame: bytes) -> None:
        self._out.append(frame)

    def take(self) -> bytes:
        out, self._out = self._out, []
        return out[0] if len(out) == 1 else b"".join(out)

    # What the peer allows

    def obey(self, name: int, value: int) -> None:
        """One of its settings: those that bind us, for we push nothing, use no table, and our headers are short."""
        if name == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.MAX_WINDOW:
                raise ConnectionFault(Code.FLOW_CONTROL_ERROR, f"an initial window of {value}")
            self._initial = value
        elif name == Setting.MAX_FRAME_SIZE:
            if not DEFAULT_FRAME_BYTES <= value < 2**24:
                raise ConnectionFault(Code.PROTOCOL_ERROR, f"a maximum frame size of {value}")
            self._frame_bytes = value
        elif name == Setting.ENABLE_PUSH and value > 1:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"ENABLE_PUSH of {value}, expected 0 or 1")

    def open_window(self, by: int) -> None:
        self._window += by
        if self._window > frames.MAX_WINDOW:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, f"a window of {self._window}")

    def open_stream(self, stream: Stream, by: int) -> bool:
        """False where that is more than a window may be."""
        stream.credit += by
        return self._initial + stream.credit <= frames.MAX_WINDOW

    # Answers

    def answer(self, number: int, stream: Stream, message: bytes) -> bool:
        """Whether all of it is on its way; otherwise `pump` it when a window opens."""
        size = len(message) + PREFIX_BYTES
        if self._prefix or size > self._frame_bytes or size > self._window or size > self._initial + stream.credit:
            self._out.append(replies.begin(number, self._prefix))
            self._prefix = b""
            stream.state, stream.rest = State.SENDING, memoryview(framed(message))
            return self.pump(number, stream)
        self._window -= size
        self._out.append(replies.whole(number, message))
        return True

    def pump(self, number: int, stream: Stream) -> bool:
        """The same for an answer that waits."""
        while stream.rest:
            size = min(len(stream.rest), self._frame_bytes, self._window, self._initial + stream.credit)
            if size <= 0:
                return False
            self._out.append(frames.frame(frames.Kind.DATA, 0, number, bytes(stream.rest[:size])))
            self._window -= size
            stream.credit -= size
            stream.rest = stream.rest[size:]
        self._out.append(replies.end(number))
        return True

    def refuse(self, number: int, refusal: Refusal) -> None:
        self._out.append(replies.refuse(number, refusal, self._prefix))
        self._prefix = b""

    def leave(self, number: int, stream: Stream) -> None:
        """An empty message, and the end. A peer that lets not even that through is told the end alone."""
        if min(self._window, self._initial + stream.credit) >= PREFIX_BYTES:
            self.answer(number, stream, b"")
        else:
            self._out.append(replies.begin(number, self._prefix) + replies.end(number))
            self._prefix = b""
