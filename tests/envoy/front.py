"""The real Envoy with what stands around it, for tests: our bootstrap, a sidecar of the test's and the stand-in."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

from authz.envoy.bootstrap import EnvoyOptions, Upstream, render
from demo.envoy import Envoy
from demo.standin import StandIn
from tests.envoy.sidecar import CLIENT_KEY, UPSTREAM_KEY, Sidecar

MAX_BODY_BYTES: Final = 16 * 1024
MAX_UPLOAD_BYTES: Final = 25 * 1024 * 1024 + 64 * 1024
CHAT: Final = "/openai/v1/chat/completions"
BODY: Final[dict[str, Any]] = {"model": "openai/gpt-oss-20b", "messages": [{"role": "user", "content": "hello"}]}
STREAM: Final[dict[str, Any]] = {**BODY, "stream": True}


class Front:
    """An Envoy with what stands around it, and a client that comes with a key it takes."""

    def __init__(self, envoy: Envoy, sidecar: Sidecar, groq: StandIn, client: httpx.Client) -> None:
        self.envoy, self.sidecar, self.groq, self.client = envoy, sidecar, groq, client

    def chat(self, body: dict[str, Any] = BODY, **options: Any) -> httpx.Response:
        return self.client.post(CHAT, json=body, **options)

    def raw(self, *lines: bytes) -> tuple[int, bytes]:
        """Send these lines as they are with a good key. The status and the body."""
        credential = b"Authorization: Bearer " + CLIENT_KEY.encode()
        with socket.create_connection(("127.0.0.1", self.envoy.port), timeout=5) as connection:
            connection.sendall(b"\r\n".join([*lines, b"Host: a", credential, b"", b""]))
            response = http.client.HTTPResponse(connection)
            try:
                response.begin()
                return response.status, response.read()
            finally:
                response.close()


@contextmanager
def front(folder: Path, *, more_sockets: tuple[str, ...] = (), **changes: Any) -> Iterator[Front]:
    """changes  options of Envoy's"""
    with ExitStack() as stack:
        groq = stack.enter_context(StandIn(UPSTREAM_KEY))
        sidecar = stack.enter_context(Sidecar(folder / "s.sock"))
        options = EnvoyOptions(
            listen="127.0.0.1:0",
            admin_socket=str(folder / "a.sock"),
            sidecar_sockets=(str(sidecar.check_socket), *more_sockets),
            upstream=Upstream("127.0.0.1", groq.port, tls=False),
            max_body_bytes=MAX_BODY_BYTES,
            access_log=str(folder / "access.log"),
            **changes,
        )
        envoy = stack.enter_context(Envoy(folder, render(options), options.admin_socket))
        headers = {"authorization": f"Bearer {CLIENT_KEY}"}
        client = stack.enter_context(httpx.Client(base_url=envoy.url, headers=headers, timeout=10, trust_env=False))
        yield Front(envoy, sidecar, groq, client)
