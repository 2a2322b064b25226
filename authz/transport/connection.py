"""One HTTP/2 connection, the server's side, for gRPC: bytes in, events and bytes out. No sockets and no clock.

Theory of operation. A stream is in one of seven states, and `_ON_A_STREAM` says what each frame means in each of them:

idle       above the highest number that the peer has used
receiving  its headers are here, and not all of its message
waiting    its message is whole, the peer has ended its side, and there is no answer yet
sending    its answer does not fit into the windows, and waits for them
flowing    of a method whose messages are told one by one (`Said`), for as long as the peer has any
leaving    the same once a drain has ended our side: what the peer sent before it heard of that is still told
gone       answered, refused, cancelled or reset; nothing is kept of it

What a peer does wrong on one stream ends that stream; what would make every later frame doubtful, or is done too often, ends
the connection with a GOAWAY that says so. A call is told of once, when it is whole (`Called`). When the peer cancels one that
waits, or resets one that is gone, that is told too (`Cancelled`): whoever answered knows what an unheard answer promised.

The peer is told to keep no header table (see `heads.py`). Our own blocks use none either.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import Final

from authz.transport import frames
from authz.transport.frames import ACK, END_STREAM, PADDED, Code, ConnectionFault, Kind, Setting
from authz.transport.heads import DEADLINE_EXCEEDED, Head, Heads, Refusal
from authz.transport.limits import Allowance, Limits
from authz.transport.messages import unframed
from authz.transport.reading import FrameReader
from authz.transport.receiving import Receiver
from authz.transport.sending import Sender
from authz.transport.streams import Called, Cancelled, Event, Said, State, Stream

_DRAIN_PING: Final = b"draining"


class Connection:
    """`receive` what arrives, answer what it says was called, and send what `take` gives.

    known     header blocks that have been read, of any connection
    flowing   the paths of those methods that take a stream of messages and answer with an empty one
    draining  the peer is told to begin nothing more
    finished  nothing more is to be read or answered: close it when the last of `take` is sent
    fault     why it ended, where it was the peer's
    """

    def __init__(self, limits: Limits, known: dict[bytes, Head], now_ns: int, flowing: Container[bytes] = frozenset()) -> None:
        self._limits, self._now_ns, self._began_ns, self._flowing = limits, now_ns, now_ns, flowing
        self._heads = Heads(known, head_bytes=limits.head_bytes, block_bytes=limits.block_bytes)
        self._sender = Sender()
        self._receiver = Receiver(limits, self._sender.put)
        self._events: list[Event] = []
        self._reader = FrameReader(limits.block_bytes)
        self._settled = False
        self._streams: dict[int, Stream] = {}
        self._highest = 0
        self._resets = Allowance(limits.resets, now_ns)
        self._chatter = Allowance(limits.chatter, now_ns)
        self._updates = Allowance(limits.updates, now_ns)
        self._last: int | None = None  # the highest stream that is answered, once a drain has said so
        self.draining = self.finished = False
        self.fault: ConnectionFault | None = None
        ours = {
            Setting.HEADER_TABLE_SIZE: 0,
            Setting.MAX_CONCURRENT_STREAMS: limits.streams,
            Setting.INITIAL_WINDOW_SIZE: limits.stream_window,
            Setting.MAX_HEADER_LIST_SIZE: limits.head_bytes,
        }
        self._sender.put(frames.settings(ours))
        self._receiver.begin()

    # ---- for whoever moves the bytes and answers the calls

    def receive(self, data: bytes, now_ns: int) -> list[Event]:
        """What these bytes say. Never raises: a peer that is wrong is told so, and `finished` and `fault` say it here."""
        if self.finished:
            return []
        self._now_ns, self._events = now_ns, []
        try:
            self._read(data)
        except ConnectionFault as fault:
            self._end(fault)
        return self._events

    def take(self) -> bytes:
        """What is to be sent by now."""
        return self._sender.take()

    def answer(self, number: int, message: bytes) -> bool:
        """Whether anybody waits for it still."""
        stream = self._streams.get(number)
        if stream is None or stream.state is not State.WAITING:
            return False
        if self._sender.answer(number, stream, message):
            self._drop(number)
        return True

    def refuse(self, number: int, refusal: Refusal) -> None:
        """Answers a call with an error; nothing where nobody waits for it."""
        stream = self._streams.get(number)
        if stream is not None and stream.state is State.WAITING:
            self._sender.refuse(number, refusal)
            self._drop(number)

    def unsent(self, number: int) -> bool:
        """Whether a part of its answer still waits for the peer's windows."""
        return number in self._streams

    def drain(self) -> None:
        """Begins the end: the peer is told to begin nothing more, and what it has begun is answered."""
        if not self.draining and not self.finished:
            self.draining = True
            self._sender.put(frames.go_away(frames.MAX_STREAM, Code.NO_ERROR))
            self._sender.put(frames.frame(Kind.PING, 0, 0, _DRAIN_PING))
            for number, stream in self._streams.items():
                self._leave(number, stream)

    def expire(self, now_ns: int) -> None:
        """Gives up what has been arriving for too long. Called now and then."""
        if self.finished:
            return
        self._now_ns, self._events = now_ns, []
        try:
            self._expire()
        except ConnectionFault as fault:
            self._end(fault)

    # ---- frames

    def _read(self, data: bytes) -> None:
        for kind, flags, number, payload in self._reader.feed(data):
            read = _FRAMES.get(kind)
            if read is not None:
                read(self, flags, number, payload)
            else:
                self._chat()  # one that we do not know is passed over

    def _on_a_stream(self, kind: Kind, flags: int, number: int, payload: bytes) -> None:
        if number == 0:
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"{kind.name} on the connection, expected a stream")
        stream = self._streams.get(number)
        state = stream.state if stream is not None else State.IDLE if number > self._highest else State.GONE
        _ON_A_STREAM[kind, state](self, flags, number, payload)

    def _never(self, flags: int, number: int, payload: bytes) -> None:
        raise ConnectionFault(Code.PROTOCOL_ERROR, "a frame that a client may not send here")

    def _settings(self, flags: int, number: int, payload: bytes) -> None:
        acknowledged = flags & ACK
        if number or (acknowledged and not self._settled):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "SETTINGS on a stream, or an acknowledgement first")
        if len(payload) % frames.SETTING.size or (acknowledged and payload):
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"SETTINGS of {len(payload)} bytes, expected 6 for each")
        self._chat()
        if acknowledged:
            self._heads.forbid_table()
            return
        for name, value in frames.SETTING.iter_unpack(payload):
            self._sender.obey(name, value)
        self._settled = True
        self._sender.put(frames.frame(Kind.SETTINGS, ACK, 0))
        self._pump()

    def _ping(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) != 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "expected PING of 8 bytes on the connection")
        self._chat()
        if not flags & ACK:
            self._sender.put(frames.frame(Kind.PING, ACK, 0, payload))
        elif payload == _DRAIN_PING and self.draining and self._last is None:
            # Whatever the peer began before it heard of the drain has arrived.
            self._last = self._highest
            self._sender.put(frames.go_away(self._last, Code.NO_ERROR))
            self._finish_if_empty()

    def _priority(self, flags: int, number: int, payload: bytes) -> None:
        if number == 0 or len(payload) != 5:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "expected PRIORITY of 5 bytes on a stream")
        self._chat()

    def _goaway(self, flags: int, number: int, payload: bytes) -> None:
        if number or len(payload) < 8:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, "expected GOAWAY of 8 bytes or more on the connection")
        self._chat()  # it begins nothing more, and closes when it has its answers

    # ---- headers

    def _headers(self, flags: int, number: int, block: bytes) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            self._trailers(flags, number, stream, block)
            return
        if number <= self._highest or number % 2 == 0:
            expected = f"expected an odd number above {self._highest}"
            raise ConnectionFault(Code.PROTOCOL_ERROR, f"HEADERS begin stream {number}, {expected}")
        head = self._heads.read(block)
        self._highest = number
        ended = bool(flags & END_STREAM)
        if self._last is not None or len(self._streams) >= self._limits.streams:
            self._reset(number, Code.REFUSED_STREAM)
        elif head.malformed:
            self._reset(number, Code.PROTOCOL_ERROR)
        elif head.refusal is not None:
            self._refuse(number, head.refusal, ended=ended)
        else:
            state = State.FLOWING if head.path in self._flowing else State.RECEIVING
            self._streams[number] = stream = Stream(head, self._now_ns, state)
            if self.draining:
                self._leave(number, stream)
            if ended:
                self._whole(number, stream)

    def _trailers(self, flags: int, number: int, stream: Stream, block: bytes) -> None:
        head = self._heads.read(block)  # whatever they say: the table has to be kept up
        if stream.state not in (State.RECEIVING, State.FLOWING, State.LEAVING):
            raise ConnectionFault(Code.STREAM_CLOSED, "HEADERS on a stream whose end was sent")
        if not flags & END_STREAM or not head.malformed:
            self._reset(number, Code.PROTOCOL_ERROR)  # trailers have no path; what has one is a second request
        else:
            self._whole(number, stream)

    # ---- bodies

    def _data(self, flags: int, number: int, payload: bytes) -> None:
        stream, size, ended = self._streams[number], len(payload), bool(flags & END_STREAM)
        self._receiver.account(size)
        stream.unread += size
        if stream.unread > self._limits.stream_window:
            self._reset(number, Code.FLOW_CONTROL_ERROR)
            return
        if flags & PADDED:
            payload = frames.unpadded(flags, payload)
        if payload:
            self._receiver.keep(stream, payload)
        elif not ended:
            self._chat()
        problem = self._receiver.oversize(stream)
        if problem is not None:
            self._refuse(number, problem, ended=ended)
        elif ended:
            self._whole(number, stream)
        elif stream.unread > self._limits.stream_window // 2:
            self._sender.put(frames.window_update(number, stream.unread))
            stream.unread = 0

    def _flow(self, flags: int, number: int, payload: bytes) -> None:
        """Of a stream that flows. INVARIANT: what the peer sent before its own end is told, whatever we have ended by then."""
        self._data(flags & ~END_STREAM, number, payload)
        stream = self._streams.get(number)
        if stream is None:
            return
        found = self._receiver.messages(stream)
        if isinstance(found, Refusal):
            self._refuse(number, found, ended=False)
            return
        self._events += [Said(stream.head, message) for message in found]
        if flags & END_STREAM:
            self._whole(number, stream)

    def _leave(self, number: int, stream: Stream) -> None:
        """Ends our side of it, where it flows."""
        if stream.state is State.FLOWING:
            self._sender.leave(number, stream)
            stream.state, stream.began_ns = State.LEAVING, self._now_ns

    def _stale_data(self, flags: int, number: int, payload: bytes) -> None:
        """For a stream that we have refused or the peer has reset: it may have been under way."""
        self._receiver.account(len(payload))
        if not payload:
            self._chat()

    def _late_data(self, flags: int, number: int, payload: bytes) -> None:
        """After the end of the message."""
        self._receiver.account(len(payload))
        self._abandon(number, Code.STREAM_CLOSED)

    def _whole(self, number: int, stream: Stream) -> None:
        """The peer has ended its side: there is one message, or an error; where it flows, nothing more."""
        if stream.state in (State.FLOWING, State.LEAVING):
            self._leave(number, stream)
            self._drop(number)
            return
        body = self._receiver.whole(stream)
        if stream.head.length is not None and stream.head.length != len(body):
            self._reset(number, Code.PROTOCOL_ERROR)
            return
        message = unframed(body, self._limits.message_bytes)
        if isinstance(message, Refusal):
            self._refuse(number, message, ended=True)
            return
        stream.state = State.WAITING
        self._events.append(Called(number, stream.head, message, stream.deadline_ns))

    # ---- windows

    def _window_update(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"WINDOW_UPDATE of {len(payload)} bytes, expected 4")
        if not self._updates.spend(self._now_ns):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many WINDOW_UPDATE")
        if number:
            self._on_a_stream(Kind.WINDOW_UPDATE, flags, number, payload)
            return
        if not (by := _increment(payload)):
            raise ConnectionFault(Code.PROTOCOL_ERROR, "the window is opened by nothing")
        self._sender.open_window(by)
        self._pump()

    def _stream_window(self, flags: int, number: int, payload: bytes) -> None:
        by, stream = _increment(payload), self._streams[number]
        if not by:
            self._abandon(number, Code.PROTOCOL_ERROR)
        elif not self._sender.open_stream(stream, by):
            self._abandon(number, Code.FLOW_CONTROL_ERROR)
        elif stream.state is State.SENDING and self._sender.pump(number, stream):
            self._drop(number)

    def _ignore(self, flags: int, number: int, payload: bytes) -> None:
        """It may have been sent before the peer heard that the stream is gone."""

    def _pump(self) -> None:
        for number, stream in list(self._streams.items()):
            if stream.state is State.SENDING and self._sender.pump(number, stream):
                self._drop(number)

    # ---- ends

    def _rst_stream(self, flags: int, number: int, payload: bytes) -> None:
        if len(payload) != 4:
            raise ConnectionFault(Code.FRAME_SIZE_ERROR, f"RST_STREAM of {len(payload)} bytes, expected 4")
        if not self._resets.spend(self._now_ns):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many calls were cancelled")
        self._drop(number)
        self._events.append(Cancelled(number))

    def _abandon(self, number: int, code: Code) -> None:
        """Resets a stream that may have been told of."""
        self._events.append(Cancelled(number))
        self._reset(number, code)

    def _refuse(self, number: int, refusal: Refusal, *, ended: bool) -> None:
        stream = self._streams.get(number)
        if stream is None or stream.state is not State.LEAVING:
            self._sender.refuse(number, refusal)
        self._drop(number)
        if not ended:
            self._reset(number, Code.NO_ERROR)  # the rest of the message is of no use

    def _reset(self, number: int, code: Code) -> None:
        self._drop(number)
        self._sender.put(frames.reset(number, code))
        if not self._resets.spend(self._now_ns):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many streams were reset")

    def _drop(self, number: int) -> None:
        stream = self._streams.pop(number, None)
        if stream is not None:
            self._receiver.forget(stream)
            self._finish_if_empty()

    def _finish_if_empty(self) -> None:
        if self._last is not None and not self._streams:
            self.finished = True

    def _end(self, fault: ConnectionFault) -> None:
        self.fault, self.finished = fault, True
        self._sender.put(frames.go_away(self._highest, fault.code, fault.problem))
        self._receiver.forget_all(self._streams)

    def _expire(self) -> None:
        if not self._settled and self._now_ns - self._began_ns > self._limits.handshake_ns:
            raise ConnectionFault(Code.PROTOCOL_ERROR, "expected HTTP/2's preface and SETTINGS sooner")
        for number, stream in list(self._streams.items()):
            if stream.state in (State.RECEIVING, State.LEAVING):
                late = stream.deadline_ns is not None and self._now_ns > stream.deadline_ns
                if late or self._now_ns - stream.began_ns > self._limits.message_ns:
                    self._refuse(number, Refusal(DEADLINE_EXCEEDED, "the message did not arrive in time"), ended=False)

    def _chat(self) -> None:
        if not self._chatter.spend(self._now_ns):
            raise ConnectionFault(Code.ENHANCE_YOUR_CALM, "too many frames that carry nothing")


def _increment(payload: bytes) -> int:
    by: int = frames.UINT32.unpack(payload)[0]
    return by & frames.MAX_WINDOW


_Read = Callable[[Connection, int, int, bytes], None]


def _on_a_stream(kind: Kind) -> _Read:
    return lambda connection, flags, number, payload: connection._on_a_stream(kind, flags, number, payload)


_FRAMES: Final[dict[int, _Read]] = {
    Kind.DATA: _on_a_stream(Kind.DATA),
    Kind.HEADERS: Connection._headers,
    Kind.PRIORITY: Connection._priority,
    Kind.RST_STREAM: _on_a_stream(Kind.RST_STREAM),
    Kind.SETTINGS: Connection._settings,
    Kind.PUSH_PROMISE: Connection._never,
    Kind.PING: Connection._ping,
    Kind.GOAWAY: Connection._goaway,
    Kind.WINDOW_UPDATE: Connection._window_update,
}

_ON_A_STREAM: Final[dict[tuple[Kind, State], _Read]] = {
    **{(kind, State.IDLE): Connection._never for kind in (Kind.DATA, Kind.RST_STREAM, Kind.WINDOW_UPDATE)},
    (Kind.DATA, State.RECEIVING): Connection._data,
    (Kind.DATA, State.WAITING): Connection._late_data,
    (Kind.DATA, State.SENDING): Connection._late_data,
    (Kind.DATA, State.FLOWING): Connection._flow,
    (Kind.DATA, State.LEAVING): Connection._flow,
    (Kind.DATA, State.GONE): Connection._stale_data,
    **{(Kind.RST_STREAM, state): Connection._rst_stream for state in State if state is not State.IDLE},
    **{(Kind.WINDOW_UPDATE, state): Connection._stream_window for state in State if state not in (State.IDLE, State.GONE)},
    (Kind.WINDOW_UPDATE, State.GONE): Connection._ignore,
}
