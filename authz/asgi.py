"""Middleware for ASGI gateways: what comes in is authorised before the application sees it, and settled when it was answered.

    >>> authorizer = AsyncAuthorizer.open("authz.yaml")
    >>> app = AuthorizedApp(gateway, authorizer)  # for any ASGI server
    >>> authorizer.close()  # when that has stopped

The application gets the request with the upstream key in `authorization`, whole and with no credential of the client's; it has
only to pass it on. A denial is answered without it. `scope["authz"]` is the `Call`: what the application says there (`settle`,
`void`) counts. Where it says nothing: of a 2xx the usage in the answer is posted; a 3xx, 4xx or 5xx gives everything back, but
for 502 and 504, by which a gateway says that it does not know what became of a request; there, and in all other cases, the
estimate stands.

Other protocols than HTTP are denied, `lifespan` passes.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Final, assert_never

from msgspec import structs

from authz import pep
from authz.authorizer import AsyncAuthorizer
from authz.calls import Call
from authz.errors import Refused
from authz.inference import upload
from authz.model import Allow, Decision, Deny, Outcome, Receipt, Reply

Message = MutableMapping[str, Any]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY_BYTES: Final = 1024 * 1024
MAX_UPLOAD_BYTES: Final = upload.MAX_FILE_BYTES + 64 * 1024
_UPLOADS: Final = b"multipart/form-data"
_POLICY_VIOLATION: Final = 1008
_UNKNOWN_END: Final = (502, 504)


class AuthorizedApp:
    """`app`, behind `authorizer`.

    max_body_bytes, max_upload_bytes  a larger request is denied with 413; it is read whole before it is judged
    """

    def __init__(
        self,
        app: App,
        authorizer: AsyncAuthorizer,
        *,
        max_body_bytes: int = MAX_BODY_BYTES,
        max_upload_bytes: int = MAX_UPLOAD_BYTES,
    ) -> None:
        self._app, self._authorizer = app, authorizer
        self._max_body_bytes, self._max_upload_bytes = max_body_bytes, max_upload_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        match scope["type"]:
            case "http":
                await self._http(scope, receive, send)
            case "lifespan":
                await self._app(scope, receive, send)
            case "websocket":
                await send({"type": "websocket.close", "code": _POLICY_VIOLATION})
            case other:
                raise ValueError(f"found the protocol `{other}`, expected http")

    async def _http(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            content = await self._read(scope, receive)
        except _ClientLeft:
            return
        path = scope.get("raw_path") or scope["path"].encode()
        if scope["query_string"]:
            path += b"?" + scope["query_string"]
        client = scope.get("client")
        try:
            request = pep.request_of(scope["method"], path, scope["headers"], content, client[0] if client else "")
            decision: Decision = await self._authorizer.decide(request)
        except Refused as refused:
            decision = await self._authorizer.reject(refused)
        match decision:
            case Deny() | Reply():
                status, headers, body = pep.answer(decision)
                await send({"type": "http.response.start", "status": status, "headers": headers})
                await send({"type": "http.response.body", "body": body})
            case Allow():
                await self._pass_on(scope, receive, send, content or b"", decision)
            case _:
                assert_never(decision)

    async def _pass_on(self, scope: Scope, receive: Receive, send: Send, content: bytes, allow: Allow) -> None:
        call = Call(allow)
        key = call.upstream_key  # from here on it may be sent
        changed = dict(scope) | {"headers": pep.upstream_headers(scope["headers"], key, content), "authz": call}
        watched = _Answer(send, allow)
        try:
            await self._app(changed, _replay(content, receive), watched.send)
        finally:
            await self._authorizer.report(call.said or watched.receipt())

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """The body; None for one that is too large. Raises `_ClientLeft`."""
        upload = any(name == b"content-type" and value.lower().startswith(_UPLOADS) for name, value in scope["headers"])
        at_most = self._max_upload_bytes if upload else self._max_body_bytes
        pieces: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _ClientLeft
            size += len(message.get("body", b""))
            if size > at_most:
                return None
            pieces.append(message.get("body", b""))
            if not message.get("more_body", False):
                return b"".join(pieces)


class _ClientLeft(Exception):
    """Before its request was whole."""


class _Answer:
    """What the application sends, read along."""

    def __init__(self, send: Send, allow: Allow) -> None:
        # A 401 may be the application's own: it is no proof that the upstream has refused the key.
        self._send, self._allow = send, structs.replace(allow, upstream="")
        self._status = 0
        self._reading: pep.Reading | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = [(bytes(name), bytes(value)) for name, value in message.get("headers", ())]
            self._status = message["status"]
            self._reading = pep.Reading(self._allow, self._status, headers)
            message = dict(message) | {"headers": pep.client_headers(headers, self._allow.headers)}
        elif message["type"] == "http.response.body" and self._reading is not None:
            self._reading.feed(message.get("body", b""))
            if not message.get("more_body", False):
                self._reading.end()
        await self._send(message)

    def receipt(self) -> Receipt:
        if self._reading is None or self._status in _UNKNOWN_END:
            return pep.receipt(self._allow, Outcome.ABANDONED, self._status)
        return self._reading.receipt()


def _replay(content: bytes, receive: Receive) -> Receive:
    """The body once more, then whatever comes."""
    left: list[Message] = [{"type": "http.request", "body": content, "more_body": False}]

    async def replay() -> Message:
        return left.pop() if left else await receive()

    return replay
