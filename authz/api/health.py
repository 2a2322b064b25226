"""grpc.health.v1 on both sockets: Envoy asks each of them, and leaves a process alone that says NOT_SERVING."""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.message import DecodeError
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from authz.transport import INVALID_ARGUMENT, NOT_FOUND, Call

SERVICE: Final = health.SERVICE_NAME
BUNDLE: Final = "authz.bundle"
"""NOT_SERVING while the folder holds a bundle that was refused."""

_NAMES: Final = {True: health_pb2.HealthCheckResponse.SERVING, False: health_pb2.HealthCheckResponse.NOT_SERVING}


class Health:
    """How this process is, as a whole (``) and by name. All in one thread, the loop's."""

    def __init__(self, server: grpc.aio.Server) -> None:
        self._serving: dict[str, bool] = {}
        self._servicer = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(self._servicer, server)

    async def set(self, name: str, serving: bool) -> None:
        self._serving[name] = serving
        await self._servicer.set(name, _NAMES[serving])

    async def drain(self) -> None:
        """NOT_SERVING from here on, whatever `set` says."""
        self._serving = dict.fromkeys(self._serving, False)
        await self._servicer.enter_graceful_shutdown()

    def __call__(self, call: Call) -> None:
        """Answers `Check` on a transport of ours."""
        asked = health_pb2.HealthCheckRequest()
        try:
            asked.ParseFromString(call.message)
        except DecodeError:
            call.fail(INVALID_ARGUMENT, "expected a HealthCheckRequest")
            return
        serving = self._serving.get(asked.service)
        if serving is None:
            call.fail(NOT_FOUND, "there is no such service")
        else:
            call.answer(health_pb2.HealthCheckResponse(status=_NAMES[serving]).SerializeToString())
