"""Our decision, as the answer to Envoy's Check. Always an OK RPC: an error would be Envoy's failure mode and not a denial."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

from authz.answers import CLIENT_CREDENTIALS, body
from authz.envoy.wire import base_pb2, check_pb2
from authz.model import Allow, Decision, Deny, Reply

RPC_OK: Final = 0
RPC_PERMISSION_DENIED: Final = 7
"""google.rpc.Code. Any but OK denies; the client sees `denied_response` and not this."""

UPSTREAM_CREDENTIAL: Final = "authorization"
RESERVATION: Final = "reservation"
UPSTREAM: Final = "upstream"
REASON: Final = "reason"
"""Keys of the metadata that comes back with the access log."""


def encode(decision: Decision) -> bytes:
    """A serialized CheckResponse."""
    match decision:
        case Allow():
            return _allow(decision).SerializeToString()
        case Deny():
            return _deny(decision).SerializeToString()
        case Reply():
            return _reply(decision).SerializeToString()
        case _:
            assert_never(decision)


def _allow(allow: Allow) -> check_pb2.CheckResponse:
    credential = (UPSTREAM_CREDENTIAL, f"Bearer {allow.upstream_key.reveal()}")
    answer = check_pb2.CheckResponse(
        status=check_pb2.Status(code=RPC_OK),
        ok_response=check_pb2.OkHttpResponse(
            headers=_overwriting([credential]),
            headers_to_remove=CLIENT_CREDENTIALS,
            response_headers_to_add=_overwriting(allow.headers),
        ),
    )
    answer.dynamic_metadata[RESERVATION] = allow.reservation_id
    if allow.upstream:
        answer.dynamic_metadata[UPSTREAM] = allow.upstream
    return answer


def _reply(reply: Reply) -> check_pb2.CheckResponse:
    """To Envoy a denial with status 200: the one way in which a Check answers in the upstream's place.

    An allow would send the request on, with the upstream key; a denial is never forwarded, whatever its status.
    """
    return check_pb2.CheckResponse(
        status=check_pb2.Status(code=RPC_PERMISSION_DENIED),
        denied_response=check_pb2.DeniedHttpResponse(
            status=check_pb2.HttpStatus(code=200),
            headers=_overwriting([*reply.headers, ("content-type", "application/json")]),
            body=reply.body.decode(),
        ),
    )


def _deny(deny: Deny) -> check_pb2.CheckResponse:
    answer = check_pb2.CheckResponse(
        status=check_pb2.Status(code=RPC_PERMISSION_DENIED),
        denied_response=check_pb2.DeniedHttpResponse(
            status=check_pb2.HttpStatus(code=deny.status),
            headers=_overwriting([*deny.headers, ("content-type", "application/json")]),
            body=body(deny).decode(),
        ),
    )
    answer.dynamic_metadata[REASON] = deny.reason.value
    return answer


def _overwriting(headers: Iterable[tuple[str, str]]) -> list[base_pb2.HeaderValueOption]:
    # Left alone, Envoy appends: a header that the upstream sent too would then stand twice.
    return [
        base_pb2.HeaderValueOption(
            header=base_pb2.HeaderValue(key=key, value=value),
            append_action=base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD,
        )
        for key, value in headers
    ]
