"""An identity provider for tests: keys, tokens, and a server on loopback that answers with a JWK set."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

NOW_S = 1_800_000_000
NOW_NS = NOW_S * 10**9


@lru_cache(maxsize=16)
def private_key(name: str, kind: str = "RSA") -> Any:
    """The same key for the same name, as long as the process lives: an RSA key takes a while to make."""
    match kind:
        case "RSA":
            return rsa.generate_private_key(65537, 2048)
        case "short":
            return rsa.generate_private_key(65537, 1024)  # noqa: S505  # to be refused
        case "EC":
            return ec.generate_private_key(ec.SECP256R1())
        case _:
            return ed25519.Ed25519PrivateKey.generate()


def jwk(key_id: str, key: Any, algorithm: str = "RS256", **fields: Any) -> dict[str, Any]:
    public: dict[str, Any] = json.loads(get_default_algorithms()[algorithm].to_jwk(key.public_key()))
    public.pop("key_ops", None)
    return public | {"kid": key_id, "use": "sig", "alg": algorithm} | fields


def key_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def sign(claims: dict[str, Any], key: Any, *, kid: str | None = "k1", algorithm: str = "RS256", **header: Any) -> str:
    return jwt.encode(claims, key, algorithm=algorithm, headers=({"kid": kid} if kid is not None else {}) | header)


def forged(header: dict[str, Any] | bytes, claims: Any, signature: bytes = b"") -> str:
    """A token put together by hand."""
    parts = (part if isinstance(part, bytes) else json.dumps(part).encode() for part in (header, claims))
    return ".".join(map(_part, (*parts, signature)))


def _part(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


class JwksServer:
    """answer  what the next requests get: status, headers, body"""

    def __init__(self, body: bytes) -> None:
        self.answer: tuple[int, dict[str, str], bytes] = (200, {}, body)
        self.paths: list[str] = []
        self.url = ""


@contextmanager
def serving(body: bytes) -> Iterator[JwksServer]:
    served = JwksServer(body)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            served.paths.append(self.path)
            status, headers, body = served.answer
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    served.url = f"http://127.0.0.1:{server.server_port}/keys"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield served
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


class Fetches:
    """A fetch that counts; `answer` makes what it gives, or raises."""

    def __init__(self, answer: Callable[[], bytes]) -> None:
        self.answer, self.uris = answer, list[str]()

    def __call__(self, uri: str) -> bytes:
        self.uris.append(uri)
        return self.answer()
