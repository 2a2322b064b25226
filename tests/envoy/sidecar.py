"""A sidecar for tests: it asks a function for its decisions and keeps what Envoy reports. Check is on our own transport, or on
grpcio where AUTHZ_TRANSPORT says so."""

from __future__ import annotations

import asyncio
import itertools
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from authz.envoy.accesslog import read_stream_message, stream_response
from authz.envoy.answer import encode
from authz.envoy.bootstrap import MAX_UPLOAD_BYTES
from authz.envoy.check import decode_check
from authz.errors import Refused
from authz.model import Allow, Decision, DecisionRecord, Deny, Receipt, Request, Secret
from authz.reasons import SPEC, Reason
from authz.transport import UNKNOWN, Call, Listener

UPSTREAM_KEY: Final = "gsk_upstream_made_up"
CLIENT_KEY: Final = "sk-client-made-up"
RESERVATION_HEADER: Final = "x-test-reservation"
RECORD: Final = DecisionRecord(
    decision_id="d", time="t", duration_us=0, reservation_id="r", bundle="b", request_id="", effect="allow", status=200
)


def deny(reason: Reason, headers: tuple[tuple[str, str], ...] = ()) -> Deny:
    spec = SPEC[reason]
    return Deny(reason, spec.status, spec.type, f"refused: {reason.value}", None, headers, RECORD)


def allow(reservation_id: str, headers: tuple[tuple[str, str], ...] = ()) -> Allow:
    return Allow(reservation_id, Secret(UPSTREAM_KEY), ((RESERVATION_HEADER, reservation_id), *headers), RECORD)


class Native:
    """The listener of our own transport, on a loop in a thread. `answer` may take its time: each call has a thread."""

    def __init__(self, path: Path, answer: Callable[[bytes], bytes], hear: Callable[[bytes], None]) -> None:
        self._path, self._answer, self._hear = path, answer, hear
        self._loop = asyncio.new_event_loop()
        self._pool = ThreadPoolExecutor(8)
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def _call(self, call: Call) -> None:
        def send(answering: asyncio.Future[bytes]) -> None:
            if answering.exception() is None:
                call.answer(answering.result())
            else:
                call.fail(UNKNOWN, "the decision failed")
            call.line.flush()

        self._loop.run_in_executor(self._pool, self._answer, call.message).add_done_callback(send)

    def __enter__(self) -> Self:
        serving = health_pb2.HealthCheckResponse(status=health_pb2.HealthCheckResponse.SERVING).SerializeToString()
        methods: dict[str, Callable[[Call], None]] = {
            "/envoy.service.auth.v3.Authorization/Check": self._call,
            "/grpc.health.v1.Health/Check": lambda call: call.answer(serving),
        }
        streams = {"/envoy.service.accesslog.v3.AccessLogService/StreamAccessLogs": self._hear}
        self._listener = Listener(methods, streams=streams, steady=time.monotonic_ns)
        bound = socket.socket(socket.AF_UNIX)
        bound.bind(str(self._path))
        self._thread.start()
        asyncio.run_coroutine_threadsafe(self._listener.start(bound), self._loop).result(10)
        return self

    def __exit__(self, *_: object) -> None:
        asyncio.run_coroutine_threadsafe(self._listener.stop(0), self._loop).result(10)
        self._path.unlink()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._pool.shutdown()
        self._loop.close()


class Sidecar:
    """Allows whoever comes with `CLIENT_KEY`, unless `decide` is replaced; the answer names its reservation in a header."""

    def __init__(self, path: Path) -> None:
        self.socket: Final = path
        self.decide: Callable[[Request], Decision] = self.decide_by_key
        self.checks: Final[list[Request]] = []
        self._receipts: list[Receipt] = []
        self._arrived = threading.Condition()
        self._numbers = itertools.count(1)
        self._server: grpc.Server | None = None
        self._native = os.environ.get("AUTHZ_TRANSPORT", "native") == "native"
        self.check_socket: Final = path.with_suffix(".check") if self._native else path
        self._resources = ExitStack()

    def decide_by_key(self, request: Request) -> Decision:
        if request.header("authorization") != (f"Bearer {CLIENT_KEY}",):
            return deny(Reason.INVALID_API_KEY)
        return allow(f"rsv-{next(self._numbers)}")

    def wait_for(self, found: Callable[[Receipt], bool], deadline_s: float = 5.0) -> Receipt:
        """The first receipt that `found` likes, as soon as Envoy has sent it. Raises TimeoutError."""
        deadline = time.monotonic() + deadline_s
        with self._arrived:
            while True:
                for receipt in self._receipts:
                    if found(receipt):
                        return receipt
                if not self._arrived.wait(deadline - time.monotonic()):
                    raise TimeoutError(f"no such receipt among {len(self._receipts)}")

    def receipt(self, reservation_id: str) -> Receipt:
        return self.wait_for(lambda receipt: receipt.reservation_id == reservation_id)

    def receipts(self) -> list[Receipt]:
        with self._arrived:
            return list(self._receipts)

    def _check(self, raw: bytes, _: grpc.ServicerContext | None = None) -> bytes:
        try:
            request = decode_check(raw)
        except Refused as refused:
            return encode(deny(refused.reason))
        self.checks.append(request)
        return encode(self.decide(request))

    def _hear(self, raw: bytes) -> None:
        receipts = read_stream_message(raw)
        with self._arrived:
            self._receipts += receipts
            self._arrived.notify_all()

    def _stream_access_logs(self, messages: Iterator[bytes], _: grpc.ServicerContext) -> bytes:
        try:
            for raw in messages:
                self._hear(raw)
        except grpc.RpcError:
            pass  # the stream was cut: Envoy or this server is going
        return stream_response()

    def start(self) -> None:
        server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.max_receive_message_length", MAX_UPLOAD_BYTES + 65_536)])
        check: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {"Check": grpc.unary_unary_rpc_method_handler(self._check)}
        logs: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "StreamAccessLogs": grpc.stream_unary_rpc_method_handler(self._stream_access_logs)
        }
        server.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("envoy.service.auth.v3.Authorization", check),
                grpc.method_handlers_generic_handler("envoy.service.accesslog.v3.AccessLogService", logs),
            )
        )
        servicer = health.HealthServicer()
        servicer.set("", health_pb2.HealthCheckResponse.SERVING)
        health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
        server.add_insecure_port(f"unix:{self.socket}")
        server.start()
        self._server = server
        if self._native:
            self._resources.enter_context(Native(self.check_socket, self._check, self._hear))

    def stop(self) -> None:
        self._resources.close()
        if self._server is not None:
            self._server.stop(grace=0).wait()
            self._server = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
