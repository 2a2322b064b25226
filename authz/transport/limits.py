"""What one peer may do, and how often."""

from __future__ import annotations

from typing import Final

from msgspec import Struct

_NS: Final = 1_000_000_000
MIB: Final = 1024 * 1024


class Rate(Struct, frozen=True):
    """So many at once, and so many a second from then on."""

    burst: int
    per_s: int


class Limits(Struct, frozen=True, kw_only=True):
    """Beyond what a gRPC client does on its worst day; a peer that goes beyond them is told so and cut off.

    message_bytes      the largest message, as before on grpcio
    partial_bytes      of all messages that have begun to arrive and not ended, on one connection
    streams            under way at once on one connection
    stream_window, window  how much a stream, and all of them together, may send before we have read it
    head_bytes         of a call's headers, each counted with 32 bytes more: beyond it the call is refused
    block_bytes        of a header block on the wire: beyond it the connection is
    output_bytes       waiting for a peer that does not read: beyond it we read nothing more from it
    handshake_ns, message_ns  how long a preface, and one message, may take to arrive
    resets             calls that the peer cancels, or that we do: as many as a store that hangs makes Envoy give up at once
    chatter            PING, SETTINGS, PRIORITY, empty DATA and what we do not know
    updates            WINDOW_UPDATE; a client may send one with each answer
    """

    message_bytes: int = 64 * MIB
    partial_bytes: int = 256 * MIB
    streams: int = 4096
    stream_window: int = MIB
    window: int = 16 * MIB
    head_bytes: int = 16 * 1024
    block_bytes: int = 128 * 1024
    output_bytes: int = MIB
    handshake_ns: int = 5 * _NS
    message_ns: int = 60 * _NS
    resets: Rate = Rate(8192, 2048)
    chatter: Rate = Rate(1000, 100)
    updates: Rate = Rate(100_000, 100_000)


class Allowance:
    """What is left of a `Rate`."""

    __slots__ = ("_at_ns", "_left", "_rate")

    def __init__(self, rate: Rate, now_ns: int) -> None:
        self._rate, self._left, self._at_ns = rate, float(rate.burst), now_ns

    def spend(self, now_ns: int) -> bool:
        """Whether there was one left."""
        if self._left < 1:
            self._left = min(self._rate.burst, self._left + (now_ns - self._at_ns) * self._rate.per_s / _NS)
            self._at_ns = now_ns
            if self._left < 1:
                return False
        self._left -= 1
        return True
