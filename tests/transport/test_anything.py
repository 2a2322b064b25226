"""Whatever a peer sends, a connection answers in frames and never raises."""

from __future__ import annotations

import random

import hypothesis.strategies as st
from hypothesis import given, settings

from authz.transport.connection import Connection
from authz.transport.streams import Called, Cancelled
from tests.transport.anything import GOOD_HEAD, LIMITS, check_bytes, check_frames
from tests.transport.peer import Peer, hello

MUTATIONS = 3_000


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=400))
def test_any_bytes(data: bytes) -> None:
    check_bytes(data)


@settings(max_examples=800, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 255), st.integers(0, 255), st.integers(0, 255), st.binary(max_size=60)), max_size=30))
def test_any_frames(sent: list[tuple[int, int, int, bytes]]) -> None:
    check_frames(b"".join(bytes((kind, flags, stream, len(payload))) + payload for kind, flags, stream, payload in sent))


def test_a_conversation_with_bytes_changed() -> None:
    chance = random.Random(1)
    peer = Peer()
    good = hello() + peer.acknowledge() + b"".join(peer.call(stream, bytes(20)) for stream in range(1, 9, 2))
    for _ in range(MUTATIONS):
        data = bytearray(good)
        for _ in range(chance.randint(1, 6)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        connection = Connection(LIMITS, {}, 0)
        for event in connection.receive(bytes(data), 0):
            assert not isinstance(event, Cancelled) or event.stream
        connection.take()


def test_the_head_of_the_targets_is_a_good_one() -> None:
    """Otherwise they would try little."""
    connection = Connection(LIMITS, {}, 0)
    connection.receive(hello(), 0)
    head = bytes((0, 0, len(GOOD_HEAD), 1, 4, 0, 0, 0, 1)) + GOOD_HEAD
    (event,) = connection.receive(head + bytes((0, 0, 5, 0, 1, 0, 0, 0, 1)) + bytes(5), 0)
    assert isinstance(event, Called)
