"""Envoy's Check, as the request that it asks about.

Nothing of it is believed here, and nothing is repaired: what cannot be read is refused, and a body that may not be whole is
None, so that no later reader can take a prefix for the request.
"""

from __future__ import annotations

from typing import Final

from google.protobuf.message import DecodeError

from authz.envoy.wire import check_pb2
from authz.errors import Refused
from authz.model import Request
from authz.reasons import Reason

TRACEPARENT: Final = "traceparent"
PARTIAL_BODY: Final = "x-envoy-auth-partial-body"
"""Envoy's mark on a Check for which it has buffered a body; a client's own is stripped before."""

REQUEST_ID: Final = "x-request-id"
LENGTH: Final = "content-length"
_READ: Final = frozenset({TRACEPARENT, PARTIAL_BODY, REQUEST_ID, LENGTH})

Headers = tuple[tuple[str, str], ...]


def decode_check(raw: bytes, traceparent: str = "") -> Request:
    """A serialized CheckRequest. Raises Refused(INVALID_REQUEST) for one that cannot be read or is not UTF-8 throughout.

    traceparent  of Envoy's call itself, where it traces that; otherwise the request's own counts
    """
    check = check_pb2.CheckRequest()
    try:
        check.ParseFromString(raw)
    except DecodeError:
        raise Refused(Reason.INVALID_REQUEST, "the request cannot be read as UTF-8 text") from None
    http = check.attributes.request.http
    headers, body = _headers(http), http.raw_body
    said: dict[str, list[str]] = {}
    for name, value in headers:
        if name in _READ:
            said.setdefault(name, []).append(value)
    request_ids, parents = said.get(REQUEST_ID, ()), said.get(TRACEPARENT, ())
    return Request(
        method=http.method,
        path=http.path,
        headers=headers,
        body=body if _is_whole(http, len(body), said) else None,
        request_id=request_ids[0] if len(request_ids) == 1 else "",
        source_ip=check.attributes.source.address.socket_address.address,
        peer=check.attributes.source.principal,
        traceparent=traceparent or (parents[0] if len(parents) == 1 else ""),
    )


def _headers(http: check_pb2.AttributeContext.HttpRequest) -> Headers:
    """The client's headers. HTTP/2's pseudo-headers are left out: they are the method and the path over again."""
    if http.headers and http.header_map.headers:
        raise Refused(Reason.INVALID_REQUEST, "the headers came twice")
    try:
        pairs = [(header.key.lower(), header.raw_value.decode() or header.value) for header in http.header_map.headers]
    except UnicodeDecodeError:
        raise Refused(Reason.INVALID_REQUEST, "a header is not UTF-8 text") from None
    if not pairs:
        pairs = [(name.lower(), value) for name, value in http.headers.items()]
    return tuple([pair for pair in pairs if pair[0][:1] != ":"])


def _is_whole(http: check_pb2.AttributeContext.HttpRequest, received: int, said: dict[str, list[str]]) -> bool:
    """Whether `raw_body` is surely all of the body, byte for byte.

    Four witnesses, and each can veto: `body` is only set where Envoy was told to pass text, which it mends where it is not
    UTF-8; the mark; the bytes that Envoy counted; and the length that the client announced.
    """
    lengths = said.get(LENGTH)
    return (
        not http.body
        and all(mark == "false" for mark in said.get(PARTIAL_BODY, ()))
        and http.size <= received
        and (not lengths or lengths == [str(received)])
    )
