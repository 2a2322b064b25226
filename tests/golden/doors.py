"""Every door to the engine, each on an engine and a store of its own with the same bundle, secrets and time.

A door takes a case's request its own way, and says what came of it: the answer as a client sees it, the record of the decision,
and that of how it ended.
"""

from __future__ import annotations

import asyncio
import http.client
import random
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final
from unittest import mock

import msgspec
from msgspec import Struct

from authz.answers import body
from authz.api.wire import decisions_pb2 as wire
from authz.authorizer import AsyncAuthorizer, Authorizer
from authz.bundle import load_bundle
from authz.compose import Engine
from authz.envoy.bootstrap import EnvoyOptions, Upstream, render
from authz.errors import StoreUnavailable
from authz.identity.keys import IssuedKey, digest, mint
from authz.listening import Listen
from authz.model import Allow, Decision, DecisionRecord, Deny, Reply, SettlementRecord, Usage
from authz.quota.ledger import State
from authz.settings import read_settings
from authz.telemetry.watch import Watcher
from demo.envoy import Envoy
from demo.stack import wait_for
from demo.standin import StandIn
from tests.api.running import Client, client_of, encoded, running
from tests.golden.cases import Case
from tests.issued import put
from tests.place import ROOT, START_NS, UPSTREAM_KEY, Time

BUNDLE: Final = Path(__file__).parent / "bundle"
MAX_BODY_BYTES: Final = 16 * 1024
_DAY_NS: Final = 86_400 * 10**9
_ISSUED: Final[dict[str, dict[str, Any]]] = {
    "revoked": {"revoked_ns": START_NS - 1},
    "expired": {"expires_ns": START_NS},
    "narrowed": {"roles": ()},
    "replaced": {"expires_ns": START_NS + _DAY_NS, "replaced_by": digest("another")},
}
"""What there is to say of some keys' secrets."""

_OURS: Final = ("retry-after", "x-authz-", "x-ratelimit-")
"""Headers by which an answer of ours is told; beside them stand the upstream's and Envoy's own."""


class Answer(Struct, frozen=True):
    """What a client gets. body: of a denial or of what is answered here; the upstream's is not ours to compare."""

    effect: str
    status: int
    headers: dict[str, str]
    body: Any


class Came(Struct, frozen=True):
    """What a case came to at a door."""

    answer: Answer
    record: DecisionRecord
    settlement: SettlementRecord | None


class Door(ABC):
    """engine  its own, which nothing else uses"""

    def __init__(self, engine: Engine, secrets: dict[str, str]) -> None:
        self.engine, self.secrets = engine, secrets
        self._watcher = Watcher(lambda: None, at_most=10_000)
        engine.watched.add(self._watcher)

    @abstractmethod
    def ask(self, case: Case, secret: str, request_id: str) -> tuple[Answer, str]:
        """The answer, and the reservation's id where the door tells it."""

    @abstractmethod
    def settle(self, reservation_id: str, receipt: SettlementRecord | None) -> None:
        """Ends it as it ended at the first door, whose upstream counted; that door itself has only to wait."""

    def run(self, case: Case, first: Came | None) -> Came:
        """first  what the case came to at the first door: its request id and its usage are told to the others"""
        secret = self.secrets.get(case.key, "")
        with ExitStack() as stack:
            for _ in range(case.before):
                held = self.engine.pdp.decide(case.request(secret))
                assert isinstance(held, Allow), held
                stack.callback(self.engine.settler.void, held.reservation_id)
            self.records()
            if case.outage:
                stack.enter_context(mock.patch.object(self.engine.fallback, "_store", _Gone()))
                stack.callback(setattr, self.engine.fallback, "_ask_again_ns", 0)  # time stands still here, and so would it
            answer, told = self.ask(case, secret, first.record.request_id if first is not None else "")
            records = self.records()
            assert len(records) == 1, f"`{case.name}` is on record {len(records)} times, and was answered {answer}"
            record = records[0]
            assert isinstance(record, DecisionRecord)
            assert told in ("", record.reservation_id)
            settlement = None
            if record.reservation_id:
                self.settle(record.reservation_id, first.settlement if first is not None else None)
                (settlement,) = self.records()
                assert isinstance(settlement, SettlementRecord)
        return Came(answer, record, settlement)

    def records(self) -> list[Any]:
        found = []
        while (record := self._watcher.take()[0]) is not None:
            found.append(record)
        return found


class _Gone:
    """A store that does not answer."""

    def __getattr__(self, name: str) -> Any:
        raise StoreUnavailable("gone")


class EnvoyDoor(Door):
    """The real Envoy, which asks a sidecar and forwards to a stand-in for Groq."""

    def __init__(self, engine: Engine, secrets: dict[str, str], envoy: Envoy) -> None:
        super().__init__(engine, secrets)
        self._envoy = envoy

    def ask(self, case: Case, secret: str, request_id: str) -> tuple[Answer, str]:
        connection = http.client.HTTPConnection("127.0.0.1", self._envoy.port, timeout=20)
        try:
            connection.putrequest(case.method, case.path, skip_accept_encoding=True)
            for name, value in (*case.credentials(secret), ("content-type", case.content_type), *case.headers):
                connection.putheader(name, value)
            if case.method != "GET":
                connection.putheader("content-length", str(len(case.body)))
            connection.endheaders(case.body if case.method != "GET" else None)
            response = connection.getresponse()
            content = response.read()
        finally:
            connection.close()
        headers = _ours((name.lower(), value) for name, value in response.getheaders())
        allowed = response.status == 200 and b'"owned_by"' not in content
        effect = "allow" if allowed else "reply" if response.status == 200 else "deny"
        return Answer(effect, response.status, headers, None if allowed else msgspec.json.decode(content)), ""

    def settle(self, reservation_id: str, receipt: SettlementRecord | None) -> None:
        def ended() -> bool:
            found = self.engine.store.find(reservation_id)
            return found is not None and found.state is not State.PENDING and not self._watcher.empty

        wait_for("the settlement", ended)


class GrpcDoor(Door):
    def __init__(self, engine: Engine, secrets: dict[str, str], client: Client) -> None:
        super().__init__(engine, secrets)
        self._client = client

    def ask(self, case: Case, secret: str, request_id: str) -> tuple[Answer, str]:
        asked = wire.DecideRequest(request=encoded(case.request(secret, request_id)), include_upstream_key=True)
        said = self._client.ask("Decide", asked, wire.DecideResponse)
        match said.WhichOneof("outcome"):
            case "allowed":
                assert said.allowed.upstream_key == UPSTREAM_KEY
                return Answer("allow", 200, _said(said.allowed.headers), None), said.allowed.reservation_id
            case "denied":
                denied = said.denied
                return Answer("deny", denied.status, _said(denied.headers), msgspec.json.decode(denied.body)), ""
            case _:
                return Answer("reply", 200, _said(said.replied.headers), msgspec.json.decode(said.replied.body)), ""

    def settle(self, reservation_id: str, receipt: SettlementRecord | None) -> None:
        usage = receipt.usage if receipt is not None else None
        counts = wire.Usage(**msgspec.structs.asdict(usage)) if usage is not None else None
        self._client.ask("Settle", wire.SettleRequest(reservation_id=reservation_id, usage=counts), wire.SettleResponse)


class LibraryDoor(Door):
    """decide, settle  of the library, in whatever way"""

    def __init__(
        self,
        engine: Engine,
        secrets: dict[str, str],
        decide: Callable[[Any], Decision],
        settle: Callable[[str, Usage | None], None],
    ) -> None:
        super().__init__(engine, secrets)
        self._decide, self._settle = decide, settle

    def ask(self, case: Case, secret: str, request_id: str) -> tuple[Answer, str]:
        decided = self._decide(case.request(secret, request_id))
        match decided:
            case Allow():
                assert decided.upstream_key.reveal() == UPSTREAM_KEY
                return Answer("allow", 200, _ours(decided.headers), None), decided.reservation_id
            case Deny():
                return Answer("deny", decided.status, _ours(decided.headers), msgspec.json.decode(body(decided))), ""
            case Reply():
                return Answer("reply", 200, _ours(decided.headers), msgspec.json.decode(decided.body)), ""

    def settle(self, reservation_id: str, receipt: SettlementRecord | None) -> None:
        self._settle(reservation_id, receipt.usage if receipt is not None else None)


def _ours(headers: Any) -> dict[str, str]:
    return {name: value for name, value in headers if name.startswith(_OURS)}


def _said(headers: Any) -> dict[str, str]:
    return _ours((header.name, header.value) for header in headers)


@contextmanager
def doors(folder: Path) -> Iterator[dict[str, Door]]:
    """All of them, the first one first. `folder` is short: Unix sockets live in it."""
    with ExitStack() as stack:
        groq = stack.enter_context(StandIn(UPSTREAM_KEY))

        def opened(name: str) -> tuple[Engine, dict[str, str]]:
            engine = stack.enter_context(_engine(folder / name))
            return engine, _issue(engine)

        found: dict[str, Door] = {}
        for name, listen in {
            "envoy": Listen(socket=str(folder / "s.sock")),
            "envoy, over grpcio": Listen(socket=str(folder / "g.sock"), transport="grpcio"),
        }.items():
            engine, secrets = opened(name)
            stack.enter_context(running(engine, listen))
            options = EnvoyOptions(
                listen="127.0.0.1:0",
                admin_socket=str(folder / f"{listen.transport}.a"),
                sidecar_sockets=(listen.check_socket,),
                upstream=Upstream("127.0.0.1", groq.port, tls=False),
                max_body_bytes=MAX_BODY_BYTES,
            )
            envoy = stack.enter_context(Envoy(folder / name, render(options), options.admin_socket))
            wait_for("a healthy sidecar", lambda: _healthy(envoy))  # noqa: B023  # used at once
            found[name] = EnvoyDoor(engine, secrets, envoy)

        engine, secrets = opened("grpc")
        found["grpc"] = GrpcDoor(engine, secrets, stack.enter_context(client_of(engine)))

        engine, secrets = opened("sync")
        sync = Authorizer(engine)
        found["sync"] = LibraryDoor(engine, secrets, sync.decide, sync.settle)

        engine, secrets = opened("many")
        many = Authorizer(engine)
        found["many"] = LibraryDoor(engine, secrets, lambda request: many.decide_many([request])[0], many.settle)

        engine, secrets = opened("async")
        tasks = AsyncAuthorizer(Authorizer(engine))
        stack.callback(tasks.stop)
        found["async"] = LibraryDoor(
            engine,
            secrets,
            lambda request: asyncio.run(_decided(tasks, request)),
            lambda reservation_id, usage: asyncio.run(_settled(tasks, reservation_id, usage)),
        )
        yield found


async def _decided(tasks: AsyncAuthorizer, request: Any) -> Decision:
    return await tasks.decide(request)


async def _settled(tasks: AsyncAuthorizer, reservation_id: str, usage: Usage | None) -> None:
    await tasks.settle(reservation_id, usage)


def _healthy(envoy: Envoy) -> bool:
    return envoy.stats("cluster.sidecar.membership_healthy").popitem()[1] >= 1


@contextmanager
def _engine(folder: Path) -> Iterator[Engine]:
    shutil.copytree(BUNDLE, folder / "policies")
    shutil.copy(ROOT / "policies" / "schema.cedarschema", folder / "policies")
    config = folder / "authz.yaml"
    config.write_text(
        "store: sqlite:///authz.db\nrecords: {file: ''}\n"
        "upstream: {keys: [{name: some, key_env: GROQ_API_KEY, teams: [chat, audio]}]}\n"
    )
    environ = {"GROQ_API_KEY": UPSTREAM_KEY}
    with Engine(read_settings(config), environ=environ, clock=Time(), load=load_bundle) as engine:
        yield engine


def _issue(engine: Engine) -> dict[str, str]:
    """A secret for each key, the same at every door; of some there is more to say."""
    chance, now_ns = random.Random(22), engine.clock()
    secrets = {}
    rows = []
    for key in sorted(engine.bundle.directory.keys):
        secrets[key] = mint(chance.choice)
        more: dict[str, Any] = _ISSUED.get(key, {})
        rows.append(IssuedKey(digest(secrets[key]), key, now_ns - _DAY_NS, **more))
    put(engine.store, *rows)
    engine.tick()
    return secrets
