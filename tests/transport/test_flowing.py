"""Streams whose messages are told one by one: what is told, how one ends, and that nothing is lost where we end it first."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given

from authz.transport.frames import END_HEADERS, END_STREAM, PADDED, Code, Kind, Setting, frame, reset
from authz.transport.messages import framed
from authz.transport.streams import Cancelled, Event, Said
from tests.transport.peer import HEADERS, PATH, parse, resets
from tests.transport.test_connection import SMALL, It, S

DATA = Kind.DATA


def flowing(settings: dict[Setting, int] | None = None) -> It:
    """With one stream that flows."""
    it = It(settings=settings, flowing=(PATH.encode(),))
    assert it.said(it.peer.head(1)) == []
    return it


def told(events: list[Event]) -> list[bytes]:
    assert all(isinstance(event, Said) and event.head.path == PATH.encode() for event in events)
    return [event.message for event in events if isinstance(event, Said)]


def data(body: bytes, flags: int = 0, stream: int = 1) -> bytes:
    return frame(DATA, flags, stream, body)


def test_each_message_is_told_when_it_is_whole() -> None:
    it = flowing()
    assert told(it.said(data(framed(b"one")))) == [b"one"]
    assert told(it.said(data(framed(b"two") + framed(b"") + framed(b"three")[:6]))) == [b"two", b""]
    assert told(it.said(data(framed(b"three")[6:]))) == [b"three"]
    assert it.sent() == b""


@given(st.lists(st.binary(max_size=300), max_size=6), st.lists(st.integers(1, 400), min_size=1, max_size=12))
def test_how_the_bytes_are_cut_makes_no_difference(messages: list[bytes], cuts: list[int]) -> None:
    it, body, heard, at = flowing(), b"".join(map(framed, messages)), [], 0
    while body:
        size, at = cuts[at % len(cuts)], at + 1
        heard += told(it.said(data(body[:size])))
        body = body[size:]
    assert heard == messages
    assert it.connection._receiver._partial == 0


def test_the_peers_end_is_answered_with_an_empty_message_and_what_came_with_it_is_told() -> None:
    it = flowing()
    assert told(it.said(data(framed(b"last"), END_STREAM))) == [b"last"]
    fields, body, ended = it.peer.answers(it.sent())[1]
    assert (fields["grpc-status"], body, ended) == ("0", framed(b""), True)
    assert told(it.said(data(framed(b"more")))) == [], "of a stream that is gone"


def test_trailers_and_a_call_without_a_body_end_it_too() -> None:
    it = flowing()
    trailers = it.peer.head(1, (("x", "y"),), flags=END_HEADERS | END_STREAM)
    assert it.said(trailers) == []
    assert it.said(it.peer.head(3, flags=END_HEADERS | END_STREAM)) == []
    assert {stream: ended for stream, (_, _, ended) in it.peer.answers(it.sent()).items()} == {1: True, 3: True}


def test_a_drain_ends_it_and_still_tells_what_was_under_way_until_the_peer_resets_it() -> None:
    it = flowing()
    it.said(data(framed(b"before")[:4]))
    it.connection.drain()
    sent = it.sent()
    kinds = [each.kind for each in parse(sent)]
    assert kinds.index(Kind.GOAWAY) < kinds.index(Kind.HEADERS), (
        "the peer has to hear first that the next one belongs elsewhere"
    )
    assert it.peer.answers(sent)[1][2]
    assert told(it.said(data(framed(b"before")[4:] + framed(b"under way")))) == [b"before", b"under way"]
    acknowledged = next(each.payload for each in parse(sent) if each.kind == Kind.PING)
    it.said(frame(Kind.PING, 1, 0, acknowledged))
    assert not it.over(), "the peer may have more to say"
    assert told(it.said(data(framed(b"and more")))) == [b"and more"]
    assert it.said(reset(1, Code.CANCEL)) == [Cancelled(1)]
    assert it.over()


def test_one_that_begins_in_a_drain_is_heard_and_ended() -> None:
    it = It(flowing=(PATH.encode(),))
    it.connection.drain()
    it.sent()
    assert told(it.said(it.peer.head(1) + data(framed(b"late")))) == [b"late"]
    assert it.peer.answers(it.sent())[1][2]
    assert it.said(data(b"", END_STREAM)) == []
    assert it.sent() == b"", "our side was ended once"


@pytest.mark.parametrize(
    ("body", "status"),
    [(b"\x01" + framed(b"squeezed")[1:], "12"), (b"\x00\xff\xff\xff\xff", "8"), (framed(bytes(100_001))[:5], "8")],
    ids=["compressed", "as long as can be", "above the limit"],
)
def test_a_message_that_is_none_ends_the_stream_and_the_connection_goes_on(body: bytes, status: str) -> None:
    it = flowing()
    assert told(it.said(data(framed(b"good")))) == [b"good"]
    assert it.said(data(body)) == []
    sent = it.sent()
    assert it.peer.answers(sent)[1][0]["grpc-status"] == status
    assert resets(sent) == {1: Code.NO_ERROR}
    assert told(it.said(it.peer.head(3) + data(framed(b"next"), stream=3))) == [b"next"]


def test_once_our_side_is_ended_a_message_that_is_none_only_resets() -> None:
    it = flowing()
    it.connection.drain()
    it.sent()
    it.said(data(b"\x01" + bytes(4)))
    assert [each.kind for each in parse(it.sent())] == [Kind.RST_STREAM]


def test_a_large_message_comes_through_a_window_that_is_opened_again() -> None:
    it, message = flowing(), bytes(range(256)) * 300
    heard, body = [], framed(message) * 3
    for at in range(0, len(body), 16_000):
        heard += told(it.said(data(body[at : at + 16_000])))
    assert heard == [message] * 3
    assert sum(each.kind == Kind.WINDOW_UPDATE for each in parse(it.sent())) > 2


def test_padding_is_no_part_of_a_message() -> None:
    it = flowing()
    assert told(it.said(data(b"\x03" + framed(b"one") + bytes(3), PADDED))) == [b"one"]


def test_it_may_last_and_one_that_we_have_ended_may_not() -> None:
    it = flowing()
    it.connection.expire(100 * SMALL.message_ns)
    assert it.sent() == b""
    it.said(b"", 100 * SMALL.message_ns)
    it.connection.drain()
    it.sent()
    it.connection.expire(101 * SMALL.message_ns + S)
    assert resets(it.sent()) == {1: Code.NO_ERROR}


def test_a_peer_without_room_for_an_empty_message_is_told_the_end_alone() -> None:
    it = flowing({Setting.INITIAL_WINDOW_SIZE: 4})
    it.connection.drain()
    assert it.peer.answers(it.sent())[1][1:] == (b"", True)
    assert told(it.said(data(framed(b"under way")))) == [b"under way"]


def test_other_methods_stay_what_they_were() -> None:
    it = It(flowing=(b"/a.B/C",))
    it.call()
    other = tuple((name, "/a.B/C" if name == ":path" else value) for name, value in HEADERS)
    assert [type(event) for event in it.said(it.peer.head(3, other) + data(framed(b"said"), stream=3))] == [Said]
