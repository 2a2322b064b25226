"""The sidecar process: one Unix socket with Check, the access log, our own services, health, reflection; and how it drains."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from authz.api import decisions, status
from authz.api.hearing import unheard
from authz.compose import Engine
from authz.envoy.accesslog import read_stream_message, stream_response
from authz.envoy.answer import encode
from authz.envoy.check import TRACEPARENT, decode_check
from authz.errors import ConfigError, Refused
from authz.model import Allow
from authz.settings import Listen

AUTHORIZATION: Final = "envoy.service.auth.v3.Authorization"
ACCESS_LOG: Final = "envoy.service.accesslog.v3.AccessLogService"

BUNDLE_HEALTH: Final = "authz.bundle"
_BUNDLE_LOOK_S: Final = 0.5

_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""gRPC's own 4 MiB would turn a large body that Envoy was told to pass into an RPC error."""

_log = logging.getLogger(__name__)


class Sidecar:
    """Serves one engine on one socket. `serve` returns when `stop` was called and everything under way has ended."""

    def __init__(self, engine: Engine, listen: Listen) -> None:
        self._engine, self._listen = engine, listen
        self._stopping = asyncio.Event()
        self._draining = asyncio.Event()

    def stop(self) -> None:
        """Begins the drain; safe to call from a signal handler of the loop, and twice."""
        self._stopping.set()

    async def serve(self) -> None:
        """Raises `ConfigError` where the socket cannot be had."""
        path = Path(self._listen.socket)
        _claim(path)
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ]
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
        names = (AUTHORIZATION, ACCESS_LOG, decisions.SERVICE, status.SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)

        with _umask(0o177):
            server.add_insecure_port(f"unix:{path}")
            await server.start()
        await healthy.set("", health_pb2.HealthCheckResponse.SERVING)
        following = asyncio.create_task(self._follow_bundle(healthy))
        _log.info("serving", extra={"socket": str(path), "bundle": self._engine.bundle.digest})

        await self._stopping.wait()
        following.cancel()
        # Envoy looks several times a second: it has stopped sending before the server stops taking.
        await healthy.enter_graceful_shutdown()
        _log.info("draining", extra={"drain_s": self._listen.drain_s})
        await asyncio.sleep(self._listen.drain_s)
        # An access-log stream never ends by itself: left open it would take the whole grace.
        self._draining.set()
        await server.stop(self._listen.grace_s)
        _log.info("stopped")

    async def _follow_bundle(self, healthy: health.aio.HealthServicer) -> None:
        """The health of `authz.bundle`: NOT_SERVING while the folder holds a bundle that was refused."""
        serving = health_pb2.HealthCheckResponse
        while True:
            refused = bool(self._engine.source.status.refused)
            await healthy.set(BUNDLE_HEALTH, serving.NOT_SERVING if refused else serving.SERVING)
            await asyncio.sleep(_BUNDLE_LOOK_S)

    def _handlers(self) -> grpc.GenericRpcHandler:
        return _Several(
            grpc.method_handlers_generic_handler(AUTHORIZATION, {"Check": grpc.unary_unary_rpc_method_handler(self._check)}),
            grpc.method_handlers_generic_handler(
                ACCESS_LOG, {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(self._access_log)}
            ),
            status.handler(lambda: self._engine.source.status, self._engine.upstream_rooms),
            decisions.Decisions(self._engine, self._draining).handler(),
        )

    async def _check(self, raw: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        try:
            request = decode_check(raw, _traceparent(context))
        except Refused as refused:
            return encode(self._engine.pdp.reject(refused))
        loop = asyncio.get_running_loop()
        began_s = loop.time()
        decision = self._engine.pdp.decide(request)
        if isinstance(decision, Allow):
            reservation_id = decision.reservation_id

            await unheard(context, lambda: self._engine.settler.void(reservation_id), took_s=loop.time() - began_s)
        return encode(decision)

    def _settle(self, raw: bytes) -> None:
        """Settles one message's receipts; one that cannot be read is told and does not end the stream for those after it."""
        try:
            receipts = read_stream_message(raw)
        except Refused as refused:
            _log.error("an access log message cannot be read", extra={"problem": refused.message})
            return
        for receipt in receipts:
            self._engine.settle(receipt)

    async def _access_log(self, stream: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        draining = asyncio.ensure_future(self._draining.wait())
        messages = aiter(stream)
        try:
            while True:
                following = asyncio.ensure_future(anext(messages, None))
                await asyncio.wait({following, draining}, return_when=asyncio.FIRST_COMPLETED)
                if not following.done():
                    following.cancel()
                    break
                raw = following.result()
                if raw is None:
                    break
                self._settle(raw)
        finally:
            draining.cancel()
        return stream_response()


async def run(engine: Engine, listen: Listen) -> None:
    """Serves until SIGTERM or SIGINT, then drains."""
    sidecar = Sidecar(engine, listen)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, sidecar.stop)
    await sidecar.serve()


def _traceparent(context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
    """Of Envoy's own span around this call, where it traces."""
    for name, value in context.invocation_metadata() or ():
        if name == TRACEPARENT and isinstance(value, str):
            return value
    return ""


class _Several(grpc.GenericRpcHandler):
    """Several services behind one handler, each asked in turn."""

    def __init__(self, *handlers: grpc.GenericRpcHandler) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return next(filter(None, (handler.service(handler_call_details) for handler in self._handlers)), None)


def _claim(path: Path) -> None:
    """Makes the way free for a socket: a dead one is removed, a living one or another file is not ours to take."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    except OSError as error:
        raise ConfigError(str(path), f"cannot be made: {(error.strerror or '').lower()}") from None
    if not stat.S_ISSOCK(mode):
        raise ConfigError(str(path), "exists and is not a socket")
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink()
            return
        except OSError as error:
            raise ConfigError(str(path), f"cannot be tried: {(error.strerror or '').lower()}") from None
    raise ConfigError(str(path), "another process serves on it")


@contextlib.contextmanager
def _umask(mask: int) -> Any:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
