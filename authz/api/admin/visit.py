"""A request on its way in: who it is of, whether it may change anything, and what it says."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from typing import Final, TypeVar
from urllib.parse import parse_qs

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from authz.api.admin.doors import Doors
from authz.api.admin.facts import Facts, Shared
from authz.api.admin.guard import Place, same
from authz.api.admin.sessions import Prove, Session, Sessions
from authz.clock import Clock
from authz.errors import Refused
from authz.identity.credentials import invalid

MAX_BODY: Final = 64 * 1024
_MAX_FIELDS: Final = 50
_SAFE: Final = ("GET", "HEAD")
_FORM: Final = "application/x-www-form-urlencoded"

Body = TypeVar("Body")


class NotSignedIn(Exception):
    """Nobody, or nobody any more."""


class Foreign(Exception):
    """A change that no page of ours has sent; `str()` says what was expected."""


class Visit:
    """One request of somebody who has signed in.

    session  None where the request carries its own credential, as of a script
    """

    def __init__(self, request: Request, body: bytes, shared: Shared, prove: Prove, session: Session | None) -> None:
        self._request, self._body = request, body
        self.session = session
        self.facts = Facts(shared, prove())

    def query(self, name: str, default: str = "") -> str:
        return self._request.query_params.get(name, default)

    @property
    def path(self) -> str:
        return self._request.url.path

    def part(self, name: str) -> str:
        """Of the path."""
        return str(self._request.path_params[name])

    def field(self, name: str, default: str = "") -> str:
        """Of a form; its first value."""
        return (self._fields.get(name) or [default])[0].strip()

    def fields(self, name: str) -> tuple[str, ...]:
        return tuple(self._fields.get(name, ()))

    @cached_property
    def _fields(self) -> dict[str, list[str]]:
        return read_form(self._request, self._body)

    def json(self, kind: type[Body]) -> Body:
        """Raises `ValueError`."""
        try:
            return msgspec.json.decode(self._body or b"{}", type=kind)
        except (msgspec.MsgspecError, RecursionError) as error:
            raise ValueError(f"the body: {error}") from None


class Entrance:
    """Lets requests in. `doors` prove who has a credential, `sessions` who has signed in before."""

    def __init__(self, shared: Shared, doors: Doors, sessions: Sessions, place: Place, clock: Clock) -> None:
        self._shared, self._doors, self._sessions, self._place, self._clock = shared, doors, sessions, place, clock

    async def visit(self, request: Request) -> Visit:
        """Raises `NotSignedIn`, `Foreign`, `Refused`, `NotPermitted`, `ValueError`."""
        prove, session = await run_in_threadpool(self.who, request)
        body = await read_body(request)
        if session is not None and request.method not in _SAFE:
            self.require_ours(request)
            said = request.headers.get("x-csrf-token") or (read_form(request, body).get("csrf") or [""])[0]
            if not same(said, session.csrf):
                raise Foreign("the form is of another session, expected it to be sent from a page that was just loaded")
        return Visit(request, body, self._shared, prove, session)

    async def answer(self, request: Request, do: Callable[[Visit], Response]) -> Response:
        """What waits for the store is done beside the loop, so that nobody's live decisions stand still for it."""
        visit = await self.visit(request)
        return await run_in_threadpool(do, visit)

    def who(self, request: Request) -> tuple[Prove, Session | None]:
        """Raises `NotSignedIn`, or what `Doors.by` does. A credential of its own goes before a cookie."""
        said = request.headers.getlist("authorization")
        if said:
            scheme, _, credential = said[0].partition(" ")
            if len(said) > 1 or scheme.lower() != "bearer":
                raise invalid()
            return self._doors.by(credential, source_ip(request)), None
        session = self._sessions.find(request.cookies.get(self._place.cookie, ""), self._clock())
        if session is None:
            raise NotSignedIn
        try:
            session.prove()
        except Refused:  # a token that has ended, a key that was revoked
            self._sessions.close(request.cookies.get(self._place.cookie, ""))
            raise NotSignedIn from None
        return session.prove, session

    def require_ours(self, request: Request) -> None:
        """Raises `Foreign`."""
        if not self._place.is_ours(request.headers):
            raise Foreign("a change that another site has sent, expected one of our own pages")


async def read_body(request: Request) -> bytes:
    """Raises `ValueError` for more than a form can be."""
    body = b""
    try:
        async for chunk in request.stream():
            body += chunk
            if len(body) > MAX_BODY:
                raise ValueError(f"a body of more than {MAX_BODY} bytes")
    except ClientDisconnect:
        raise ValueError("the body ended before its time") from None
    return body


def read_form(request: Request, body: bytes) -> dict[str, list[str]]:
    """Raises `ValueError`."""
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != _FORM:
        return {}
    return parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=_MAX_FIELDS)


def source_ip(request: Request) -> str:
    """Who comes over a Unix socket, or through a proxy, is this machine."""
    return request.client.host if request.client is not None and request.client.host else "127.0.0.1"
