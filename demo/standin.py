"""A stand-in for Groq's API, for tests and the demo: see `demo.answers` for what it answers.

`StandIn` runs it in a thread of this process, where `behave` and `received` reach it directly. `python -m demo.standin` is a
process of its own, steered by HTTP under `/control`, a path that Envoy does not route. How it answers is set there and never
by a request under `/openai/v1/`, so that no client can steer it.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import socket
import sys
import threading
import time
from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Final, Self

import msgspec
import uvicorn
from msgspec import Struct
from starlette.applications import Starlette
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from demo import batch_answers, more_answers
from demo.answers import ENDPOINTS, Answer, Behaviour, Exchange, Usage, error, failure

START_DEADLINE_S: Final = 10.0
STOP_DEADLINE_S: Final = 5.0
KEY_VARIABLE: Final = "STANDIN_UPSTREAM_KEY"
"""Where the process form finds the key that it takes: an argument would show in the process list."""


class Received(Struct, frozen=True):
    """One request as it came, and what its answer said. `headers` keep order and doubles; `path` has the query."""

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes
    status: int
    usage: Usage | None

    def header(self, name: str) -> tuple[str, ...]:
        """Every value that came under `name` (lower case)."""
        return tuple(value for key, value in self.headers if key == name)


class Control:
    """What steers a stand-in and what it has seen. Safe to use from any thread."""

    def __init__(self, upstream_key: str) -> None:
        self.upstream_key: Final = upstream_key
        self.stopping: Final = threading.Event()
        self._lock = threading.Lock()
        self._behaviours: deque[Behaviour] = deque()
        self._received: deque[Received] = deque()
        self._numbers = itertools.count(1)
        self.desk: Final = batch_answers.Desk()

    def behave(self, *behaviours: Behaviour) -> None:
        """Answer like this from now on, one after the other, each for its `times`; after the last, or for none: as usual."""
        with self._lock:
            self._behaviours = deque(behaviours)

    def take(self, raw: bytes, content_type: str = "", rest: str = "") -> Exchange:
        """The next request's number and behaviour."""
        with self._lock:
            behaviour = self._behaviours[0] if self._behaviours else Behaviour()
            if behaviour.times == 1:
                self._behaviours.popleft()
            elif behaviour.times > 1:
                self._behaviours[0] = msgspec.structs.replace(behaviour, times=behaviour.times - 1)
            return Exchange(next(self._numbers), behaviour, raw, self.stopping.is_set, content_type, rest)

    def keep_only(self, last: int) -> None:
        """Of what comes from now on: for a run so long that all of it would fill the memory."""
        with self._lock:
            self._received = deque(self._received, last)

    def record(self, received: Received) -> None:
        with self._lock:
            self._received.append(received)

    def received(self) -> list[Received]:
        """Every request so far, the refused ones too."""
        with self._lock:
            return list(self._received)


def make_app(control: Control) -> Starlette:
    """The ASGI application: Groq's endpoints, and `/control/behaviours` (PUT) and `/control/received` (GET)."""

    async def put_behaviours(request: Request) -> Response:
        try:
            control.behave(*msgspec.json.decode(await request.body(), type=tuple[Behaviour, ...]))
        except msgspec.ValidationError as problem:
            return Response(str(problem), 400)
        return Response(status_code=204)

    async def get_received(request: Request) -> Response:
        return Response(msgspec.json.encode(control.received()), media_type="application/json")

    served = {**ENDPOINTS, **more_answers.ENDPOINTS, **batch_answers.endpoints(control.desk)}
    routes = [Route(path, _serve(control, endpoint), methods=[method]) for (method, path), endpoint in served.items()]
    routes.append(Route("/control/behaviours", put_behaviours, methods=["PUT"]))
    routes.append(Route("/control/received", get_received, methods=["GET"]))
    return Starlette(routes=routes)


def _serve(control: Control, endpoint: Callable[[Exchange], Answer]) -> Callable[[Request], Awaitable[Response]]:
    async def serve(request: Request) -> Response:
        try:
            raw = await request.body()
        except ClientDisconnect:
            return Response(status_code=400)
        hang = False
        answer: Answer = error(401, "Invalid API Key", "invalid_request_error", "invalid_api_key"), None
        if request.headers.getlist("authorization") == [f"Bearer {control.upstream_key}"]:
            exchange = control.take(raw, request.headers.get("content-type", ""), request.path_params.get("rest", ""))
            hang = exchange.behaviour.hang
            answer = _answer(endpoint, exchange)
        response, usage = answer
        headers = tuple((key.decode("latin-1"), value.decode("latin-1")) for key, value in request.headers.raw)
        path = request.url.path + (f"?{request.url.query}" if request.url.query else "")
        control.record(Received(request.method, path, headers, raw, response.status_code, usage))
        if hang:
            await _until_gone(request, control)
        return response

    return serve


def _answer(endpoint: Callable[[Exchange], Answer], exchange: Exchange) -> Answer:
    if exchange.behaviour.status >= 400:
        return failure(exchange.behaviour.status), None
    try:
        return endpoint(exchange)
    except msgspec.DecodeError:
        return failure(400), None


async def _until_gone(request: Request, control: Control) -> None:
    """Return once the client has closed the connection or the stand-in stops."""
    gone = asyncio.ensure_future(request.receive())
    while not control.stopping.is_set():
        done, _ = await asyncio.wait({gone}, timeout=0.05)
        if done:
            return
    gone.cancel()


def _server(control: Control) -> uvicorn.Server:
    # Quiet: an answer that is cut on purpose would be reported as a defect.
    return uvicorn.Server(
        uvicorn.Config(
            make_app(control),
            http="h11",
            ws="none",
            loop="asyncio",
            lifespan="off",
            log_config=None,
            log_level="critical",
            access_log=False,
            timeout_graceful_shutdown=1,
        )
    )


def _listener(port: int) -> socket.socket:
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(1024)
    return listener


class StandIn:
    """The stand-in in a thread, on a free loopback port: `with StandIn("gsk_made_up") as groq: … groq.port`."""

    def __init__(self, upstream_key: str, *, port: int = 0) -> None:
        self.control: Final = Control(upstream_key)
        self.behave: Final = self.control.behave
        self.received: Final = self.control.received
        self.desk: Final = self.control.desk
        self.keep_only: Final = self.control.keep_only
        self._wanted_port = port
        self._listener: socket.socket | None = None
        self._server = _server(self.control)
        self._thread: threading.Thread | None = None

    @property
    def port(self) -> int:
        if self._listener is None:
            raise RuntimeError("the stand-in is not started")
        return int(self._listener.getsockname()[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Returns once it takes connections. Raises TimeoutError when it does not come up, OSError when the port is taken."""
        self._listener = _listener(self._wanted_port)
        sockets = [self._listener]
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": sockets}, name="standin", daemon=True)
        self._thread.start()
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise TimeoutError("the stand-in did not start")
            time.sleep(0.005)

    def stop(self) -> None:
        """Ends what hangs and what is slow, then the thread. Does nothing when it is not running."""
        if self._thread is None or self._listener is None:
            return
        self.control.stopping.set()
        self._server.should_exit = True
        self._thread.join(STOP_DEADLINE_S)
        self._listener.close()
        self._thread = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


def main() -> None:
    """`STANDIN_UPSTREAM_KEY=… python -m demo.standin --port N`: prints its address in one line, serves until TERM or INT."""
    parser = argparse.ArgumentParser(prog="python -m demo.standin", description="a stand-in for Groq's API on a loopback port")
    parser.add_argument("--port", type=int, default=0, help="0 picks a free one")
    arguments = parser.parse_args()
    key = os.environ.get(KEY_VARIABLE)
    if not key:
        sys.exit(f"{KEY_VARIABLE} must hold the key that the stand-in takes")
    control = Control(key)
    with _listener(arguments.port) as listener:
        print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
        _server(control).run(sockets=[listener])


if __name__ == "__main__":
    main()
