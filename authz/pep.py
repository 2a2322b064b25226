"""An enforcement point in this process: what of a request is judged, what goes upstream, what comes back, how it ended.

Bytes in, bytes out, and no I/O: the transport for `httpx` and the ASGI middleware do the same with it.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from msgspec import structs

from authz.answers import CLIENT_CREDENTIALS, body
from authz.errors import Refused
from authz.inference.reported import BodyReader, StreamReader
from authz.model import Allow, Deny, Outcome, Receipt, Reply, Request, Secret, Usage
from authz.reasons import Reason

Headers = list[tuple[bytes, bytes]]

_REPLACED: Final = frozenset(name.encode() for name in (*CLIENT_CREDENTIALS, "authorization", "accept-encoding"))
_KEPT_BACK: Final = frozenset(
    {b"openai-project", b"x-user-id", b"x-request-id", b"x-http-method-override", b"x-http-method", b"x-method-override"}
)
_PREFIXES: Final = (b"x-authz-", b"x-envoy-")
"""As Envoy does it: what is ours alone, and what could have the upstream take a request for another than was judged."""

_FRAMING: Final = frozenset({b"content-length", b"transfer-encoding"})
_GROQS_OWN: Final = frozenset({b"set-cookie"})
_LIMITS: Final = b"x-ratelimit-"
"""Groq counts for the whole organisation and we for each caller: where both answer, ours stays. Its cookie is of the one
session that all callers share."""


def request_of(
    method: str, path: bytes, headers: Iterable[tuple[bytes, bytes]], content: bytes | None, source_ip: str
) -> Request:
    """The request as it is judged; `path` with its query. Raises `Refused` for what is not UTF-8.

    It has no request id of its own: the client could have chosen it, and with it another one's reservation.
    """
    try:
        said = tuple((name.decode().lower(), value.decode()) for name, value in headers)
        return Request(method, path.decode(), said, content, source_ip=source_ip)
    except UnicodeDecodeError:
        raise Refused(Reason.INVALID_REQUEST, "the path or a header is not UTF-8 text") from None


def upstream_headers(headers: Iterable[tuple[bytes, bytes]], key: Secret, content: bytes) -> Headers:
    """What the upstream gets: one credential, ours, the length of what was judged, and no encoding, since a count in an answer
    has to be read."""
    kept = [(name, value) for name, value in headers if _goes_on(name.lower())]
    return [
        *kept,
        (b"authorization", f"Bearer {key.reveal()}".encode()),
        (b"accept-encoding", b"identity"),
        (b"content-length", str(len(content)).encode()),
    ]


def client_headers(headers: Iterable[tuple[bytes, bytes]], ours: Iterable[tuple[str, str]]) -> Headers:
    """What the client gets of an answer, with our own headers."""
    kept = [pair for pair in headers if pair[0].lower() not in _GROQS_OWN and not pair[0].lower().startswith(_LIMITS)]
    return [*kept, *((name.encode(), value.encode()) for name, value in ours)]


def answer(given: Deny | Reply) -> tuple[int, Headers, bytes]:
    """Status, headers and body of what is answered here, as Groq would write them."""
    status, content = (given.status, body(given)) if isinstance(given, Deny) else (200, given.body)
    own = [(b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]
    return status, client_headers(own, given.headers), content


class Reading:
    """Reads an answer on its way to the client: how it ends, and what it says was used.

    `feed` every piece, `end` at its end; `receipt` says how it ended, also where the end never came.
    """

    def __init__(self, allow: Allow, status: int, headers: Iterable[tuple[bytes, bytes]]) -> None:
        self._allow, self._status = allow, status
        said = {name.lower(): value.lower() for name, value in headers}
        kind = said.get(b"content-type", b"").partition(b";")[0].strip()
        stream = kind == b"text/event-stream"
        encoded = said.get(b"content-encoding", b"identity") != b"identity"
        self._readable = not encoded and (stream or kind == b"application/json")
        self._reader: StreamReader | BodyReader = StreamReader() if stream else BodyReader()
        self._ended = False

    def feed(self, piece: bytes) -> None:
        if self._readable and self._status < 300:
            self._reader.feed(piece)

    def end(self) -> None:
        self._ended = True

    def receipt(self) -> Receipt:
        if self._status >= 300:
            return receipt(self._allow, Outcome.UPSTREAM_ERROR, self._status)
        # Clients stop reading a stream at its last event, before its last byte.
        outcome = Outcome.ANSWERED if self._ended or self._reader.done else Outcome.ABANDONED
        said = receipt(self._allow, outcome, self._status, self._reader.usage)
        return structs.replace(said, named=self._reader.named if self._ended else None)


def receipt(allow: Allow, outcome: Outcome, status: int = 0, usage: Usage | None = None) -> Receipt:
    """How a request ended that went with the allow's key."""
    return Receipt(allow.reservation_id, "", outcome, status, usage, allow.upstream)


def _goes_on(name: bytes) -> bool:
    return name not in _REPLACED | _KEPT_BACK | _FRAMING and not name.startswith(_PREFIXES)
