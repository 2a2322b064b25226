"""The table of endpoints. What is not in it, byte for byte, does not exist here and is denied."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from authz.errors import Refused
from authz.inference import chat
from authz.model import Ask, Request
from authz.reasons import Reason

PREFIX: Final = "/openai/v1"


class Endpoint(Struct, frozen=True):
    """One row: what Groq serves here, which Cedar action that is, and who reads the request."""

    name: str
    action: str
    read: Callable[[bytes], Ask]


TABLE: Final[dict[tuple[str, str], Endpoint]] = {
    ("POST", f"{PREFIX}/chat/completions"): Endpoint(name="chat.completions", action="chat", read=chat.read),
}


def read(request: Request) -> Ask:
    """What the request asks for. Raises `Refused`: an unknown URL, media type, size or body."""
    # The path still has its query: a match of the whole text leaves no room for `..`, `%2F`, `;` or a second `?`.
    endpoint = TABLE.get((request.method, request.path))
    if endpoint is None:
        raise Refused(
            Reason.UNKNOWN_URL,
            f"Unknown request URL: {_shown(request.method)} {_shown(request.path)}. Please check the URL for typos.",
        )
    _refuse_encoded(request)
    return endpoint.read(_whole_body(request))


def _refuse_encoded(request: Request) -> None:
    """One JSON content type in UTF-8 and no content encoding: any other reading would be a second one."""
    if any(value.strip().lower() != "identity" for value in request.header("content-encoding")):
        raise Refused(Reason.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is not supported: send the body as it is.")
    types = request.header("content-type")
    if len(types) != 1 or types[0].lower().replace(" ", "").replace('"', "") not in _JSON_TYPES:
        raise Refused(Reason.UNSUPPORTED_MEDIA_TYPE, "Expected one Content-Type header: application/json, in UTF-8.")


_JSON_TYPES: Final = frozenset({"application/json", "application/json;charset=utf-8"})


def _whole_body(request: Request) -> bytes:
    if request.body is None:
        raise Refused(Reason.REQUEST_TOO_LARGE, "The request body could not be read whole.")
    lengths = request.header("content-length")
    if len(lengths) > 1 or any(value != str(len(request.body)) for value in lengths):
        raise Refused(Reason.INVALID_REQUEST, "The request body is not as long as its Content-Length says.")
    return request.body


def _shown(text: str) -> str:
    """Client text in a message: printable, short, one line."""
    return "".join(char if char.isprintable() else "?" for char in text[:120])
