"""The transport on real sockets, with grpcio and h2load as its peers."""

from __future__ import annotations

import asyncio
import shutil
import socket
import struct
import subprocess
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
import pytest
import uvloop

from authz.transport import Call, Limits, Listener
from authz.transport.frames import Code, Kind, Setting, frame, reset
from authz.transport.messages import framed
from tests.transport.peer import HEADERS, PATH, Frame, Peer, ended_with, hello, parse

STREAM = "/a.B/Stream"
Act = Callable[["Served"], Awaitable[None]]


class Served:
    """A listener that keeps its calls until a test answers them; `answering` answers them at once."""

    def __init__(self, path: Path, limits: Limits) -> None:
        self.path = path
        self.calls: list[Call] = []
        self.unheard: list[bytes] = []
        self.heard: list[bytes] = []
        self.answering: Callable[[Call], None] | None = None
        self.listener = Listener(
            {PATH: self._take}, steady=time.monotonic_ns, limits=limits, streams={STREAM: self.heard.append}
        )

    def _take(self, call: Call) -> None:
        self.calls.append(call)
        if self.answering is not None:
            self.answering(call)

    def answer(self, call: Call, message: bytes = b"yes") -> None:
        call.answer(message, lambda: self.unheard.append(message))
        call.line.flush()

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(10):
            while not holds():  # noqa: ASYNC110  # it is other ends of sockets that are waited for
                await asyncio.sleep(0.002)

    def channel(self) -> grpc.aio.Channel:
        return grpc.aio.insecure_channel(
            f"unix:{self.path}", options=[("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
        )

    def ask(self, channel: grpc.aio.Channel, message: bytes, path: str = PATH, **options: Any) -> Any:
        method: Any = channel.unary_unary(path)
        return method(message, **options)

    async def raw(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_unix_connection(str(self.path))


def serving(
    folder: Path,
    act: Act,
    limits: Limits | None = None,
    loop: Callable[[], asyncio.AbstractEventLoop] = asyncio.new_event_loop,
) -> None:
    async def go() -> None:
        served = Served(folder / "t.sock", limits or Limits())
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(served.path))
        await served.listener.start(bound)
        try:
            await act(served)
        finally:
            await served.listener.stop(0)

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(go())


def echo(call: Call) -> None:
    call.answer(call.message)


# ---- grpcio as the peer


def test_grpcios_stream_is_heard_as_it_goes_and_ends_with_an_empty_answer(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        async with served.channel() as channel:
            streaming: Any = channel.stream_unary(STREAM)
            stream = streaming()
            large = bytes(range(256)) * 4096 * 9  # 9 MiB
            for count, message in enumerate([b"one", b"", large, b"two"], 1):
                await stream.write(message)
                await served.until(lambda count=count: len(served.heard) == count)  # type: ignore[misc]  # bound on purpose
            assert served.heard == [b"one", b"", large, b"two"]
            await stream.done_writing()
            assert await stream == b""

    serving(tmp_path, act)


def test_a_drain_ends_a_stream_for_its_peer(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        async with served.channel() as channel:
            streaming: Any = channel.stream_unary(STREAM)
            stream = streaming()
            await stream.write(b"one")
            await served.until(lambda: served.heard == [b"one"])
            await served.listener.stop(10)
            assert await stream == b""

    serving(tmp_path, act)


def test_what_is_under_way_when_a_drain_ends_a_stream_is_heard(tmp_path: Path) -> None:
    """Also where the peer has no time to hear of the drain for a while, and goes on as before."""

    async def act(served: Served) -> None:
        peer, (reader, writer) = Peer(), await served.raw()
        to_stream = tuple((name, STREAM if name == ":path" else value) for name, value in HEADERS)
        writer.write(hello() + peer.acknowledge() + peer.head(1, to_stream) + frame(Kind.DATA, 0, 1, framed(b"one")))
        await served.until(lambda: served.heard == [b"one"])
        stopping = asyncio.ensure_future(served.listener.stop(10))
        said = b""
        while not any(each.kind == Kind.HEADERS for each in _whole(said)):
            said += await reader.read(4096)
        (ping,) = (each.payload for each in _whole(said) if each.kind == Kind.PING)
        writer.write(frame(Kind.DATA, 0, 1, framed(b"two")) + frame(Kind.PING, 1, 0, ping))
        await served.until(lambda: served.heard == [b"one", b"two"])
        writer.write(frame(Kind.DATA, 0, 1, framed(b"three")) + reset(1, Code.CANCEL))
        await stopping
        assert served.heard == [b"one", b"two", b"three"]
        writer.close()

    serving(tmp_path, act)


def _whole(data: bytes) -> list[Frame]:
    """The frames that are there to their end."""
    at = 0
    while len(data) - at >= 9 and len(data) - at >= (size := 9 + int.from_bytes(data[at : at + 3])):
        at += size
    return parse(data[:at])


def test_grpcio_asks_many_at_once_and_large(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        served.answering = echo
        async with served.channel() as channel:
            messages = [bytes([at]) * at for at in range(200)]
            assert await asyncio.gather(*[served.ask(channel, message) for message in messages]) == messages
            large = bytes(range(256)) * 4096 * 9  # 9 MiB
            assert await served.ask(channel, large) == large
            assert await served.ask(channel, b"") == b""

    serving(tmp_path, act)


def test_grpcio_is_told_what_is_not_spoken(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        served.answering = echo
        async with served.channel() as channel:
            cases: list[tuple[dict[str, Any], grpc.StatusCode, str]] = [
                ({"path": "/a.B/C"}, grpc.StatusCode.UNIMPLEMENTED, "no method `/a.B/C`"),
                ({"compression": grpc.Compression.Gzip}, grpc.StatusCode.UNIMPLEMENTED, "compressed, expected grpc-encoding"),
                ({"metadata": (("x", "y" * 20_000),)}, grpc.StatusCode.RESOURCE_EXHAUSTED, "metadata: expected at most"),
            ]
            for options, code, words in cases:
                with pytest.raises(grpc.aio.AioRpcError, match=words) as caught:
                    await served.ask(channel, b"ask" * 1_000, **options)
                assert caught.value.code() is code
            with pytest.raises(grpc.aio.AioRpcError) as caught:
                await served.ask(channel, bytes(3_001))
            assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            assert await served.ask(channel, b"ask") == b"ask"

    serving(tmp_path, act, Limits(message_bytes=3_000))


def test_a_deadline_and_what_the_peer_traces_come_along(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        async with served.channel() as channel:
            parent = "00-" + "a" * 32 + "-" + "b" * 16 + "-01"
            before = time.monotonic_ns()
            asked = asyncio.ensure_future(served.ask(channel, b"ask", timeout=30, metadata=(("traceparent", parent),)))
            await served.until(lambda: bool(served.calls))
            (call,) = served.calls
            assert call.traceparent == parent
            assert call.deadline_ns is not None
            assert 29e9 < call.deadline_ns - before < 31e9
            served.answer(call)
            assert await asked == b"yes"
            call = served.calls[0]
            call.fail(2, "twice is nothing")

    serving(tmp_path, act)


def test_grpcios_cancel_reaches_a_call_that_waits(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        withdrawn: list[int] = []
        async with served.channel() as channel:
            asked = served.ask(channel, b"ask")
            await served.until(lambda: bool(served.calls))
            served.calls[0].withdrawn = lambda: withdrawn.append(1)
            asked.cancel()
            await served.until(lambda: served.calls[0].cancelled)
            served.answer(served.calls[0])
        assert (withdrawn, served.unheard) == ([1], [b"yes"])

    serving(tmp_path, act)


def test_a_failed_call_is_an_error_and_its_neighbours_are_answered(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        async with served.channel() as channel:
            asked = [asyncio.ensure_future(served.ask(channel, bytes([at]))) for at in range(3)]
            await served.until(lambda: len(served.calls) == 3)
            for call in served.calls:
                if call.message == b"\x01":
                    call.fail(2, "the decision failed")
                else:
                    call.answer(call.message)
                call.line.flush()
            results = await asyncio.gather(*asked, return_exceptions=True)
        assert results[::2] == [b"\x00", b"\x02"]
        assert isinstance(results[1], grpc.aio.AioRpcError)
        assert results[1].code() is grpc.StatusCode.UNKNOWN

    serving(tmp_path, act)


def test_a_drain_answers_grpcio_what_it_has_begun(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        async with served.channel() as channel:
            asked = asyncio.ensure_future(served.ask(channel, b"ask"))
            await served.until(lambda: bool(served.calls))
            stopping = asyncio.create_task(served.listener.stop(10))
            await asyncio.sleep(0)
            served.answer(served.calls[0])
            assert await asked == b"yes"
            await asyncio.wait_for(stopping, 5)

    serving(tmp_path, act)


# ---- by hand


def test_a_reset_after_the_answer_means_that_it_was_not_heard(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        served.answering = served.answer
        peer, (reader, writer) = Peer(), await served.raw()
        writer.write(hello() + peer.acknowledge() + peer.call(1) + reset(1, Code.CANCEL))
        await served.until(lambda: served.unheard == [b"yes"])
        writer.write(reset(1, Code.CANCEL) + peer.call(3))
        await served.until(lambda: len(served.calls) == 2)
        assert served.unheard == [b"yes"], "taken back once"
        writer.close()
        del reader

    serving(tmp_path, act)


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_an_answer_to_a_peer_that_has_left_is_taken_back(tmp_path: Path, loop: Callable[[], asyncio.AbstractEventLoop]) -> None:
    """A decision keeps the loop to itself: that the peer has closed meanwhile is known only after the answer is given."""

    async def act(served: Served) -> None:
        peer = Peer()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(served.path))
            client.sendall(hello() + peer.acknowledge() + peer.call(1) + peer.call(3) + peer.call(5))
            await served.until(lambda: len(served.calls) == 3)
            first, second, third = served.calls
            served.answer(first, b"heard")
            await served.until(lambda: b"heard" in client.recv(65536))
        served.answer(second, b"not heard")
        served.answer(third, b"not heard either")
        await served.until(lambda: len(served.unheard) == 2)
        assert sorted(served.unheard) == [b"not heard", b"not heard either"]

    serving(tmp_path, act, loop=loop)


def test_a_peer_that_leaves_withdraws_what_waits_and_what_was_not_sent(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        peer, (_, writer) = Peer(), await served.raw()
        writer.write(hello({Setting.INITIAL_WINDOW_SIZE: 3}) + peer.acknowledge() + peer.call(1) + peer.call(3))
        await served.until(lambda: len(served.calls) == 2)
        served.answer(served.calls[0], b"does not fit into three bytes")
        writer.close()
        await served.until(lambda: served.calls[1].cancelled)
        assert served.unheard == [b"does not fit into three bytes"]
        served.answer(served.calls[1], b"late")
        assert served.unheard[1:] == [b"late"]

    serving(tmp_path, act)


def test_a_peer_that_is_cut_off_is_told_why(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def act(served: Served) -> None:
        reader, writer = await served.raw()
        writer.write(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
        ended = ended_with(await asyncio.wait_for(reader.read(), 5))
        assert ended is not None
        assert ended[0] is Code.PROTOCOL_ERROR
        assert "speaks gRPC" in ended[1]
        writer.close()

    serving(tmp_path, act)
    assert "a peer was cut off" in caplog.text


def test_a_peer_that_does_not_read_is_not_read(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        answer = bytes(100_000)
        served.answering = lambda call: call.answer(answer)
        loop, peer = asyncio.get_running_loop(), Peer()
        client = socket.socket(socket.AF_UNIX)
        client.setblocking(False)
        await loop.sock_connect(client, str(served.path))
        window = 2**31 - 1
        await loop.sock_sendall(client, hello({Setting.INITIAL_WINDOW_SIZE: window}) + peer.acknowledge())
        await loop.sock_sendall(client, frame(Kind.WINDOW_UPDATE, 0, 0, struct.pack(">I", window - 65_535)))

        async def send() -> None:
            for stream in range(1, 4_001, 2):
                await loop.sock_sendall(client, peer.call(stream, bytes(5_000)))

        sending = asyncio.create_task(send())
        before = -1
        while before != len(served.calls):  # until nothing more is taken
            before = len(served.calls)
            await asyncio.sleep(0.2)
        assert before < 200, "10 MiB of answers would wait for somebody who does not read"
        received = 0
        while received < 2_000 * 100_000:
            received += len(await asyncio.wait_for(loop.sock_recv(client, 1_000_000), 5))
        await asyncio.wait_for(sending, 5)
        await served.until(lambda: len(served.calls) == 2_000)
        client.close()

    serving(tmp_path, act)


def test_a_drain_does_not_wait_longer_than_its_grace(tmp_path: Path) -> None:
    async def act(served: Served) -> None:
        peer, (reader, writer) = Peer(), await served.raw()
        writer.write(hello() + peer.call(1))
        await served.until(lambda: bool(served.calls))
        await asyncio.wait_for(served.listener.stop(0.05), 2)
        await served.until(lambda: served.calls[0].cancelled)
        assert [each.kind for each in parse(await reader.read())][-2:] == [Kind.GOAWAY, Kind.PING]
        writer.close()

    serving(tmp_path, act)


@pytest.mark.skipif(shutil.which("h2load") is None, reason="h2load is not installed")
def test_h2load_is_answered(tmp_path: Path) -> None:
    body = tmp_path / "body"
    body.write_bytes(struct.pack(">BI", 0, 2_000) + bytes(2_000))

    async def act(served: Served) -> None:
        served.answering = echo
        command = ["h2load", "-n", "2000", "-c", "2", "-m", "32", "-d", str(body), f"--base-uri=unix:{served.path}"]
        command += ["-H", "content-type: application/grpc", "-H", "te: trailers", f"http://x{PATH}"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, timeout=60)
        assert "2000 succeeded, 0 failed, 0 errored" in done.stdout

    serving(tmp_path, act)
