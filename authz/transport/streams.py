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
    FLOWING = auto()
    LEAVING = auto()
    GONE = auto()


class Called(Struct, frozen=True):
    """A call is whole."""

    stream: int
    head: Head
    message: bytes
    deadline_ns: int | None


class Said(Struct, frozen=True):
    """One message of a call that has many."""

    head: Head
    message: bytes


class Cancelled(Struct, frozen=True):
    """The peer does not want the answer of this stream, or did not hear it."""

    stream: int


Event = Called | Said | Cancelled


class Stream:
    """One that is neither idle nor gone.

    parts, size  of its body, as far as it is here
    missing      how long the parts have to be before there is anything to read in them, where the stream flows
    unread       received since we last opened the peer's window
    credit       what the peer has opened our window by beyond its initial size, less what was sent
    rest         of the answer that waits for the windows
    """

    __slots__ = ("began_ns", "credit", "deadline_ns", "head", "missing", "parts", "rest", "size", "state", "unread")

    def __init__(self, head: Head, now_ns: int, state: State = State.RECEIVING) -> None:
        self.state = state
        self.head, self.began_ns = head, now_ns
        self.deadline_ns = now_ns + head.timeout_ns if head.timeout_ns is not None else None
        self.parts: list[bytes] = []
        self.size = self.unread = self.credit = self.missing = 0
        self.rest = memoryview(b"")
