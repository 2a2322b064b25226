"""What every answer carries and every request has to pass, whatever it asks for."""

from __future__ import annotations

import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from authz.settings import UNIX, AdminFront

CSP: Final = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
HEADERS: Final = (
    ("content-security-policy", CSP),
    ("x-content-type-options", "nosniff"),
    ("x-frame-options", "DENY"),
    ("referrer-policy", "same-origin"),  # with `no-referrer` a form would come with `Origin: null`
    ("cross-origin-opener-policy", "same-origin"),
    ("cross-origin-resource-policy", "same-origin"),
    ("permissions-policy", "camera=(), microphone=(), geolocation=()"),
    ("cache-control", "no-store"),
)


class Place:
    """Where this is: by what names it may be asked for, and from where a change may come."""

    def __init__(self, front: AdminFront) -> None:
        listen = "" if front.listen.startswith(UNIX) else front.listen
        port = listen.rpartition(":")[2]
        self.secure = front.url.startswith("https://")
        self.origins: frozenset[str] = frozenset(
            (front.url,) if front.url else (f"http://{listen}", f"http://localhost:{port}") if listen else ("http://localhost",)
        )
        here = (listen, f"localhost:{port}") if listen else ("localhost",)
        self.hosts: frozenset[str] = frozenset((*here, *(urlsplit(origin).netloc for origin in self.origins)))
        self.url = front.url or (f"http://{listen}" if listen else "http://localhost")

    @property
    def cookie(self) -> str:
        """`__Host-` has browsers refuse the cookie from anywhere but this very host, over TLS."""
        return "__Host-authz" if self.secure else "authz"

    def is_ours(self, headers: Mapping[str, str]) -> bool:
        """Whether a browser says that one of our own pages sent this. Who says nothing at all is no browser of these years, and
        nobody's."""
        origin = headers.get("origin")
        return origin in self.origins if origin is not None else headers.get("sec-fetch-site") == "same-origin"


def same(said: str, expected: str) -> bool:
    return hmac.compare_digest(said.encode(), expected.encode())


class Guard:
    """Refuses whoever asks for another host: a name of somebody else's that leads here (DNS rebinding) reaches nothing.

    And what a page of another origin asks for by itself: on one machine a cookie comes along, for ports keep none apart.
    """

    def __init__(self, app: ASGIApp, place: Place) -> None:
        self._app, self._place = app, place

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [
                    *message.get("headers", ()),
                    *((name.encode(), value.encode()) for name, value in HEADERS),
                ]
            await send(message)

        headers = Headers(scope=scope)
        hosts = headers.getlist("host")
        if len(hosts) != 1 or hosts[0].lower() not in self._place.hosts:
            answer = PlainTextResponse("this is not the host that it is asked for as\n", 421)
        elif headers.get("sec-fetch-site") in ("same-site", "cross-site") and not _is_navigation(scope, headers):
            answer = PlainTextResponse("asked for by another site\n", 403)
        else:
            await self._app(scope, receive, with_headers)
            return
        await answer(scope, receive, with_headers)


def _is_navigation(scope: Scope, headers: Mapping[str, str]) -> bool:
    """Somebody follows a link, or comes back from the identity provider."""
    return (
        scope["method"] == "GET" and headers.get("sec-fetch-mode") == "navigate" and headers.get("sec-fetch-dest") == "document"
    )
