"""Our decision, as the answer to Envoy's Check. Always an OK RPC: an error would be Envoy's failure mode and not a denial.

Written as bytes and not through protobuf's objects, which cost many times as much; a test holds that protobuf would write the
same. Every field but two numbers is text or holds fields, so that all there is to it is a tag, a length and what is inside.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from typing import Final, assert_never

from authz.answers import CLIENT_CREDENTIALS, body
from authz.model import Allow, Decision, Deny, Reply

RPC_OK: Final = 0
RPC_PERMISSION_DENIED: Final = 7
"""google.rpc.Code. Any but OK denies; the client sees `denied_response` and not this."""

UPSTREAM_CREDENTIAL: Final = "authorization"
RESERVATION: Final = "reservation"
UPSTREAM: Final = "upstream"
REASON: Final = "reason"
"""Keys of the metadata that comes back with the access log."""


_KEPT: Final = 4096
_SHORT: Final = [bytes((number,)) for number in range(0x80)]


def encode(decision: Decision) -> bytes:
    """A serialized CheckResponse."""
    match decision:
        case Allow():
            return _allow(decision)
        case Deny():
            metadata = _metadata(REASON, decision.reason.value)
            return _denied(decision.status, decision.headers, body(decision)) + _field(_DYNAMIC_METADATA, metadata)
        case Reply():
            # To Envoy a denial with status 200: the one way in which a Check answers in the upstream's place. An allow would
            # send the request on, with the upstream key; a denial is never forwarded, whatever its status.
            return _denied(200, decision.headers, decision.body)
        case _:
            assert_never(decision)


def _allow(allow: Allow) -> bytes:
    metadata = _metadata(RESERVATION, allow.reservation_id)
    if allow.upstream:
        metadata += _metadata(UPSTREAM, allow.upstream)
    ok = b"".join(
        (
            _header(_OK_HEADERS, UPSTREAM_CREDENTIAL, f"Bearer {allow.upstream_key.reveal()}"),
            _REMOVED,
            *[_often(_OK_RESPONSE_HEADERS, name, value) for name, value in allow.headers],
        )
    )
    return _STATUS_OK + _field(_OK_RESPONSE, ok) + _field(_DYNAMIC_METADATA, metadata)


def _denied(status: int, headers: Iterable[tuple[str, str]], content: bytes) -> bytes:
    denied = b"".join(
        (
            _field(_DENIED_STATUS, b"\x08" + _varint(status)),
            *[_often(_DENIED_HEADERS, name, value) for name, value in headers],
            _JSON,
            _field(_DENIED_BODY, content) if content else b"",
        )
    )
    return _STATUS_DENIED + _field(_DENIED_RESPONSE, denied)


def _varint(number: int) -> bytes:
    if number < 0x80:
        return _SHORT[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    return bytes((number & 0x7F | 0x80,)) + _varint(number >> 7)


def _tag(number: int) -> bytes:
    """Of a field with a length."""
    return _SHORT[number << 3 | 2]


_FIRST, _SECOND, _THIRD = map(_tag, (1, 2, 3))


def _field(tag: bytes, content: bytes) -> bytes:
    size = len(content)
    return tag + (_SHORT[size] if size < 0x80 else _varint(size)) + content


def _header(tag: bytes, name: str, value: str) -> bytes:
    """A HeaderValueOption. Left alone, Envoy appends: a header that the upstream sent too would then stand twice."""
    # proto3 leaves an empty text out.
    pair = _name(name) + (_field(_SECOND, value.encode()) if value else b"")
    return _field(tag, _field(_FIRST, pair) + _OVERWRITE)


_often = lru_cache(_KEPT)(_header)
"""For headers that repeat: limits, and what is left of them."""


def _metadata(name: str, text: str) -> bytes:
    """One entry of a google.protobuf.Struct."""
    value = _field(_THIRD, text.encode())
    return _field(_FIRST, _name(name) + _field(_SECOND, value))


@cache
def _name(name: str) -> bytes:
    return _field(_tag(1), name.encode())


# CheckResponse: status = 1, denied_response = 2, ok_response = 3, dynamic_metadata = 4
_DENIED_RESPONSE: Final = _tag(2)
_OK_RESPONSE: Final = _tag(3)
_DYNAMIC_METADATA: Final = _tag(4)
_STATUS_OK: Final = _field(_tag(1), b"")
_STATUS_DENIED: Final = _field(_tag(1), b"\x08" + _varint(RPC_PERMISSION_DENIED))

# DeniedHttpResponse: status = 1, headers = 2, body = 3. OkHttpResponse: headers = 2, headers_to_remove = 5,
# response_headers_to_add = 6
_DENIED_STATUS: Final = _tag(1)
_DENIED_HEADERS: Final = _tag(2)
_DENIED_BODY: Final = _tag(3)
_OK_HEADERS: Final = _tag(2)
_OK_RESPONSE_HEADERS: Final = _tag(6)
_REMOVED: Final = b"".join(_field(_tag(5), name.encode()) for name in CLIENT_CREDENTIALS)

_OVERWRITE: Final = b"\x18\x02"
"""HeaderValueOption: append_action = 3, OVERWRITE_IF_EXISTS_OR_ADD."""
_JSON: Final = _header(_DENIED_HEADERS, "content-type", "application/json")
