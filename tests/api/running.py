"""A sidecar on an engine of the test's, in a thread: what it serves is asked as any client would, through its socket."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Self, TypeVar

import grpc
from google.protobuf.message import Message
from msgspec import structs

from authz.api.decisions import SERVICE
from authz.api.wire import decisions_pb2 as wire
from authz.compose import Engine
from authz.listening import Listen
from authz.model import Request
from authz.server import Sidecar
from demo.stack import listens, wait_for


@contextmanager
def running(engine: Engine, listen: Listen) -> Iterator[Sidecar]:
    """Serves until the block ends, then drains. The sockets' paths are short."""
    made: list[tuple[asyncio.AbstractEventLoop, Sidecar]] = []
    failed: list[BaseException] = []

    async def serve() -> None:
        sidecar = Sidecar(engine, structs.replace(listen, drain_s=0.0))
        made.append((asyncio.get_running_loop(), sidecar))
        await sidecar.serve()

    def run() -> None:
        try:
            asyncio.run(serve())
        except BaseException as error:  # noqa: BLE001  # raised again in the test's own thread
            failed.append(error)

    thread = threading.Thread(target=run, name="sidecar")
    thread.start()
    try:
        wait_for("the sidecar", lambda: bool(failed) or all(map(listens, (listen.socket, listen.check_socket))))
        if not failed:
            yield made[0][1]
    finally:
        if made and thread.is_alive():
            loop, sidecar = made[0]
            loop.call_soon_threadsafe(sidecar.stop)
        thread.join(20)
    if failed:
        raise failed[0]
    assert not thread.is_alive()


@contextmanager
def client_of(engine: Engine) -> Iterator[Client]:
    """Of a sidecar on this engine."""
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as folder:
        listen = Listen(socket=f"{folder}/s.sock")
        with running(engine, listen), grpc.insecure_channel(f"unix:{listen.socket}") as channel:
            yield Client(channel)


Answer = TypeVar("Answer", bound=Message)


class Client:
    """Calls `authz.v1.Decisions` by its generated messages."""

    def __init__(self, channel: grpc.Channel) -> None:
        self._channel = channel

    def ask(
        self, method: str, asked: Message | bytes, answer: type[Answer], *, token: str = "", timeout_s: float = 20
    ) -> Answer:
        """Raises `grpc.RpcError`. token  goes into the metadata"""
        raw = asked if isinstance(asked, bytes) else asked.SerializeToString()
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = self._channel.unary_unary(f"/{SERVICE}/{method}")
        return answer.FromString(call(raw, timeout=timeout_s, metadata=credential(token)))

    def decide(self, request: Request, *, with_key: bool = False) -> wire.DecideResponse:
        asked = wire.DecideRequest(request=encoded(request), include_upstream_key=with_key)
        return self.ask("Decide", asked, wire.DecideResponse)

    def watch(self, asked: wire.WatchDecisionsRequest, *, token: str = "") -> Watch:
        call: grpc.UnaryStreamMultiCallable[bytes, bytes] = self._channel.unary_stream(f"/{SERVICE}/WatchDecisions")
        return Watch(call(asked.SerializeToString(), timeout=60, metadata=credential(token)))


class Watch:
    """The messages of a watch, as they come."""

    def __init__(self, call: Any) -> None:
        self._call = call

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> wire.WatchDecisionsResponse:
        return wire.WatchDecisionsResponse.FromString(next(self._call))

    def cancel(self) -> None:
        self._call.cancel()


def encoded(request: Request) -> wire.InferenceRequest:
    return wire.InferenceRequest(
        method=request.method,
        path=request.path,
        headers=[wire.Header(name=name, value=value) for name, value in request.headers],
        body=request.body or b"",
        body_left_out=request.body is None,
        request_id=request.request_id,
        source_ip=request.source_ip,
        peer=request.peer,
    )


def credential(token: str) -> tuple[tuple[str, str], ...]:
    return (("authorization", f"Bearer {token}"),) if token else ()
