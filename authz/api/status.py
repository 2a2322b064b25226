"""`authz.v1.Status`: how a sidecar is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc

from authz.api.wire.status_pb2 import BundleStatus, GetStatusRequest, GetStatusResponse
from authz.api.wire.status_pb2 import UpstreamRoom as WireRoom
from authz.bundle import Status
from authz.model import Meter, UpstreamRoom

SERVICE: Final = "authz.v1.Status"


def handler(status: Callable[[], Status], rooms: Callable[[], tuple[UpstreamRoom, ...]]) -> grpc.GenericRpcHandler:
    """Answers with what `status` and `rooms` give at that moment."""

    async def get(raw: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        now = status()
        bundle = BundleStatus(digest=now.digest, since_ns=now.since_ns, refused=now.refused, refused_ns=now.refused_ns)
        return GetStatusResponse(bundle=bundle, upstream=map(_encoded, rooms())).SerializeToString()

    return grpc.method_handlers_generic_handler(SERVICE, {"Get": grpc.unary_unary_rpc_method_handler(get)})


def ask(channel: grpc.Channel, timeout_s: float) -> tuple[Status, tuple[UpstreamRoom, ...]]:
    """Raises `grpc.RpcError`."""
    get: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Get")
    answer = GetStatusResponse.FromString(get(GetStatusRequest().SerializeToString(), timeout=timeout_s))
    bundle = answer.bundle
    status = Status(bundle.digest, bundle.since_ns, bundle.refused, bundle.refused_ns)
    return status, tuple(map(_decoded, answer.upstream))


def _encoded(room: UpstreamRoom) -> WireRoom:
    return WireRoom(
        upstream=room.upstream,
        model=room.model,
        meter=room.meter.value,
        limit=room.limit,
        left=room.left,
        teams=room.teams,
        learned_ns=room.learned_ns,
    )


def _decoded(room: WireRoom) -> UpstreamRoom:
    return UpstreamRoom(room.upstream, room.model, Meter(room.meter), room.limit, room.left, room.teams, room.learned_ns)
