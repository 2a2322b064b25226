"""Errors of our gRPC services: a status code, and details where gRPC's other servers have them.

google.rpc.Status comes with `grpc-status-details-bin`, which Go, Java and others read by themselves. It is written by its
numbers (`RpcStatus`): its Python package is called `google`, and a library does not bring a second one of that name.
"""

from __future__ import annotations

from typing import Final

import grpc
from google.protobuf.message import DecodeError, Message

from authz.api.wire.decisions_pb2 import ErrorDetail, RpcAny, RpcStatus
from authz.errors import AuthzError

DETAILS: Final = "grpc-status-details-bin"
_TYPE: Final = "type.googleapis.com/authz.v1.ErrorDetail"


class Fault(AuthzError):
    """Ends an RPC with this status. `field` and `expected` as in `ErrorDetail`."""

    def __init__(
        self, code: grpc.StatusCode, message: str, *, field: str = "", expected: str = "", retry_after_s: float = 0.0
    ) -> None:
        self.code, self.message = code, message
        self.detail = ErrorDetail(field=field, expected=expected, retry_after_s=retry_after_s)
        super().__init__(message)

    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        number: int = self.code.value[0]
        packed = RpcAny(type_url=_TYPE, value=self.detail.SerializeToString())
        return ((DETAILS, RpcStatus(code=number, message=self.message, details=[packed]).SerializeToString()),)


def invalid(field: str, message: str, expected: str) -> Fault:
    return Fault(grpc.StatusCode.INVALID_ARGUMENT, f"{field}: {message}, expected {expected}", field=field, expected=expected)


def parse(message: Message, raw: bytes) -> None:
    """Raises `Fault`."""
    try:
        message.ParseFromString(raw)
    except DecodeError:
        name = message.DESCRIPTOR.full_name
        raise Fault(grpc.StatusCode.INVALID_ARGUMENT, f"the message cannot be read, expected {name}", expected=name) from None


def detail_of(error: grpc.RpcError) -> ErrorDetail | None:
    """For clients: the detail that an error brought; None where it has none."""
    metadata = error.trailing_metadata() if isinstance(error, grpc.Call | grpc.aio.AioRpcError) else None
    for key, value in metadata or ():
        if key == DETAILS and isinstance(value, bytes):
            for packed in RpcStatus.FromString(value).details:
                if packed.type_url == _TYPE:
                    return ErrorDetail.FromString(packed.value)
    return None
