"""The protocol without sockets: what each frame means, what a peer may not do, and how its windows are kept."""

from __future__ import annotations

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from authz.transport import frames, heads
from authz.transport.connection import Connection
from authz.transport.frames import END_HEADERS, END_STREAM, PADDED, PRIORITISED, Code, Kind, Setting, frame
from authz.transport.heads import Head, Refusal
from authz.transport.limits import Limits, Rate
from authz.transport.messages import framed
from authz.transport.streams import Called, Cancelled, Event
from tests.transport.peer import ACKNOWLEDGED, HEADERS, PATH, Peer, ended_with, hello, parse, resets

S = 1_000_000_000
SMALL = Limits(
    message_bytes=100_000,
    partial_bytes=150_000,
    streams=4,
    stream_window=65_535,
    window=80_000,
    head_bytes=1_000,
    block_bytes=20_000,
    handshake_ns=S,
    message_ns=10 * S,
    resets=Rate(10, 10),
    chatter=Rate(20, 10),
    updates=Rate(30, 10),
)


class It:
    """A connection that has shaken hands, and its peer."""

    def __init__(
        self,
        limits: Limits = SMALL,
        settings: dict[Setting, int] | None = None,
        *,
        window: int = 0,
        flowing: tuple[bytes, ...] = (),
    ) -> None:
        self.peer = Peer()
        self.connection = Connection(limits, {}, 0, flowing)
        self.said(hello(settings) + self.peer.acknowledge())
        if window:
            self.said(frames.window_update(0, window))
        self.sent()

    def said(self, data: bytes, now_ns: int = 0) -> list[Event]:
        return self.connection.receive(data, now_ns)

    def sent(self) -> bytes:
        return self.connection.take()

    def over(self) -> bool:
        return self.connection.finished

    def call(self, stream: int = 1, message: bytes = b"ask") -> None:
        (event,) = self.said(self.peer.call(stream, message))
        assert isinstance(event, Called)
        assert (event.stream, event.message, event.head.path) == (stream, message, PATH.encode())


# ---- one call


def test_a_call_is_told_of_whole_and_answered_with_trailers() -> None:
    it = It()
    it.call(1)
    assert it.connection.answer(1, b"yes")
    assert it.peer.answers(it.sent()) == {
        1: ({":status": "200", "content-type": "application/grpc", "grpc-status": "0"}, framed(b"yes"), True)
    }
    assert not it.connection.answer(1, b"again")
    assert it.sent() == b""


def test_the_first_frames_announce_what_holds_here() -> None:
    connection = Connection(SMALL, {}, 0)
    announced = parse(connection.take())
    assert [each.kind for each in announced] == [Kind.SETTINGS, Kind.WINDOW_UPDATE]
    values = dict(frames.SETTING.iter_unpack(announced[0].payload))
    assert values[Setting.HEADER_TABLE_SIZE] == 0
    assert values[Setting.MAX_CONCURRENT_STREAMS] == 4
    assert frames.UINT32.unpack(announced[1].payload) == (80_000 - 65_535,)


def test_the_first_block_says_that_we_use_no_table() -> None:
    it = It(settings={Setting.HEADER_TABLE_SIZE: 100})
    it.peer._decoder.max_allowed_table_size = 100  # as one that announced it has to insist
    it.call(1)
    it.connection.answer(1, b"yes")
    assert it.peer.answers(it.sent())[1][2]
    assert it.peer._decoder.header_table_size == 0


def test_the_deadline_is_from_the_moment_of_the_headers() -> None:
    it = It()
    it.said(it.peer.head(1), now_ns=5)
    (event,) = it.said(frame(Kind.DATA, END_STREAM, 1, framed(b"")), now_ns=100)
    assert isinstance(event, Called)
    assert event.deadline_ns == 5 + 600 * 1_000_000


@pytest.mark.parametrize(
    ("text", "expected_ns"), [("1H", 3600 * S), ("2M", 120 * S), ("3S", 3 * S), ("4m", 4_000_000), ("5u", 5_000), ("6n", 6)]
)
def test_a_timeout_has_a_unit(text: str, expected_ns: int) -> None:
    it = It()
    (event,) = it.said(it.peer.call(1, headers=(*HEADERS[:-1], ("grpc-timeout", text))))
    assert isinstance(event, Called)
    assert event.deadline_ns == expected_ns


def test_headers_and_message_may_come_in_pieces_padded_and_prioritised() -> None:
    it = It()
    block = it.peer.block()
    first = b"\x03" + bytes(5) + block[:10] + bytes(3)
    body = framed(b"ask")
    events = it.said(
        frame(Kind.HEADERS, PADDED | PRIORITISED, 1, first)
        + frame(Kind.CONTINUATION, 0, 1, block[10:20])
        + frame(Kind.CONTINUATION, END_HEADERS, 1, block[20:])
        + frame(Kind.DATA, PADDED, 1, b"\x02" + body[:4] + bytes(2))
        + frame(Kind.DATA, 0, 1, b"")
        + frame(Kind.DATA, 0, 1, body[4:])
        + frame(Kind.DATA, END_STREAM, 1, b"")
    )
    assert [(event.stream, event.message) for event in events if isinstance(event, Called)] == [(1, b"ask")]


def test_request_trailers_end_a_call() -> None:
    it = It()
    it.said(it.peer.head(1) + frame(Kind.DATA, 0, 1, framed(b"ask")))
    (event,) = it.said(it.peer.head(1, (("x-end", "1"),), flags=END_HEADERS | END_STREAM))
    assert isinstance(event, Called)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 200), max_size=40), st.lists(st.binary(max_size=300), min_size=1, max_size=4))
def test_how_the_bytes_are_cut_makes_no_difference(cuts: list[int], messages: list[bytes]) -> None:
    peer = Peer()
    data = hello({Setting.INITIAL_WINDOW_SIZE: 1_000}) + peer.acknowledge()
    data += b"".join(peer.call(2 * at + 1, message) for at, message in enumerate(messages))
    data += frame(Kind.PING, 0, 0, b"12345678") + frames.reset(1, Code.CANCEL)
    whole, cut = Connection(SMALL, {}, 0), Connection(SMALL, {}, 0)
    events, at = [], 0
    for size in cuts:
        events += cut.receive(data[at : at + size], 0)
        at += size
    events += cut.receive(data[at:], 0)
    assert events == whole.receive(data, 0)
    assert cut.take() == whole.take()


# ---- what a block of headers costs


def test_a_block_that_repeats_is_decoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    it = It()
    it.call(1)
    it.call(3)
    monkeypatch.setattr(it.connection._heads, "_decoder", _NoTable())  # it decodes nothing
    it.call(5)


class _NoTable:
    header_table_size = 0


def test_nothing_is_remembered_of_a_block_that_a_table_gives_its_meaning() -> None:
    known: dict[bytes, Head] = {}
    peer, connection = Peer(), Connection(SMALL, known, 0)
    connection.receive(hello(), 0)
    connection.receive(peer.call(1), 0)  # before it has heard of our settings
    assert not known
    repeated = peer.call(3)  # indices into its table, and nothing else
    (event,) = connection.receive(repeated, 0)
    assert isinstance(event, Called)
    assert event.head.path == PATH.encode()
    connection.receive(peer.acknowledge() + peer.call(5), 0)
    assert not known, "the block that gives the table up is not one that may repeat"
    connection.receive(peer.call(7), 0)
    assert len(known) == 1
    other, stranger = Connection(SMALL, known, 0), Peer()
    other.receive(hello(), 0)
    other.receive(stranger.call(1), 0)
    again = frame(Kind.HEADERS, END_HEADERS, 3, next(iter(known))) + frame(Kind.DATA, END_STREAM, 3, framed(b""))
    assert isinstance(other.receive(again, 0)[0], Called)


def test_a_peer_that_goes_on_with_a_table_is_cut_off() -> None:
    connection, peer = Connection(SMALL, {}, 0), Peer()
    connection.receive(hello() + ACKNOWLEDGED, 0)
    connection.receive(peer.call(1), 0)
    ended = ended_with(connection.take())
    assert ended is not None
    assert ended[0] is Code.COMPRESSION_ERROR
    assert connection.finished


# ---- what is no call of ours


def refused(it: It, data: bytes) -> tuple[int, str, str]:
    """The status, the words and HTTP's status of a call that was answered with an error."""
    assert it.said(data) == []
    fields, body, ended = it.peer.answers(it.sent())[1]
    assert not body
    assert ended
    assert not it.connection.finished
    it.call(3)  # the connection goes on
    return int(fields["grpc-status"]), fields["grpc-message"], fields[":status"]


def headers(**changes: str | None) -> tuple[tuple[str, str], ...]:
    changed = {name: changes.get(name.strip(":").replace("-", "_"), value) for name, value in HEADERS}
    return tuple((name, value) for name, value in changed.items() if value is not None)


def test_no_grpc_is_told_so_in_https_words() -> None:
    it = It()
    assert refused(it, it.peer.call(1, headers=headers(content_type="application/json")))[::2] == (heads.UNIMPLEMENTED, "415")
    it = It()
    assert refused(it, it.peer.call(1, headers=headers(method="GET")))[::2] == (heads.UNIMPLEMENTED, "405")


def test_a_timeout_that_cannot_be_read_is_an_invalid_argument() -> None:
    for text in ("", "10", "m", "123456789m", "-1m", "1.5S", "1x"):
        it = It()
        assert refused(it, it.peer.call(1, headers=headers(grpc_timeout=text)))[0] == heads.INVALID_ARGUMENT


def test_a_compressed_message_is_unimplemented_and_says_what_is_taken() -> None:
    it = It()
    compressed = it.peer.head(1) + frame(Kind.DATA, END_STREAM, 1, b"\x01" + framed(b"ask")[1:])
    status, message, _ = refused(it, compressed)
    assert status == heads.UNIMPLEMENTED
    assert "identity" in message


@pytest.mark.parametrize(
    "body",
    [b"", b"\x00", framed(b"ask")[:-1], framed(b"ask") + b"x", framed(b"ask") * 2, b"\x02" + framed(b"ask")[1:]],
    ids=["none", "cut in its prefix", "cut", "too long", "two messages", "unknown flag"],
)
def test_a_body_that_is_not_one_message_is_an_error(body: bytes) -> None:
    it = It()
    assert refused(it, it.peer.head(1) + frame(Kind.DATA, END_STREAM, 1, body))[0] == heads.INTERNAL


def test_metadata_above_the_limit_is_refused_and_the_connection_goes_on() -> None:
    it = It()
    status, message, _ = refused(it, it.peer.call(1, headers=(*HEADERS, ("tracestate", "x" * 2_000))))
    assert (status, message) == (heads.RESOURCE_EXHAUSTED, "metadata: expected at most 1000 bytes")


def test_a_message_above_the_limit_is_refused_before_it_is_all_there() -> None:
    it = It()
    it.said(it.peer.head(1))
    for _ in range(7):
        assert it.said(frame(Kind.DATA, 0, 1, bytes(16_384))) == []
    sent = it.sent()
    fields, _, ended = it.peer.answers(sent)[1]
    assert (fields["grpc-status"], ended) == (str(heads.RESOURCE_EXHAUSTED), True)
    assert resets(sent) == {1: Code.NO_ERROR}
    assert it.said(frame(Kind.DATA, END_STREAM, 1, bytes(9))) == []  # what was under way is passed over
    it.call(3)


def test_all_that_has_begun_to_arrive_is_bounded_together() -> None:
    it = It()
    it.said(it.peer.head(1) + it.peer.head(3))
    for _ in range(5):
        it.said(frame(Kind.DATA, 0, 1, bytes(16_000)) + frame(Kind.DATA, 0, 3, bytes(16_000)))
    fields = it.peer.answers(it.sent())[3][0]
    assert fields["grpc-status"] == str(heads.RESOURCE_EXHAUSTED)
    it.said(frames.reset(1, Code.CANCEL))
    it.call(5)


@pytest.mark.parametrize(
    "changes",
    [
        (("connection", "close"),),
        (("transfer-encoding", "chunked"),),
        (("Upper", "1"),),
        (("bad name", "1"),),
        (("x", "a\nb"),),
        (("x", "a\0b"),),
        ((":path", "/twice"),),
        ((":unknown", "1"),),
        (("content-length", "x"),),
        (("content-length", "8"), ("content-length", "8")),
        (("content-length", "7"),),
    ],
    ids=str,
)
def test_a_malformed_request_is_reset_alone(changes: tuple[tuple[str, str], ...]) -> None:
    it = It()
    assert it.said(it.peer.call(1, b"ask", (*HEADERS, *changes))) == []
    assert resets(it.sent()) == {1: Code.PROTOCOL_ERROR}
    it.call(3)


@pytest.mark.parametrize("missing", [":method", ":scheme", ":path"])
def test_a_request_has_its_pseudo_headers(missing: str) -> None:
    it = It()
    it.said(it.peer.call(1, headers=tuple(pair for pair in HEADERS if pair[0] != missing)))
    assert resets(it.sent()) == {1: Code.PROTOCOL_ERROR}


def test_a_content_length_that_holds_is_taken() -> None:
    it = It()
    assert it.said(it.peer.call(1, b"ask", (*HEADERS, ("content-length", "8"))))


def test_a_second_request_on_a_stream_is_no_trailers() -> None:
    it = It()
    it.said(it.peer.head(1))
    it.said(it.peer.head(1, flags=END_HEADERS | END_STREAM))
    assert resets(it.sent()) == {1: Code.PROTOCOL_ERROR}


# ---- cancelling, and streams that are gone


def test_a_cancelled_call_is_told_of_while_it_waits_and_after_its_answer() -> None:
    it = It()
    it.call(1)
    assert it.said(frames.reset(1, Code.CANCEL)) == [Cancelled(1)]
    assert not it.connection.answer(1, b"late")
    it.call(3)
    it.connection.answer(3, b"yes")
    assert it.said(frames.reset(3, Code.CANCEL)) == [Cancelled(3)]


def test_data_after_the_end_resets_the_stream_and_takes_the_call_back() -> None:
    it = It()
    it.call(1)
    assert it.said(frame(Kind.DATA, 0, 1, b"more")) == [Cancelled(1)]
    assert resets(it.sent()) == {1: Code.STREAM_CLOSED}


def test_more_streams_than_announced_are_refused_for_the_peer_to_try_again() -> None:
    it = It()
    for stream in (1, 3, 5, 7):
        it.call(stream)
    assert it.said(it.peer.call(9)) == []
    assert resets(it.sent()) == {9: Code.REFUSED_STREAM}
    it.connection.answer(1, b"yes")
    it.call(11)


def test_an_error_of_ours_is_an_answer() -> None:
    it = It()
    it.call(1)
    it.connection.refuse(1, Refusal(2, "50 % of ü\n"))
    fields, _, ended = it.peer.answers(it.sent())[1]
    assert (fields["grpc-status"], fields["grpc-message"], ended) == ("2", "50 %25 of %C3%BC%0A", True)


# ---- windows


def test_a_large_answer_waits_for_the_windows_of_stream_and_connection() -> None:
    it = It(settings={Setting.INITIAL_WINDOW_SIZE: 10})
    it.call(1)
    answer = bytes(range(256)) * 400  # 102,400 bytes
    assert it.connection.answer(1, answer)
    body, ended = b"", False

    def read() -> None:
        nonlocal body, ended
        for kind, flags, stream, payload in parse(it.sent()):
            assert len(payload) <= 16_384
            if kind == Kind.DATA:
                body += payload
            ended = ended or (kind == Kind.HEADERS and stream == 1 and bool(flags & END_STREAM))

    read()
    assert len(body) == 10
    it.said(frames.settings({Setting.INITIAL_WINDOW_SIZE: 30}))
    read()
    assert len(body) == 30
    it.said(frames.settings({Setting.INITIAL_WINDOW_SIZE: 5}))  # the window is below nothing now
    it.said(frames.window_update(1, 25))
    read()
    assert len(body) == 30
    it.said(frames.window_update(1, 200_000))
    read()
    assert len(body) == 65_535, "the connection's own window"
    assert not ended
    it.said(frames.window_update(0, 100_000))
    read()
    assert (body, ended) == (framed(answer), True)
    assert it.connection.finished is False


def test_a_larger_frame_is_sent_where_the_peer_takes_one() -> None:
    it = It(settings={Setting.MAX_FRAME_SIZE: 50_000, Setting.INITIAL_WINDOW_SIZE: 60_000})
    it.call(1)
    it.connection.answer(1, b"")  # the first answer goes its own way
    it.sent()
    it.call(3)
    it.connection.answer(3, bytes(40_000))
    assert [len(each.payload) for each in parse(it.sent()) if each.kind == Kind.DATA] == [40_005]


def test_the_peers_windows_are_opened_as_it_uses_them() -> None:
    it = It(Limits())
    it.said(it.peer.head(1))
    opened: dict[int, int] = {}
    for _ in range(2_000):
        it.said(frame(Kind.DATA, 0, 1, bytes(16_384)))
        for kind, _, stream, payload in parse(it.sent()):
            assert kind == Kind.WINDOW_UPDATE
            opened[stream] = opened.get(stream, 0) + frames.UINT32.unpack(payload)[0]
    assert not it.connection.finished
    assert opened[0] > 2_000 * 16_384 - 16 * 1024 * 1024
    assert opened[1] > 2_000 * 16_384 - 1024 * 1024


def test_a_peer_that_ignores_the_streams_window_is_reset() -> None:
    it = It(Limits(stream_window=70_000, window=10_000_000))
    it.said(it.peer.head(1))
    it.said(b"".join(frame(Kind.DATA, 0, 1, bytes(16_384)) for _ in range(3)))
    (update,) = parse(it.sent())
    assert (update.stream, frames.UINT32.unpack(update.payload)[0]) == (1, 3 * 16_384)
    it.connection._streams[1].unread = 60_000  # as if nothing had been opened since
    it.said(frame(Kind.DATA, 0, 1, bytes(16_384)))
    assert resets(it.sent()) == {1: Code.FLOW_CONTROL_ERROR}


# ---- floods, each against its own limit, and what is forgiven with time


def cut_off_after(it: It, data: bytes, times: int, *, now_ns: int = 0) -> int:
    """How many of these the connection takes."""
    for taken in range(times):
        it.said(data, now_ns)
        if it.connection.finished:
            ended = ended_with(it.sent())
            assert ended is not None
            assert ended[0] is Code.ENHANCE_YOUR_CALM, ended
            return taken
        it.sent()
    return times


@pytest.mark.parametrize(
    ("data", "most"),
    [
        (frame(Kind.PING, 0, 0, bytes(8)), 20),
        (frames.settings({}), 20),
        (frame(Kind.PRIORITY, 0, 1, bytes(5)), 20),
        (frame(Kind.DATA, 0, 1, b""), 20),
        (b"\x00\x00\x00\xaa\x00\x00\x00\x00\x01", 20),
        (frames.window_update(0, 1), 30),
        (frames.window_update(1, 1), 30),
    ],
    ids=["ping", "settings", "priority", "empty data", "unknown", "window", "stream window"],
)
def test_a_flood_is_cut_off(data: bytes, most: int) -> None:
    it = It()
    it.said(it.peer.head(1))
    assert cut_off_after(it, data, 2 * most) in range(most - 5, most + 1)  # the handshake counts too


def test_rapid_reset_is_cut_off_and_a_slow_one_is_not() -> None:
    it = It()
    flood = [it.peer.call(stream) + frames.reset(stream, Code.CANCEL) for stream in range(1, 200, 2)]
    taken = next(at for at, data in enumerate(flood) if it.said(data) is not None and it.connection.finished)
    assert taken == 10
    it = It()
    for at, stream in enumerate(range(1, 200, 2)):
        it.said(it.peer.call(stream) + frames.reset(stream, Code.CANCEL), now_ns=at * S // 10)
    assert not it.connection.finished


def test_streams_that_we_reset_count_like_those_of_the_peer() -> None:
    it = It()
    for stream in range(1, 60, 2):
        it.said(it.peer.call(stream, headers=(*HEADERS, ("connection", "close"))))
    ended = ended_with(it.sent())
    assert ended is not None
    assert ended[0] is Code.ENHANCE_YOUR_CALM


def test_headers_that_go_on_and_on_are_cut_off() -> None:
    it = It()
    it.said(frame(Kind.HEADERS, 0, 1, b""))
    assert cut_off_after(it, frame(Kind.CONTINUATION, 0, 1, bytes(1_000)), 100) == 20
    it = It()
    it.said(frame(Kind.HEADERS, 0, 1, b""))
    assert cut_off_after(it, frame(Kind.CONTINUATION, 0, 1, b""), 100) == 64


# ---- what ends a connection


@pytest.mark.parametrize(
    ("data", "code"),
    [
        pytest.param(frame(Kind.DATA, 0, 0, b"x"), Code.PROTOCOL_ERROR, id="data on the connection"),
        pytest.param(frame(Kind.DATA, 0, 7, b"x"), Code.PROTOCOL_ERROR, id="data on an idle stream"),
        pytest.param(frames.reset(7, Code.CANCEL), Code.PROTOCOL_ERROR, id="reset of an idle stream"),
        pytest.param(frames.window_update(7, 1), Code.PROTOCOL_ERROR, id="window of an idle stream"),
        pytest.param(frame(Kind.RST_STREAM, 0, 1, b"x"), Code.FRAME_SIZE_ERROR, id="short reset"),
        pytest.param(frame(Kind.PUSH_PROMISE, 0, 1, bytes(4)), Code.PROTOCOL_ERROR, id="push"),
        pytest.param(frame(Kind.PING, 0, 0, b"x"), Code.FRAME_SIZE_ERROR, id="short ping"),
        pytest.param(frame(Kind.PRIORITY, 0, 1, b"x"), Code.FRAME_SIZE_ERROR, id="short priority"),
        pytest.param(frame(Kind.GOAWAY, 0, 0, b"x"), Code.FRAME_SIZE_ERROR, id="short goaway"),
        pytest.param(frame(Kind.SETTINGS, 0, 1), Code.PROTOCOL_ERROR, id="settings on a stream"),
        pytest.param(frame(Kind.SETTINGS, 0, 0, b"x"), Code.FRAME_SIZE_ERROR, id="short settings"),
        pytest.param(frame(Kind.SETTINGS, frames.ACK, 0, bytes(6)), Code.FRAME_SIZE_ERROR, id="full acknowledgement"),
        pytest.param(frames.settings({Setting.ENABLE_PUSH: 2}), Code.PROTOCOL_ERROR, id="push setting"),
        pytest.param(frames.settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), Code.FLOW_CONTROL_ERROR, id="window setting"),
        pytest.param(frames.settings({Setting.MAX_FRAME_SIZE: 16_383}), Code.PROTOCOL_ERROR, id="frame setting"),
        pytest.param(frames.window_update(0, 0), Code.PROTOCOL_ERROR, id="window by nothing"),
        pytest.param(frames.window_update(0, 2**31 - 1), Code.FLOW_CONTROL_ERROR, id="window too far"),
        pytest.param(frame(Kind.WINDOW_UPDATE, 0, 0, b"x"), Code.FRAME_SIZE_ERROR, id="short window"),
        pytest.param(frame(Kind.CONTINUATION, 0, 1, b""), Code.PROTOCOL_ERROR, id="lone continuation"),
        pytest.param(frame(Kind.HEADERS, 0, 3, b"") + frame(Kind.PING, 0, 0, bytes(8)), Code.PROTOCOL_ERROR, id="interrupted"),
        pytest.param(frame(Kind.HEADERS, 0, 3) + frame(Kind.CONTINUATION, 4, 5), Code.PROTOCOL_ERROR, id="other stream"),
        pytest.param(frame(Kind.HEADERS, END_HEADERS, 2, b"\x82"), Code.PROTOCOL_ERROR, id="even stream"),
        pytest.param(frame(Kind.HEADERS, END_HEADERS, 0, b"\x82"), Code.PROTOCOL_ERROR, id="headers on the connection"),
        pytest.param(frame(Kind.HEADERS, END_HEADERS, 1, b"\x82"), Code.PROTOCOL_ERROR, id="a stream of the past"),
        pytest.param(frame(Kind.HEADERS, END_HEADERS, 3, b"\xff\xff\xff\xff\xff\x7f"), Code.COMPRESSION_ERROR, id="bad index"),
        pytest.param(frame(Kind.HEADERS, END_HEADERS, 3, b"\x00\x7f"), Code.COMPRESSION_ERROR, id="cut block"),
        pytest.param(frame(Kind.HEADERS, END_HEADERS, 3, b"\xbe"), Code.COMPRESSION_ERROR, id="into the table that is not"),
        pytest.param(frame(Kind.HEADERS, 0xC | PADDED, 3, b"\x09\x82"), Code.PROTOCOL_ERROR, id="padding"),
        pytest.param(frame(Kind.HEADERS, 0x24, 3, b"\x82"), Code.FRAME_SIZE_ERROR, id="short for its priority"),
        pytest.param(b"\x00\x40\x01\x00\x00\x00\x00\x00\x01", Code.FRAME_SIZE_ERROR, id="large frame"),
    ],
)
def test_what_makes_a_connection_doubtful_ends_it(data: bytes, code: Code) -> None:
    it = It()
    it.call(1)
    it.connection.answer(1, b"yes")
    it.sent()
    assert it.said(data) == []
    ended = ended_with(it.sent())
    assert ended is not None
    assert ended[0] is code
    assert ended[1]
    assert it.connection.finished
    assert it.said(it.peer.call(9)) == []
    assert it.sent() == b""


def test_a_connection_that_ends_keeps_nothing_of_what_had_begun_to_arrive() -> None:
    it = It()
    it.said(it.peer.head(1) + frame(Kind.DATA, 0, 1, bytes(4)))
    assert it.connection._receiver._partial == 4
    it.said(frame(Kind.PING, 0, 3, bytes(8)))
    assert it.over()
    assert it.connection._receiver._partial == 0


def test_headers_on_a_stream_that_the_peer_has_ended_end_the_connection() -> None:
    it = It()
    it.call(1)
    it.said(it.peer.head(1, (("x", "1"),), flags=END_HEADERS | END_STREAM))
    ended = ended_with(it.sent())
    assert ended is not None
    assert ended[0] is Code.STREAM_CLOSED


def test_more_than_the_connections_window_ends_it() -> None:
    it = It(Limits(stream_window=10_000_000, window=80_000))
    it.said(it.peer.head(1))
    it.connection._receiver._unread = 70_000
    it.said(frame(Kind.DATA, 0, 1, bytes(16_384)))
    ended = ended_with(it.sent())
    assert ended is not None
    assert ended[0] is Code.FLOW_CONTROL_ERROR


@pytest.mark.parametrize(
    "data",
    [b"GET / HTTP/1.1\r\n", b"PRI * HTTP/2.0\r\n\r\nXX", b"\x16\x03\x01", frames.PREFACE + frame(Kind.PING, 0, 0, bytes(8))],
)
def test_who_does_not_speak_http2_is_told_what_is_spoken(data: bytes) -> None:
    connection = Connection(SMALL, {}, 0)
    connection.take()
    connection.receive(data, 0)
    ended = ended_with(connection.take())
    assert ended is not None
    assert ended[0] is Code.PROTOCOL_ERROR
    assert "expected" in ended[1]


def test_an_acknowledgement_first_is_none() -> None:
    connection = Connection(SMALL, {}, 0)
    connection.receive(frames.PREFACE + ACKNOWLEDGED, 0)
    assert connection.finished


# ---- time


def test_a_handshake_that_does_not_come_and_a_message_that_does_not_end_are_given_up() -> None:
    connection = Connection(SMALL, {}, 0)
    connection.receive(frames.PREFACE[:5], 0)
    connection.expire(S)
    assert connection.fault is None
    connection.expire(S + 1)
    assert "sooner" in str(connection.fault)

    it = It()
    it.said(it.peer.head(1), 0)  # its own deadline is 0.6 s
    it.said(it.peer.head(3, headers(grpc_timeout=None)), 0)
    it.call(5)  # whole: others see to its deadline
    it.connection.expire(600_000_001)
    sent = it.sent()
    assert it.peer.answers(sent)[1][0]["grpc-status"] == str(heads.DEADLINE_EXCEEDED)
    assert resets(sent) == {1: Code.NO_ERROR}
    it.connection.expire(10 * S + 1)
    assert resets(it.sent()) == {3: Code.NO_ERROR}
    assert it.connection.answer(5, b"yes")


# ---- the end


def test_a_drain_answers_what_was_begun_and_refuses_what_comes_after() -> None:
    it = It()
    it.call(1)
    it.connection.drain()
    first = parse(it.sent())
    assert [each.kind for each in first] == [Kind.GOAWAY, Kind.PING]
    assert frames.TWO_UINT32.unpack(first[0].payload) == (frames.MAX_STREAM, Code.NO_ERROR)
    it.call(3)  # it was under way when the peer heard of it
    it.said(frame(Kind.PING, frames.ACK, 0, first[1].payload))
    (last,) = parse(it.sent())
    assert frames.TWO_UINT32.unpack(last.payload) == (3, Code.NO_ERROR)
    it.said(it.peer.call(5))
    assert resets(it.sent()) == {5: Code.REFUSED_STREAM}
    it.connection.answer(3, b"yes")
    assert not it.over()
    it.connection.answer(1, b"yes")
    assert it.over()
    assert set(it.peer.answers(it.sent())) == {1, 3}


def test_a_drain_of_an_idle_connection_ends_with_the_peers_acknowledgement() -> None:
    it = It()
    it.connection.drain()
    it.connection.drain()
    _, ping = parse(it.sent())
    assert not it.over()
    it.said(frame(Kind.PING, frames.ACK, 0, ping.payload))
    assert it.over()
