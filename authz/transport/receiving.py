"""What a connection receives: how much the peer may send before we have read it, and the bodies that are not whole yet."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from authz.transport import frames
from authz.transport.frames import Code, ConnectionFault
from authz.transport.heads import RESOURCE_EXHAUSTED, Refusal
from authz.transport.limits import Limits
from authz.transport.messages import PREFIX_BYTES, split, too_large
from authz.transport.sending import DEFAULT_WINDOW
from authz.transport.streams import Stream


class Receiver:
    """put  sends a frame"""

    def __init__(self, limits: Limits, put: Callable[[bytes], None]) -> None:
        self._limits, self._put = limits, put
        self._window: Final = max(limits.window, DEFAULT_WINDOW)
        self._unread = self._partial = 0

    def begin(self) -> None:
        if self._window > DEFAULT_WINDOW:
            self._put(frames.window_update(0, self._window - DEFAULT_WINDOW))

    def account(self, size: int) -> None:
        """Raises `ConnectionFault`."""
        self._unread += size
        if self._unread > self._window:
            raise ConnectionFault(Code.FLOW_CONTROL_ERROR, "more than the connection's window")
        if self._unread > self._window // 2:
            self._put(frames.window_update(0, self._unread))
            self._unread = 0

    def keep(self, stream: Stream, payload: bytes) -> None:
        stream.parts.append(payload)
        stream.size += len(payload)
        self._partial += len(payload)

    def oversize(self, stream: Stream) -> Refusal | None:
        if stream.size > self._limits.message_bytes + PREFIX_BYTES:
            return too_large(self._limits.message_bytes)
        if self._partial > self._limits.partial_bytes:
            return Refusal(RESOURCE_EXHAUSTED, "too much of other messages has begun to arrive")
        return None

    def whole(self, stream: Stream) -> bytes:
        """The body, which is ours no longer."""
        body = stream.parts[0] if len(stream.parts) == 1 else b"".join(stream.parts)
        self.forget(stream)
        return body

    def messages(self, stream: Stream) -> list[bytes] | Refusal:
        """Those that have become whole, of a stream that flows."""
        if stream.size < stream.missing:
            return []  # INVARIANT: a large message is put together once, and not again with each of its frames
        found = split(self.whole(stream), self._limits.message_bytes)
        if isinstance(found, Refusal):
            return found
        messages, rest, stream.missing = found
        self.keep(stream, rest)
        return messages

    def forget(self, stream: Stream) -> None:
        self._partial -= stream.size
        stream.parts, stream.size = [], 0

    def forget_all(self, streams: dict[int, Stream]) -> None:
        streams.clear()
        self._partial = 0
