"""gRPC's framing of the one message that a unary call carries."""

from __future__ import annotations

from typing import Final

from authz.transport.heads import INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED, Refusal

PREFIX_BYTES: Final = 5
"""Whether it is compressed, and its length."""


def framed(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4) + message


def unframed(body: bytes, most_bytes: int) -> bytes | Refusal:
    """The message of a whole body, or what is wrong with it."""
    if len(body) < PREFIX_BYTES or body[0] > 1:
        return Refusal(INTERNAL, "the body is no gRPC message")
    size = int.from_bytes(body[1:PREFIX_BYTES])
    if body[0]:
        return Refusal(UNIMPLEMENTED, "the message is compressed, expected grpc-encoding `identity`")
    if size > most_bytes:
        return too_large(most_bytes)
    if size != len(body) - PREFIX_BYTES:
        return Refusal(INTERNAL, "expected exactly one whole message")
    return body[PREFIX_BYTES:]


def too_large(most_bytes: int) -> Refusal:
    return Refusal(RESOURCE_EXHAUSTED, f"the message is larger than {most_bytes} bytes")
