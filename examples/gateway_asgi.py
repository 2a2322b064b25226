"""A gateway of your own, as an ASGI application: what comes in is authorised before it, and settled when it was answered.

The gateway passes on: it gets each request whole, with Groq's key in place of the client's, and never sees a denied one.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import httpx
import uvicorn
from starlette.applications import Starlette
from starlette.background import BackgroundTask
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from authz import AsyncAuthorizer, AuthorizedApp

authorizer = AsyncAuthorizer.open(os.environ["AUTHZ_CONFIG"])
groq = httpx.AsyncClient(base_url=authorizer.upstream.url, timeout=600)


async def pass_on(request: Request) -> Response:
    headers = [(name, value) for name, value in request.headers.items() if name != "host"]
    sent = groq.build_request(request.method, request.url.path, headers=headers, content=await request.body())
    try:
        answer = await groq.send(sent, stream=True)
    except httpx.ConnectError:
        request.scope["authz"].void()  # it never left: nothing is owed
        return Response(status_code=503)
    return StreamingResponse(
        answer.aiter_raw(), answer.status_code, dict(answer.headers), background=BackgroundTask(answer.aclose)
    )


@asynccontextmanager
async def lifespan(_: Starlette) -> AsyncIterator[None]:
    async with authorizer, groq:
        yield


app = Starlette(
    routes=[Route("/{path:path}", pass_on, methods=["GET", "POST"])],
    middleware=[Middleware(AuthorizedApp, authorizer=authorizer)],
    lifespan=lifespan,
)

if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(os.environ.get("PORT", "8000")))
