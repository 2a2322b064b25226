"""The sidecar process: what it serves on its socket, how it drains, what it refuses to take over."""

from __future__ import annotations

import asyncio
import socket
import stat
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from msgspec import convert, structs

from authz.bundle import Status
from authz.envoy.wire import accesslog_pb2, check_pb2
from authz.errors import ConfigError, Refused
from authz.listening import Listen
from authz.model import Decision, DecisionRecord, Deny, Meter, Outcome, Receipt, Request, UpstreamRoom
from authz.reasons import SPEC, Reason
from authz.server import ACCESS_LOG, AUTHORIZATION, Sidecar
from tests.envoy.sidecar import allow

GRACE_S = 5.0
ROOM = UpstreamRoom("default", "m", Meter.TOKENS, limit=100, left=7, teams=2, learned_ns=3)


def denied(reason: Reason) -> Deny:
    record = DecisionRecord(
        decision_id="d", time="", duration_us=0, reservation_id="", request_id="", bundle="b", effect="deny", status=401
    )
    return Deny(reason, SPEC[reason].status, SPEC[reason].type, "no", None, (), record)


class FakeEngine:
    """Denies what it is asked, and remembers it."""

    def __init__(self) -> None:
        self.asked: list[Request] = []
        self.receipts: list[Receipt] = []
        self.bundle = SimpleNamespace(digest="b")
        self.source = SimpleNamespace(status=Status("sha256:b", 7))
        self.upstream_rooms = lambda: (ROOM,)
        self.pdp = self
        self.clock = lambda: 0
        self.before: Callable[[], object] | None = None

    def decide(self, request: Request) -> Decision:
        self.asked.append(request)
        if self.before is not None:
            self.before()
        return allow(f"r{len(self.asked)}") if request.path == "/allowed" else denied(Reason.INVALID_API_KEY)

    def decide_many(self, requests: Sequence[Request]) -> Sequence[Decision]:
        return [self.decide(request) for request in requests]

    def reject(self, refused: Refused, request: Request | None = None) -> Deny:
        return denied(refused.reason)

    def settle(self, receipt: Receipt) -> None:
        self.receipts.append(receipt)

    def settle_many(self, receipts: Sequence[Receipt]) -> None:
        self.receipts += receipts


def with_sidecar(
    folder: Path, act: Callable[[grpc.aio.Channel, FakeEngine, Sidecar], Awaitable[None]], transport: str = "grpcio"
) -> FakeEngine:
    """Serves in this loop, acts on the socket where Check is asked, drains."""

    async def go() -> FakeEngine:
        engine: Any = FakeEngine()
        listen = convert({"socket": str(folder / "s.sock"), "transport": transport, "drain_s": 0.0, "grace_s": GRACE_S}, Listen)
        paths = {Path(listen.socket), Path(listen.check_socket)}
        sidecar = Sidecar(engine, listen)
        serving = asyncio.create_task(sidecar.serve())
        async with grpc.aio.insecure_channel(f"unix:{listen.check_socket}") as channel:
            ready = asyncio.create_task(channel.channel_ready())
            await asyncio.wait({serving, ready}, return_when=asyncio.FIRST_COMPLETED)
            if serving.done():
                ready.cancel()
                serving.result()
            assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in paths)  # a test may block
            await act(channel, engine, sidecar)
            sidecar.stop()
            await asyncio.wait_for(serving, 10)
        assert not any(path.exists() for path in paths)
        return engine  # type: ignore[no-any-return]

    return asyncio.run(go())


def raw(method: str) -> dict[str, Any]:
    return {"method": method, "request_serializer": None, "response_deserializer": None}


BOTH = pytest.mark.parametrize("transport", ["native", "grpcio"])


def check(path: str) -> bytes:
    made = check_pb2.CheckRequest()
    made.attributes.request.http.method, made.attributes.request.http.path = "POST", path
    return made.SerializeToString()


@BOTH
def test_a_check_is_answered_and_an_unreadable_one_is_denied_and_no_error(tmp_path: Path, transport: str) -> None:
    async def act(channel: grpc.aio.Channel, engine: FakeEngine, sidecar: Sidecar) -> None:
        ask = channel.unary_unary(**raw(f"/{AUTHORIZATION}/Check"))
        check = check_pb2.CheckRequest()
        check.attributes.request.http.method = "POST"
        answer = check_pb2.CheckResponse.FromString(await ask(check.SerializeToString()))
        assert answer.denied_response.status.code == 401
        answer = check_pb2.CheckResponse.FromString(await ask(b"\xff\xff\xff"))
        assert answer.denied_response.status.code == 400

    assert [request.method for request in with_sidecar(tmp_path, act, transport).asked] == ["POST"]


def test_an_allow_that_nobody_heard_is_given_back(tmp_path: Path) -> None:
    """The peer cancels while the decision is under way: the loop hears of it when the answer is on the wire. (grpcio tells of
    nothing from then on: what such a peer reserved ends with its access log, or as its estimate.)"""

    async def act(channel: grpc.aio.Channel, engine: FakeEngine, sidecar: Sidecar) -> None:
        ask = channel.unary_unary(**raw(f"/{AUTHORIZATION}/Check"))
        await ask(check("/allowed"))
        asked = ask(check("/allowed"))
        engine.before = asked.cancel
        while not engine.receipts:  # noqa: ASYNC110  # it comes through a socket
            await asyncio.sleep(0.01)

    receipts = with_sidecar(tmp_path, act, "native").receipts
    assert [(receipt.reservation_id, receipt.outcome) for receipt in receipts] == [("r2", Outcome.NOT_SENT)]


@BOTH
def test_a_deadline_comes_along(tmp_path: Path, transport: str) -> None:
    async def act(channel: grpc.aio.Channel, engine: FakeEngine, sidecar: Sidecar) -> None:
        ask = channel.unary_unary(**raw(f"/{AUTHORIZATION}/Check"))
        engine.before = lambda: time.sleep(0.3)  # while one is decided, another's time passes
        first = asyncio.ensure_future(ask(check("/first"), timeout=10))
        while not engine.asked:  # noqa: ASYNC110  # it comes through a socket
            await asyncio.sleep(0)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await ask(check("/second"), timeout=0.01)
        assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
        await first
        engine.before = None
        await ask(check("/third"), timeout=10)

    assert [request.path for request in with_sidecar(tmp_path, act, transport).asked] in (
        ["/first", "/third"],
        ["/first", "/second", "/third"],  # where it arrived in time to be decided beside the first
    )


@BOTH
def test_health_is_told_where_check_is_asked_and_turns_before_the_socket_goes(tmp_path: Path, transport: str) -> None:
    async def act(channel: grpc.aio.Channel, engine: FakeEngine, sidecar: Sidecar) -> None:
        ask = channel.unary_unary(**raw("/grpc.health.v1.Health/Check"))

        async def serving(name: str = "") -> bool:
            answer = health_pb2.HealthCheckResponse.FromString(
                await ask(health_pb2.HealthCheckRequest(service=name).SerializeToString())
            )
            return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

        assert await serving()
        assert await serving("authz.bundle")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await serving("nobody")
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        sidecar._listen = structs.replace(sidecar._listen, drain_s=0.3)
        sidecar.stop()
        while await serving():  # noqa: ASYNC110  # it is asked again and again, as Envoy does
            await asyncio.sleep(0.01)

    with_sidecar(tmp_path, act, transport)


def log_message(reservation: str) -> bytes:
    message = accesslog_pb2.StreamAccessLogsMessage()
    entry = message.http_logs.log_entry.add()
    entry.common_properties.route_name = b"inference"
    entry.common_properties.metadata.filter_metadata["envoy.filters.http.ext_authz"]["reservation"] = reservation
    entry.response.response_code.value = 200
    return message.SerializeToString()


@BOTH
def test_the_access_log_settles_and_its_stream_does_not_hold_up_the_drain(tmp_path: Path, transport: str) -> None:
    async def act(channel: grpc.aio.Channel, engine: FakeEngine, sidecar: Sidecar) -> None:
        stream = channel.stream_unary(**raw(f"/{ACCESS_LOG}/StreamAccessLogs"))()
        await stream.write(log_message("r1"))
        while not engine.receipts:  # noqa: ASYNC110  # it comes from a thread of gRPC
            await asyncio.sleep(0.01)
        sidecar.stop()  # the stream is still open

    began_s = time.monotonic()
    assert [receipt.reservation_id for receipt in with_sidecar(tmp_path, act, transport).receipts] == ["r1"]
    assert time.monotonic() - began_s < GRACE_S


def test_a_message_that_cannot_be_read_takes_none_with_it(tmp_path: Path) -> None:
    async def act(channel: grpc.aio.Channel, engine: FakeEngine, sidecar: Sidecar) -> None:
        stream = channel.stream_unary(**raw(f"/{ACCESS_LOG}/StreamAccessLogs"))()
        for message in (log_message("r1"), b"\xff\xff", log_message("r2")):
            await stream.write(message)
        await stream.done_writing()
        assert await stream == b""

    assert [receipt.reservation_id for receipt in with_sidecar(tmp_path, act, "native").receipts] == ["r1", "r2"]


def test_a_drain_ends_an_access_log_stream_right_after_a_message(tmp_path: Path) -> None:
    """Whoever sends every tenth of a second never sends into a stream that is being ended."""
    sent: list[str] = []

    async def act(channel: grpc.aio.Channel, engine: FakeEngine, sidecar: Sidecar) -> None:
        stream = channel.stream_unary(**raw(f"/{ACCESS_LOG}/StreamAccessLogs"))()
        await stream.write(log_message("first"))
        sent.append("first")
        while not engine.receipts:  # noqa: ASYNC110  # it comes from a thread of gRPC
            await asyncio.sleep(0.01)
        sidecar.stop()
        await asyncio.sleep(0.1)
        while not stream.done():
            sent.append(f"r{len(sent)}")
            await stream.write(log_message(sent[-1]))
            await asyncio.sleep(0.1)

    engine = with_sidecar(tmp_path, act)
    assert len(sent) >= 2
    assert [receipt.reservation_id for receipt in engine.receipts] == sent


def test_health_and_reflection_speak(tmp_path: Path) -> None:
    async def act(channel: grpc.aio.Channel, engine: FakeEngine, sidecar: Sidecar) -> None:
        check = channel.unary_unary(**raw("/grpc.health.v1.Health/Check"))
        health = health_pb2.HealthCheckResponse.FromString(await check(b""))
        assert health.status == health_pb2.HealthCheckResponse.SERVING
        info = channel.stream_stream(**raw("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"))
        call = info(iter([reflection_pb2.ServerReflectionRequest(list_services="").SerializeToString()]))
        said: Any = await call.read()
        answer = reflection_pb2.ServerReflectionResponse.FromString(said)
        assert AUTHORIZATION in {service.name for service in answer.list_services_response.service}

    with_sidecar(tmp_path, act)


def test_a_dead_socket_is_taken_over_and_a_living_one_or_a_file_is_not(tmp_path: Path) -> None:
    async def nothing(channel: grpc.aio.Channel, engine: FakeEngine, sidecar: Sidecar) -> None:
        """Being served is enough."""

    path = tmp_path / "s.sock"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    with_sidecar(tmp_path, nothing)
    with socket.socket(socket.AF_UNIX) as living:
        living.bind(str(path))
        living.listen()
        with pytest.raises(ConfigError, match="another process serves on it"):
            with_sidecar(tmp_path, nothing)
    path.unlink()
    path.write_text("not a socket")
    with pytest.raises(ConfigError, match="exists and is not a socket"):
        with_sidecar(tmp_path, nothing)
    assert path.read_text() == "not a socket"
