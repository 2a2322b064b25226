"""`authz.v1.Status`: how a sidecar is."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import grpc

from authz.api.wire.status_pb2 import BundleStatus, GetStatusRequest, GetStatusResponse
from authz.bundle import Status

SERVICE: Final = "authz.v1.Status"


def handler(status: Callable[[], Status]) -> grpc.GenericRpcHandler:
    """Answers with what `status` gives at that moment."""

    async def get(raw: bytes, context: grpc.aio.ServicerContext[bytes, bytes]) -> bytes:
        now = status()
        bundle = BundleStatus(digest=now.digest, since_ns=now.since_ns, refused=now.refused, refused_ns=now.refused_ns)
        return GetStatusResponse(bundle=bundle).SerializeToString()

    return grpc.method_handlers_generic_handler(SERVICE, {"Get": grpc.unary_unary_rpc_method_handler(get)})


def ask(channel: grpc.Channel, timeout_s: float) -> Status:
    """Raises `grpc.RpcError`."""
    get: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{SERVICE}/Get")
    bundle = GetStatusResponse.FromString(get(GetStatusRequest().SerializeToString(), timeout=timeout_s)).bundle
    return Status(bundle.digest, bundle.since_ns, bundle.refused, bundle.refused_ns)
