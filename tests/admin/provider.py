"""An identity provider that signs one user in: the authorization-code flow, with PKCE checked as a provider does."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.identity.issuer import jwk, key_set, private_key, sign
from tests.place import START_NS

CLIENT = "authz-page"
CLIENT_SECRET = "made-up-client-secret"


class Provider:
    """claims  what the next ID token says beside the usual; `changes` replace what the next answers would be

    address  of a host other than the page's: for a browser another site
    """

    def __init__(self) -> None:
        self.url = ""
        self.claims: dict[str, Any] = {}
        self.user = "dev"
        self.key = private_key("page")
        self.codes: dict[str, dict[str, str]] = {}
        self.exchanges: list[dict[str, str]] = []
        self.token_status = 200
        self.from_here: dict[str, str] = {}

    def authorize(self, asked: dict[str, str]) -> str:
        """Where the browser is sent back to."""
        assert (asked["response_type"], asked["client_id"], asked["code_challenge_method"]) == ("code", CLIENT, "S256")
        code = f"code{len(self.codes)}"
        self.codes[code] = asked
        return f"{asked['redirect_uri']}?{urlencode({'code': code, 'state': asked['state'], 'iss': self.url} | self.from_here)}"

    def exchange(self, said: dict[str, str], authorization: str) -> dict[str, str] | None:
        self.exchanges.append(said)
        asked = self.codes.pop(said.get("code", ""), None)
        expected = base64.b64encode(f"{CLIENT}:{CLIENT_SECRET}".encode()).decode()
        if asked is None or authorization != f"Basic {expected}" or said["redirect_uri"] != asked["redirect_uri"]:
            return None
        proof = base64.urlsafe_b64encode(hashlib.sha256(said["code_verifier"].encode()).digest()).rstrip(b"=").decode()
        if proof != asked["code_challenge"]:
            return None
        now_s = START_NS // 10**9
        claims = {"iss": self.url, "aud": CLIENT, "sub": self.user, "iat": now_s, "exp": now_s + 3600, "nonce": asked["nonce"]}
        return {"id_token": sign(claims | self.claims, self.key), "access_token": "opaque", "token_type": "Bearer"}

    def directory(self) -> str:
        """What the bundle says of it."""
        return (
            f"\nissuers:\n  corp:\n    issuer: {self.url}\n    jwks_uri: {self.url}/keys\n"
            "    audience: [api://authz]\n    groups: {}\n"
        )

    def settings(self) -> str:
        return (
            f", oidc: {{issuer: '{self.url}', authorize: '{self.url}/authorize', token: '{self.url}/token',"
            f" client_id: {CLIENT}, client_secret_env: PAGE_SECRET}}"
        )


@contextmanager
def providing() -> Iterator[Provider]:
    provider = Provider()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            address = urlsplit(self.path)
            if address.path == "/keys":
                self.answer(200, key_set(jwk("k1", provider.key)))
            elif address.path == "/authorize":
                asked = {name: values[0] for name, values in parse_qs(address.query).items()}
                self.answer(302, b"", location=provider.authorize(asked))
            else:
                self.answer(404, b"{}")

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            said = {name: values[0] for name, values in parse_qs(body).items()}
            answer = provider.exchange(said, self.headers.get("authorization", ""))
            status = 400 if answer is None else provider.token_status
            self.answer(status, json.dumps(answer or {"error": "invalid_grant"}).encode())

        def answer(self, status: int, body: bytes, **headers: str) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.2", 0), Handler)
    provider.url = f"http://127.0.0.2:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield provider
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
