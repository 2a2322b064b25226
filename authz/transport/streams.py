"""A stream, its states, and what is told of it."""

from __future__ import annotations

from enum import Enum, auto

from msgspec import Struct

from authz.transport.heads import Head


class State(Enum):
    IDLE = auto()
    RECEIVING = auto()
    WAITING = auto()
    SENDING = auto()
    GONE = auto()


class Called(Struct, frozen=True):
    """A call is whole."""

    stream: int
    head: Head
    message: bytes
    deadline_ns: int | None


class Cancelled(Struct, frozen=True):
    """The peer does not want the answer of this stream, or did not hear it."""

    stream: int


Event = Called | Cancelled


class Stream:
    """One that is receiving, waiting or sending.

    parts, size  of its body, as far as it is here
    unread       received since we last opened the peer's window
    credit       what the peer has opened our window by beyond its initial size, less what was sent
    rest         of the answer that waits for the windows
    """

    __slots__ = ("began_ns", "credit", "deadline_ns", "head", "parts", "rest", "size", "state", "unread")

    def __init__(self, head: Head, now_ns: int) -> None:
        self.state = State.RECEIVING
        self.head, self.began_ns = head, now_ns
        self.deadline_ns = now_ns + head.timeout_ns if head.timeout_ns is not None else None
        self.parts: list[bytes] = []
        self.size = self.unread = self.credit = 0
        self.rest = memoryview(b"")
