"""What the attacks share: the whole product as a client meets it, and what it means that something was denied."""

from __future__ import annotations

import itertools
import json
import secrets
import socket
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from http.client import HTTPResponse
from pathlib import Path
from typing import Any, Final, NamedTuple

import grpc
import httpx
import yaml

from authz.envoy.wire import accesslog_pb2, check_pb2
from authz.identity.keys import IssuedKey, digest, mint
from authz.server import ACCESS_LOG, AUTHORIZATION
from authz.store import open_store
from demo.stack import Stack, wait_for
from demo.standin import Received
from tests.e2e.conftest import CHAT, MESSAGES, SMALL, Client
from tests.e2e.media import with_media
from tests.issued import put

LARGE: Final = "llama-3.3-70b-versatile"
OPEN: Final = "openai/gpt-oss-20b"
ALIAS: Final = "fast"
"""Of a model that team chatbot may use; the alias itself it may not."""

ALIAS_OF_ANOTHER: Final = "clever"
"""Team chatbot may use this name, and not the model behind it."""

PATIENCE_S: Final = 30.0

BOOKS: Final = {
    "reservations": "SELECT id, state, body, lines FROM reservations ORDER BY no",
    "journal": "SELECT entry, reservation, lines FROM journal ORDER BY seq",
    "usage": "SELECT * FROM usage ORDER BY day, key, model",
    "raises": "SELECT id FROM raises ORDER BY no",
}
"""All that the ledger knows of who owes what; the balances are sums over the journal."""


class Reply(NamedTuple):
    """An answer of Envoy's, whoever wrote it."""

    status: int
    body: bytes

    @property
    def error(self) -> dict[str, Any]:
        """The answer's error, in Groq's form and no other. Fails where it is not."""
        said = json.loads(self.body)
        assert said.keys() == {"error"}, self.body
        assert said["error"].keys() >= {"message", "type", "code"}
        assert all(isinstance(said["error"][name], str) and said["error"][name] for name in ("message", "type", "code"))
        found: dict[str, Any] = said["error"]
        return found

    @property
    def code(self) -> str:
        return str(self.error["code"])


class Door(Client):
    """A stack seen from the client's side. Sends what no well-behaved library would."""

    def __init__(self, stack: Stack, metrics_url: str) -> None:
        super().__init__(stack)
        self._metrics_url = metrics_url
        self._addresses = itertools.cycle(range(1, 250))
        self._http = httpx.Client(timeout=PATIENCE_S, trust_env=False, limits=httpx.Limits(max_connections=None))

    def close(self) -> None:
        self._http.close()

    def issue(self, *names: str) -> None:
        """As `authz keys create` would, in one go."""
        store = open_store(self.stack.settings.store)
        try:
            for name in names:
                self.keys[name] = mint(secrets.choice)
                put(store, IssuedKey(digest(self.keys[name]), name, time.time_ns()))
        finally:
            store.close()
        self.stack.wait_for_key_reload()

    def metrics(self) -> str:
        """What Prometheus would scrape of the sidecar."""
        return self._http.get(self._metrics_url).text

    def counted(self, name: str) -> float:
        """The sum over all series of a metric."""
        lines = [line for line in self.metrics().splitlines() if line.split("{")[0].split(" ")[0] == name]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def channel(self, path: str = "") -> grpc.Channel:
        """To the sidecar itself, past Envoy: only who may open its socket gets this far."""
        path = path or self.stack.settings.listen.socket
        return grpc.insecure_channel(f"unix:{path}", options=[("grpc.max_send_message_length", -1)])

    def check(self, raw: bytes) -> check_pb2.CheckResponse:
        """A Check of these bytes. Raises `grpc.RpcError`."""
        with self.channel(self.stack.settings.listen.check_socket) as channel:
            ask: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(f"/{AUTHORIZATION}/Check")
            return check_pb2.CheckResponse.FromString(ask(raw, timeout=PATIENCE_S))

    def report(self, *entries: accesslog_pb2.HTTPAccessLogEntry) -> None:
        """Access-log entries that no Envoy wrote. Returns once the sidecar has taken them all."""
        message = accesslog_pb2.StreamAccessLogsMessage()
        message.http_logs.log_entry.extend(entries)
        with self.channel() as channel:
            tell: grpc.StreamUnaryMultiCallable[bytes, bytes] = channel.stream_unary(f"/{ACCESS_LOG}/StreamAccessLogs")
            tell(iter([message.SerializeToString()]), timeout=PATIENCE_S)

    def send(self, raw: bytes, *, source: str = "127.0.0.1", more: bytes = b"") -> Reply:
        """These bytes as they are; `more` on the same connection after the answer has begun."""
        with socket.create_connection(("127.0.0.1", self.stack.envoy.port), timeout=10, source_address=(source, 0)) as wire:
            wire.sendall(raw)
            answer = HTTPResponse(wire)
            try:
                answer.begin()
                if more:
                    wire.sendall(more)
                return Reply(answer.status, answer.read())
            finally:
                answer.close()

    def all_of(self, raw: bytes) -> bytes:
        """Everything that comes back before Envoy closes."""
        with socket.create_connection(("127.0.0.1", self.stack.envoy.port), timeout=10) as wire:
            wire.sendall(raw)
            return b"".join(iter(lambda: wire.recv(65_536), b""))

    def admitted(self, *sends: Callable[[], Reply]) -> list[dict[str, Any]]:
        """The records of these requests, each of which has to be allowed and answered."""
        began = datetime.now(UTC).isoformat(timespec="milliseconds")
        for send in sends:
            reply = send()
            assert reply.status == 200, reply
        return self.allowed_since(began, len(sends))

    def allowed_since(self, began: str, count: int) -> list[dict[str, Any]]:
        """Records are written behind the answer: waits for so many."""

        def found() -> list[dict[str, Any]]:
            return [row for row in self.records() if row["effect"] == "allow" and row["time"] >= began]

        wait_for("the records", lambda: len(found()) >= count)
        return found()

    def lines(self, *lines: bytes, body: bytes = b"", source: str = "127.0.0.1") -> Reply:
        """A request of these lines; a `Host` and a body's length are theirs to say."""
        return self.send(b"\r\n".join([*lines, b"", b""]) + body, source=source)

    def elsewhere(self) -> str:
        """An address of its own, for who has no good credential: from one address that is soon too much."""
        return f"127.0.{next(self._addresses)}.2"

    def bearer(self, name: str = "chatbot-prod") -> bytes:
        return b"Authorization: Bearer " + self.keys[name].encode()

    def post(self, body: bytes | dict[str, Any], *, key: str = "chatbot-prod", path: str = CHAT, **headers: str) -> Reply:
        """headers  underscores stand for dashes"""
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self._http.post(self.stack.url + path, content=raw, headers=self.headers(key) | named)
        return Reply(answer.status_code, answer.content)

    def ask(self, *, key: str = "chatbot-prod", **fields: Any) -> Reply:
        """A chat with these fields beside the usual ones."""
        return self.post({"model": SMALL, "messages": MESSAGES, "max_tokens": 16} | fields, key=key)

    def settled(self) -> None:
        """Until nothing is under way any more."""
        with closing(self._database()) as database:
            pending = "SELECT count(*) FROM reservations WHERE state = 0"
            wait_for("every settlement", lambda: database.execute(pending).fetchone()[0] == 0)

    def settlement_of(self, record: dict[str, Any]) -> dict[str, Any]:
        """The record of how an allowed request ended, which is written a little after that."""
        self.settled()

        def found() -> list[dict[str, Any]]:
            ended = (each for each in self.stack.lines() if each["kind"] == "settlement")
            return [each for each in ended if each["reservation_id"] == record["reservation_id"]]

        wait_for("the settlement", lambda: bool(found()))
        (one,) = found()
        return one

    def books(self) -> dict[str, list[Any]]:
        with closing(self._database()) as database:
            return {name: database.execute(query).fetchall() for name, query in BOOKS.items()}

    def _database(self) -> sqlite3.Connection:
        return sqlite3.connect(f"file:{self.stack.folder / 'authz.db'}?mode=ro", uri=True, timeout=10)

    @contextmanager
    def untouched(self) -> Iterator[None]:
        """Whatever happens within, the upstream hears nothing of it and nobody is charged for it."""
        self.settled()
        heard, books = len(self.stack.groq.received()), self.books()
        yield
        assert len(self.stack.groq.received()) == heard, "the upstream was called"
        assert self.books() == books, "the books have changed"

    def denied(self, reply: Reply, status: int, code: str = "") -> Reply:
        """An explicit denial in Groq's form: for use within `untouched`."""
        assert reply.status == status, reply
        assert reply.error["type"]
        assert code in ("", reply.code), reply
        return reply

    def forwarded(self, since: int) -> list[Received]:
        return self.stack.groq.received()[since:]


def refused(door: Door, body: bytes | dict[str, Any], status: int = 400, code: str = "", **headers: str) -> Reply:
    """Denied in every sense: explicit, in Groq's form, no call upstream, nothing charged."""
    with door.untouched():
        return door.denied(door.post(body, **headers), status, code)


def chat(**fields: Any) -> dict[str, Any]:
    return {"model": SMALL, "messages": MESSAGES, "max_tokens": 16} | fields


def for_attacks(bundle: Path) -> None:
    """The reference bundle with what only an attack needs: keys that may use everything, one with room for ten requests."""
    with_media(bundle)
    directory = yaml.safe_load((bundle / "directory.yaml").read_text())
    directory["keys"] |= {name: {"team": "media"} for name in ("ten", "crowd", "one-at-a-time")}
    (bundle / "directory.yaml").write_text(yaml.safe_dump(directory))
    models = yaml.safe_load((bundle / "models.yaml").read_text())
    models["aliases"] = {ALIAS: SMALL, ALIAS_OF_ANOTHER: OPEN}
    (bundle / "models.yaml").write_text(yaml.safe_dump(models))
    alias = f'permit (principal in Team::"chatbot", action in Action::"infer", resource == Model::"{ALIAS_OF_ANOTHER}");'
    (bundle / "alias.cedar").write_text(f'@id("only-the-name")\n{alias}\n')
    quotas = yaml.safe_load((bundle / "quotas.yaml").read_text())
    quotas["quotas"] += [
        {"id": "ten-requests", "scope": 'Key::"ten"', "what": "requests", "limit": "10/hour"},
        {"id": "few-under-way", "scope": 'Key::"one-at-a-time"', "what": "in_flight", "limit": 2},
    ]
    (bundle / "quotas.yaml").write_text(yaml.safe_dump(quotas))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
