"""The sidecar process: a Unix socket with our own services, health and reflection, one for Check and the access log, and how it
drains."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import socket
import stat
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

import grpc
from grpc_reflection.v1alpha import reflection

from authz.api import decisions, health, status
from authz.compose import Engine
from authz.envoy.accesslog import read_stream_message, stream_response
from authz.envoy.check import TRACEPARENT
from authz.envoy.checks import CHUNK, Checks
from authz.errors import ConfigError, Refused
from authz.listening import Listen
from authz.model import Outcome, Receipt, Request
from authz.transport import Answerer, Call, Listener, Unheard

AUTHORIZATION: Final = "envoy.service.auth.v3.Authorization"
ACCESS_LOG: Final = "envoy.service.accesslog.v3.AccessLogService"

_BUNDLE_LOOK_S: Final = 0.5

_LAST_WORDS_S: Final = 0.5
"""How long a drain waits for one more message of an access-log stream: several times Envoy's interval of 0.1 s."""

_QUIET_S: Final = 0.02
"""What has been sent comes within this time; well below Envoy's interval."""

_SLOW_S: Final = 0.05
_NOTICE_S: Final = 0.01
"""A decision keeps the loop to itself. That its caller gave up meanwhile is heard only once the loop is let go for a moment,
which is worth it after one that took so long that somebody may have."""

_MAX_MESSAGE_BYTES: Final = 64 * 1024 * 1024
"""gRPC's own 4 MiB would turn a large body that Envoy was told to pass into an RPC error."""

_log = logging.getLogger(__name__)


class Sidecar:
    """Serves one engine on its sockets. `serve` returns when `stop` was called and everything under way has ended."""

    def __init__(self, engine: Engine, listen: Listen) -> None:
        self._engine, self._listen = engine, listen
        self._stopping = asyncio.Event()
        self._draining = asyncio.Event()
        self._checks = Checks(
            engine.pdp,
            tenant=self._tenant,
            void=self._void,
            steady=time.monotonic_ns,
            soon=lambda turn: asyncio.get_running_loop().call_soon(turn),
            room=listen.queue,
        )

    def stop(self) -> None:
        """Begins the drain; safe to call from a signal handler of the loop, and twice."""
        self._stopping.set()

    async def serve(self) -> None:
        """Raises `ConfigError` where a socket cannot be had."""
        path, check_path = Path(self._listen.socket), Path(self._listen.check_socket)
        for each in {path, check_path}:
            _claim(each)
        server = grpc.aio.server(
            options=[
                ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
                ("grpc.so_reuseport", 0),
            ]
        )
        server.add_generic_rpc_handlers((self._handlers(),))
        healthy = health.Health(server)
        names = (AUTHORIZATION, ACCESS_LOG, decisions.SERVICE, status.SERVICE, health.SERVICE, reflection.SERVICE_NAME)
        reflection.enable_server_reflection(names, server)
        methods: dict[str, Answerer] = {f"/{AUTHORIZATION}/Check": self._checks, f"/{health.SERVICE}/Check": healthy}
        streams = {f"/{ACCESS_LOG}/StreamAccessLogs": self._settle}
        listener = Listener(methods, streams=streams, steady=time.monotonic_ns) if check_path != path else None

        with _umask(0o177):
            server.add_insecure_port(f"unix:{path}")
            _listen_on_tcp(server, self._listen)
            await server.start()
            if listener is not None:
                await listener.start(_bound(check_path))
        await healthy.set("", True)
        following = asyncio.create_task(self._follow_bundle(healthy))
        _log.info("serving", extra={"socket": str(path), "check": str(check_path), "bundle": self._engine.bundle.digest})

        await self._stopping.wait()
        following.cancel()
        # Envoy looks several times a second: it has stopped sending before the server stops taking.
        await healthy.drain()
        _log.info("draining", extra={"drain_s": self._listen.drain_s})
        await asyncio.sleep(self._listen.drain_s)
        # An access-log stream never ends by itself: left open it would take the whole grace. The listener ends its own.
        self._draining.set()
        if listener is not None:
            await asyncio.gather(listener.stop(self._listen.grace_s), server.stop(self._listen.grace_s))
            _leave(check_path)
        else:
            await server.stop(self._listen.grace_s)
        _log.info("stopped")

    async def _follow_bundle(self, healthy: health.Health) -> None:
        while True:
            await healthy.set(health.BUNDLE, not self._engine.source.status.refused)
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

    def _tenant(self, request: Request) -> str:
        engine = self._engine
        return engine.authenticator.recognise(request, engine.bundle.directory, engine.clock())

    def _void(self, reservation_id: str) -> None:
        self._engine.settle(Receipt(reservation_id, "", Outcome.NOT_SENT, 0, None))

    async def _check(self, raw: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        line, left_s = _GrpcLine(), context.time_remaining()
        deadline_ns = time.monotonic_ns() + int(left_s * 1e9) if left_s is not None else None
        call = Call(line, 0, raw, _traceparent(context), deadline_ns)

        def give_back_if_unheard(ended: grpc.aio.ServicerContext[bytes, bytes]) -> None:
            # By `done`: `cancelled` says no of a call whose handler was stopped, whoever stopped it.
            if not ended.done():
                call.cancel()
                if line.unheard is not None:
                    line.unheard()

        context.add_done_callback(give_back_if_unheard)  # type: ignore[arg-type]  # the stubs call a plain callable a class
        began_s = time.monotonic()
        self._checks(call)
        answer = await line.answered
        if time.monotonic() - began_s > _SLOW_S:
            await asyncio.sleep(_NOTICE_S)
        if answer is None:
            await context.abort(grpc.StatusCode.UNKNOWN, "the decision failed")
        return answer

    def _settle(self, raw: bytes) -> None:
        """Settles one message's receipts; one that cannot be read is told and does not end the stream for those after it."""
        try:
            receipts = read_stream_message(raw)
        except Refused as refused:
            _log.error("an access log message cannot be read", extra={"problem": refused.message})
            return
        for begin in range(0, len(receipts), CHUNK):  # as many as are decided together: whoever decides waits no longer
            self._engine.settle_many(receipts[begin : begin + CHUNK])

    async def _access_log(self, stream: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        """The same on grpcio, which hears nothing more of a stream that it ends. So in a drain that is right after a message.

        What Envoy sends while its stream is being ended is lost, and it does not send it again. It sends by a timer: when
        something has just come, nothing follows for a tenth of a second, and what it tells then goes to another process.
        """
        messages, draining = aiter(stream), asyncio.ensure_future(self._draining.wait())
        following = asyncio.ensure_future(anext(messages, None))
        patience_s: float | None = None
        try:
            while True:
                waiting = {following} if draining.done() else {following, draining}
                await asyncio.wait(waiting, timeout=patience_s, return_when=asyncio.FIRST_COMPLETED)
                if following.done():
                    raw = following.result()
                    if raw is None:
                        break
                    self._settle(raw)
                    following = asyncio.ensure_future(anext(messages, None))
                    patience_s = _QUIET_S if draining.done() else None
                elif patience_s is not None:
                    break
                else:
                    patience_s = _LAST_WORDS_S
        finally:
            following.cancel()
            draining.cancel()
        return stream_response()


async def run(engine: Engine, listen: Listen, *, supervised: bool = False) -> None:
    """Serves until SIGTERM or SIGINT, then drains.

    supervised  standard input is a pipe from a supervisor, who writes nothing: where it ends, so has the supervisor
    """
    sidecar = Sidecar(engine, listen)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, sidecar.stop)
    if supervised:

        def ended() -> None:
            loop.remove_reader(0)
            sidecar.stop()

        loop.add_reader(0, ended)
    await sidecar.serve()


def _traceparent(context: grpc.aio.ServicerContext[bytes, bytes]) -> str:
    """Of Envoy's own span around this call, where it traces."""
    for name, value in context.invocation_metadata() or ():
        if name == TRACEPARENT and isinstance(value, str):
            return value
    return ""


class _GrpcLine:
    """Of one call on grpcio. `answered` comes to None where the decision failed."""

    def __init__(self) -> None:
        self.answered: asyncio.Future[bytes | None] = asyncio.get_running_loop().create_future()
        self.unheard: Unheard | None = None

    def answer(self, stream: int, message: bytes, unheard: Unheard | None = None) -> None:
        if not self.answered.done():
            self.answered.set_result(message)
            self.unheard = unheard
        elif unheard is not None:
            unheard()

    def fail(self, stream: int, status: int, message: str) -> None:
        if not self.answered.done():
            self.answered.set_result(None)

    def flush(self) -> None:
        """gRPC sends when it likes."""


class _Several(grpc.GenericRpcHandler):
    """Several services behind one handler, each asked in turn."""

    def __init__(self, *handlers: grpc.GenericRpcHandler) -> None:
        self._handlers = handlers

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        return next(filter(None, (handler.service(handler_call_details) for handler in self._handlers)), None)


def _listen_on_tcp(server: grpc.aio.Server, listen: Listen) -> None:
    """On `listen.address`, where there is one. Raises `ConfigError`."""
    if not listen.address:
        return
    try:
        if listen.tls is None:
            server.add_insecure_port(listen.address)
            _log.warning("everybody who reaches this address is let in", extra={"address": listen.address})
        else:
            key, certificate, authority = (
                _read(path) for path in (listen.tls.key, listen.tls.certificate, listen.tls.client_ca)
            )
            # INVARIANT: without `require_client_auth` it would be TLS for anybody.
            trusted = grpc.ssl_server_credentials([(key, certificate)], authority, require_client_auth=True)
            server.add_secure_port(listen.address, trusted)
    except RuntimeError:
        raise ConfigError(
            listen.address, "cannot be listened on: in use, no address of this machine, or no fit for its key"
        ) from None


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise ConfigError(path, f"cannot be read: {(error.strerror or str(error)).lower()}") from None


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


def _bound(path: Path) -> socket.socket:
    bound = socket.socket(socket.AF_UNIX)
    try:
        bound.bind(str(path))
    except OSError as error:
        bound.close()
        raise ConfigError(str(path), f"cannot be bound: {(error.strerror or str(error)).lower()}") from None
    return bound


def _leave(path: Path) -> None:
    path.unlink(missing_ok=True)


@contextlib.contextmanager
def _umask(mask: int) -> Any:
    before = os.umask(mask)
    try:
        yield
    finally:
        os.umask(before)
