"""The floor: a grpc.aio server whose Check does nothing at all and answers always the same. `python -m bench.floor SOCKET`.

It takes access logs and is healthy, so that Envoy goes on with it as with the sidecar.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from authz.envoy.accesslog import stream_response
from authz.envoy.wire import check_pb2

SERVICE = "envoy.service.auth.v3.Authorization"


def answer() -> bytes:
    """Allowed, and nothing added."""
    found = check_pb2.CheckResponse()
    found.ok_response.SetInParent()
    return found.SerializeToString()


async def serve(path: str) -> None:
    always = answer()

    async def check(raw: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        return always

    async def log(stream: AsyncIterator[bytes], context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        async for _ in stream:
            pass
        return stream_response()

    server = grpc.aio.server()
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler(SERVICE, {"Check": grpc.unary_unary_rpc_method_handler(check)}),
            grpc.method_handlers_generic_handler(
                "envoy.service.accesslog.v3.AccessLogService", {"StreamAccessLogs": grpc.stream_unary_rpc_method_handler(log)}
            ),
        )
    )
    servicer = health.aio.HealthServicer()
    await servicer.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    server.add_insecure_port(f"unix:{path}")
    await server.start()
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    await stop.wait()
    await server.stop(0)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
