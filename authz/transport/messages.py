"""gRPC's framing of the messages that a call carries."""

from __future__ import annotations

from typing import Final

from authz.transport.heads import INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED, Refusal

PREFIX_BYTES: Final = 5
"""Whether it is compressed, and its length."""

_COMPRESSED: Final = Refusal(UNIMPLEMENTED, "the message is compressed, expected grpc-encoding `identity`")


def framed(message: bytes) -> bytes:
    return b"\x00" + len(message).to_bytes(4) + message


def unframed(body: bytes, most_bytes: int) -> bytes | Refusal:
    """The message of a whole body, or what is wrong with it."""
    if len(body) < PREFIX_BYTES or body[0] > 1:
        return Refusal(INTERNAL, "the body is no gRPC message")
    size = int.from_bytes(body[1:PREFIX_BYTES])
    if body[0]:
        return _COMPRESSED
    if size > most_bytes:
        return too_large(most_bytes)
    if size != len(body) - PREFIX_BYTES:
        return Refusal(INTERNAL, "expected exactly one whole message")
    return body[PREFIX_BYTES:]


def split(body: bytes, most_bytes: int) -> tuple[list[bytes], bytes, int] | Refusal:
    """The messages that are whole, what follows them, and how long that has to become; or what is wrong."""
    found: list[bytes] = []
    at = 0
    while len(body) - at >= PREFIX_BYTES:
        size = int.from_bytes(body[at + 1 : at + PREFIX_BYTES])
        if body[at]:
            return _COMPRESSED
        if size > most_bytes:
            return too_large(most_bytes)
        end = at + PREFIX_BYTES + size
        if end > len(body):
            return found, body[at:], end - at
        found.append(body[at + PREFIX_BYTES : end])
        at = end
    return found, body[at:], PREFIX_BYTES


def too_large(most_bytes: int) -> Refusal:
    return Refusal(RESOURCE_EXHAUSTED, f"the message is larger than {most_bytes} bytes")
