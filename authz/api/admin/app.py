"""The application: what leads where, and what is answered when something is not as it should be."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Awaitable, Callable, Mapping
from typing import Final

from msgspec import Struct
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp

from authz.administration import NotPermitted
from authz.api.admin import jsonapi
from authz.api.admin.doors import Doors, require_some
from authz.api.admin.facts import Matrices, Shared
from authz.api.admin.guard import Guard, Place
from authz.api.admin.live import Live
from authz.api.admin.oidc import PENDING_NS, Provider
from authz.api.admin.pages import Pages, environment
from authz.api.admin.recent import Recent
from authz.api.admin.sessions import LIFE_NS, Prove, Sessions
from authz.api.admin.visit import Entrance, Foreign, NotSignedIn, Visit, read_body, read_form, source_ip
from authz.compose import Engine
from authz.errors import ConfigError, Refused, StoreUnavailable
from authz.identity.issuing import Issuing, Unfit
from authz.identity.tokens import TokenReader
from authz.reasons import SPEC
from authz.settings import AdminFront

_OIDC_COOKIE: Final = "authz-oidc"
_OIDC_PATH: Final = "/signin/oidc"
_API: Final = "/api/"

Handler = Callable[[Visit], Response]


class Chance(Struct, frozen=True):
    """Where random names come from. token  one that nobody can guess · choice: of one character"""

    token: Callable[[], str]
    choice: Callable[[str], str]


def build(
    engine: Engine,
    front: AdminFront,
    chance: Chance,
    *,
    client_secret: str,
    watched: bool,
    draining: asyncio.Event,
) -> tuple[ASGIApp, Recent]:
    """The application, and what has to be told of every record for as long as it serves.

    client_secret  ours at the identity provider, empty for none · watched: whether the bundle's folder is
    """
    place, recent = Place(front), Recent()
    shared = Shared(
        engine=engine,
        recent=recent,
        matrices=Matrices(),
        issuing=Issuing(engine.store, clock=engine.clock, choice=chance.choice),
        issuing_lock=threading.Lock(),
        new_id=chance.token,
        login="admin page",
        watched=watched,
    )
    tokens = TokenReader(engine.key_sets)
    doors = Doors(front.secrets, engine.authenticator, tokens, lambda: engine.bundle, engine.clock)
    sessions = Sessions(chance.token)
    provider = None
    if front.oidc is not None:
        provider = Provider(
            front.oidc,
            engine.key_sets,
            lambda: engine.bundle,
            engine.clock,
            token=chance.token,
            secret=client_secret,
            redirect=f"{place.url}{_OIDC_PATH}/back",
        )
    entrance = Entrance(shared, doors, sessions, place, engine.clock)
    live = Live(shared, engine.clock, draining)
    application = Application(engine, entrance, doors, sessions, place, provider, live)
    return Guard(Starlette(routes=application.routes(), exception_handlers=application.faults()), place), recent


class Application:
    def __init__(
        self,
        engine: Engine,
        entrance: Entrance,
        doors: Doors,
        sessions: Sessions,
        place: Place,
        provider: Provider | None,
        live: Live,
    ) -> None:
        self._engine, self._entrance, self._doors, self._sessions = engine, entrance, doors, sessions
        self._place, self._provider, self._live = place, provider, live
        self._pages = Pages(environment())

    def routes(self) -> list[Route | Mount]:
        pages = self._pages
        reads: dict[str, Handler] = {
            "/": pages.overview,
            "/decisions": pages.decisions,
            "/decisions/{id}": pages.decision,
            "/usage": pages.usage,
            "/budgets": pages.budgets,
            "/keys": pages.keys,
            "/access": pages.access,
            "/bundle": pages.bundle,
            "/api/me": jsonapi.me,
            "/api/usage": jsonapi.usage,
            "/api/usage/report": jsonapi.usage_report,
            "/api/quotas": jsonapi.quotas,
            "/api/budgets": jsonapi.budgets,
            "/api/keys": jsonapi.keys,
            "/api/matrix": jsonapi.matrix,
            "/api/bundle": jsonapi.bundle,
            "/api/decisions": jsonapi.decisions,
            "/api/decisions/{id}": jsonapi.decision,
        }
        changes: dict[str, Handler] = {
            "/keys": pages.create_key,
            "/keys/{digest}/rotate": pages.rotate_key,
            "/keys/{digest}/revoke": pages.revoke_key,
            "/budgets/{quota}/raise": pages.raise_budget,
            "/budgets/{quota}/resume": pages.resume_budget,
            "/api/keys": jsonapi.create_key,
            "/api/keys/{digest}/rotate": jsonapi.rotate_key,
            "/api/keys/{digest}/revoke": jsonapi.revoke_key,
            "/api/budgets/{quota}/raise": jsonapi.raise_budget,
            "/api/budgets/{quota}/resume": jsonapi.resume_budget,
        }
        return [
            Route("/api/decisions/live", self._watch, methods=["GET"]),
            Route("/signin", self._sign_in_page, methods=["GET"]),
            Route("/signin", self._sign_in, methods=["POST"]),
            Route("/signout", self._sign_out, methods=["POST"]),
            Route(_OIDC_PATH, self._send_away, methods=["GET"]),
            Route(f"{_OIDC_PATH}/back", self._come_back, methods=["GET"]),
            *(Route(path, self._answering(handler), methods=["GET"]) for path, handler in reads.items()),
            *(Route(path, self._answering(handler), methods=["POST"]) for path, handler in changes.items()),
            Mount("/static", StaticFiles(packages=[("authz.api.admin", "static")])),
        ]

    def _answering(self, handler: Handler) -> Callable[[Request], Awaitable[Response]]:
        async def answer(request: Request) -> Response:
            return await self._entrance.answer(request, handler)

        return answer

    async def _watch(self, request: Request) -> Response:
        prove, _ = await run_in_threadpool(self._entrance.who, request)
        if self._live.full:
            return jsonapi.answer({"error": {"message": "too many watch already"}}, 503)
        return StreamingResponse(self._live.events(prove), media_type="text/event-stream")

    # In and out

    async def _sign_in_page(self, request: Request) -> Response:
        return self._door("")

    def _door(self, problem: str, status: int = 200) -> Response:
        provider = self._provider.name if self._provider is not None else ""
        return self._pages.render("signin.html", status, problem=problem, provider=provider)

    async def _sign_in(self, request: Request) -> Response:
        self._entrance.require_ours(request)
        credential = (read_form(request, await read_body(request)).get("credential") or [""])[0].strip()
        try:
            prove = await run_in_threadpool(self._doors.by, credential, source_ip(request))
        except Refused as refused:
            return self._door(refused.message, SPEC[refused.reason].status)
        except NotPermitted as refused:
            return self._door(str(refused), 403)
        return self._let_in(RedirectResponse("/", 303), prove)

    def _let_in(self, response: Response, prove: Prove) -> Response:
        cookie = self._sessions.open(prove, self._engine.clock())
        response.set_cookie(
            self._place.cookie,
            cookie,
            max_age=LIFE_NS // 1_000_000_000,
            path="/",
            secure=self._place.secure,
            httponly=True,
            samesite="strict",
        )
        return response

    async def _sign_out(self, request: Request) -> Response:
        await self._entrance.visit(request)
        self._sessions.close(request.cookies.get(self._place.cookie, ""))
        response = RedirectResponse("/signin", 303)
        response.delete_cookie(self._place.cookie, path="/", secure=self._place.secure, httponly=True, samesite="strict")
        return response

    async def _send_away(self, request: Request) -> Response:
        if self._provider is None:
            raise HTTPException(404)
        address, browser = self._provider.begin()
        response = RedirectResponse(address, 303)
        response.set_cookie(
            _OIDC_COOKIE,
            browser,
            max_age=PENDING_NS // 1_000_000_000,
            path=_OIDC_PATH,
            secure=self._place.secure,
            httponly=True,
            samesite="lax",
        )
        return response

    async def _come_back(self, request: Request) -> Response:
        """Answers with a page that goes on by itself: a redirect would still count as coming from the provider, and the
        session's cookie would not come along."""
        if self._provider is None:
            raise HTTPException(404)
        said: Mapping[str, str] = dict(request.query_params)
        try:
            prove = await run_in_threadpool(self._provider.end, said, request.cookies.get(_OIDC_COOKIE, ""))
            require_some(prove(), self._engine.bundle.directory.organisation)
        except Refused as refused:
            return self._door(refused.message, SPEC[refused.reason].status)
        except NotPermitted as refused:
            return self._door(str(refused), 403)
        response = self._let_in(self._pages.render("onward.html"), prove)
        response.delete_cookie(_OIDC_COOKIE, path=_OIDC_PATH, secure=self._place.secure, httponly=True, samesite="lax")
        return response

    # What goes wrong

    def faults(self) -> Mapping[type[Exception], Callable[[Request, Exception], Awaitable[Response]]]:
        return {
            NotSignedIn: self._not_signed_in,
            Refused: self._refused,
            NotPermitted: self._fault(403, "You may not do that"),
            Foreign: self._fault(403, "Sent from somewhere else"),
            Unfit: self._fault(409, "That cannot be done"),
            ConfigError: self._fault(404, "There is no such budget"),
            ValueError: self._fault(400, "That is not right"),
            StoreUnavailable: self._fault(503, "The store does not answer"),
            HTTPException: self._http,
        }

    async def _not_signed_in(self, request: Request, error: Exception) -> Response:
        if request.url.path.startswith(_API):
            return jsonapi.answer({"error": {"message": "not signed in"}}, 401)
        return RedirectResponse("/signin", 303)

    async def _refused(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, Refused)
        return jsonapi.answer({"error": {"message": error.message}}, SPEC[error.reason].status)

    async def _http(self, request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        return await self._tell(request, error.status_code, "Not found" if error.status_code == 404 else "Not possible", "")

    def _fault(self, status: int, title: str) -> Callable[[Request, Exception], Awaitable[Response]]:
        async def tell(request: Request, error: Exception) -> Response:
            return await self._tell(request, status, title, str(error))

        return tell

    async def _tell(self, request: Request, status: int, title: str, message: str) -> Response:
        if request.url.path.startswith(_API):
            return jsonapi.answer({"error": {"message": message or title}}, status)
        return self._pages.problem(None, status, title, message)
