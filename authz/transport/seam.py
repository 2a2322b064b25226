"""What a transport and whoever answers its calls know of each other: bytes in, bytes out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

Unheard = Callable[[], None]
"""Takes back what an answer promised; called at most once, where the peer left before it can have heard the answer."""

UNKNOWN: Final = 2
INVALID_ARGUMENT: Final = 3
NOT_FOUND: Final = 5
"""gRPC's statuses: a fault of ours, and two of the peer's."""


class Line(Protocol):
    """Where answers go. One that is lost by then is no error: `unheard` is called."""

    def answer(self, stream: int, message: bytes, unheard: Unheard | None = None) -> None: ...

    def fail(self, stream: int, status: int, message: str) -> None:
        """Answers with a gRPC error."""

    def flush(self) -> None:
        """Sends what was answered since the last time."""


class Call:
    """One unary call. It is answered once, unless it is `cancelled` by then.

    message      what the peer sent, uncompressed
    traceparent  of the peer's own span around this call; empty where it traces nothing
    deadline_ns  by the steady clock, after which the peer does not wait any longer; None for never
    withdrawn    is called when the peer cancels before there is an answer; whoever keeps the call sets it
    """

    __slots__ = ("cancelled", "deadline_ns", "line", "message", "stream", "traceparent", "withdrawn")

    def __init__(self, line: Line, stream: int, message: bytes, traceparent: str, deadline_ns: int | None) -> None:
        self.line, self.stream, self.message = line, stream, message
        self.traceparent, self.deadline_ns = traceparent, deadline_ns
        self.cancelled = False
        self.withdrawn: Callable[[], None] | None = None

    def answer(self, message: bytes, unheard: Unheard | None = None) -> None:
        self.line.answer(self.stream, message, unheard)

    def fail(self, status: int, message: str) -> None:
        self.line.fail(self.stream, status, message)

    def cancel(self) -> None:
        self.cancelled = True
        if self.withdrawn is not None:
            self.withdrawn()


Answerer = Callable[[Call], None]
"""Answers a call, now or later; it does not flush, where it answers at once."""

Hearer = Callable[[bytes], None]
"""Hears one message of a stream; must not raise, or the connection and what it carries end."""
