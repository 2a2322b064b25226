"""A change of a key is in force in every process that shares the store, whatever else that is at."""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

import pytest
from msgspec import structs

from authz.bundle import load_bundle
from authz.compose import Engine
from authz.errors import StoreUnavailable
from authz.identity.credentials import KeyRing
from authz.identity.keys import IssuedKey, digest
from authz.model import Allow, Request
from authz.settings import read_settings
from authz.store import open_store
from authz.store.sqlite import SqliteStore
from tests.issued import ACTOR, issuing, put, revoke
from tests.place import lay_out
from tests.store import redis_server
from tests.store.places import FilePlace, Place, RedisPlace

WITHIN_S: Final = 1.0
REPLICAS: Final = 3


@pytest.fixture(params=["sqlite-file", "redis"])
def place(request: pytest.FixtureRequest) -> Iterator[FilePlace | RedisPlace]:
    found = FilePlace() if request.param == "sqlite-file" else RedisPlace()
    yield found
    found.close()
    redis_server.close_shared()


@pytest.fixture
def replicas(place: FilePlace | RedisPlace, tmp_path: Path) -> Iterator[list[Engine]]:
    """Processes as far as the store can tell: each with its own connections and its own keys in memory."""
    config = lay_out(tmp_path)
    config.write_text(config.read_text().replace("sqlite:///authz.db", f"'{place.uri}'").replace("decisions.jsonl", "''"))
    with ExitStack() as stack:
        yield [
            stack.enter_context(Engine(read_settings(config), environ={"GROQ_API_KEY": "gsk_x"}, load=load_bundle).start())
            for _ in range(REPLICAS)
        ]


def allows(engine: Engine, secret: str) -> bool:
    headers = (("authorization", f"Bearer {secret}"), ("content-type", "application/json"))
    body = b'{"model":"llama-3.1-8b-instant","messages":[{"role":"user","content":"x"}],"max_tokens":5}'
    return isinstance(engine.pdp.decide(Request("POST", "/openai/v1/chat/completions", headers, body)), Allow)


def took_s(holds: Callable[[], bool]) -> float:
    start = time.monotonic()
    while not holds():
        assert time.monotonic() - start < 20
        time.sleep(0.01)
    return time.monotonic() - start


def test_a_revocation_is_in_force_in_every_replica_within_a_second(place: Place, replicas: list[Engine]) -> None:
    """Also where a replica has so much to settle that its other work stands still."""
    store, stuck = place.open(), threading.Event()
    busy = replicas[0]
    busy.settler.expire = lambda at_most: int(stuck.wait(20)) - 1  # type: ignore[method-assign]
    try:
        issued = issuing(store, time.time_ns()).issue("chatbot-prod", ACTOR)
        secret = issued.secret.reveal()
        assert took_s(lambda: all(allows(each, secret) for each in replicas)) < WITHIN_S
        time.sleep(0.6)  # so that the busy one is in what it does
        assert revoke(store, issued.row.digest, time.time_ns())
        assert took_s(lambda: not any(allows(each, secret) for each in replicas)) < WITHIN_S
    finally:
        stuck.set()


def test_a_store_that_was_put_back_is_read_anew(place: Place) -> None:
    """A backup, or a replica that took over without the last changes: other changes have then the numbers of those that were
    read, a revocation among them."""
    before, after = place.open(), open_store("sqlite:///:memory:")
    first, second = IssuedKey(digest("first"), "one", 1), IssuedKey(digest("second"), "two", 1)
    for store in (before, after):
        put(store, first)
    put(before, second)

    class Turned:
        """The one store, then the other."""

        now = before

        def __getattr__(self, name: str) -> object:
            return getattr(self.now, name)

    turned = Turned()
    ring = KeyRing(turned)  # type: ignore[arg-type]  # it passes everything on
    ring.refresh()
    assert [ring.find(each.digest, 5) is not None for each in (first, second)] == [True, True]
    assert revoke(after, first.digest, 9)
    assert before.keys_since(0)[-1].sequence == after.keys_since(0)[-1].sequence
    turned.now = after
    ring.refresh()
    assert [ring.find(each.digest, 5) is not None for each in (first, second)] == [False, False]
    after.close()


def test_a_row_that_cannot_be_read_is_told_and_leaves_what_was_known(tmp_path: Path) -> None:
    path = tmp_path / "authz.db"
    store = open_store(f"sqlite:///{path}")
    assert isinstance(store, SqliteStore)
    ring = KeyRing(store)
    put(store, IssuedKey(digest("one"), "one", 1))
    ring.refresh()
    put(store, IssuedKey(digest("two"), "two", 1))
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE issued_keys SET body = x'ff' WHERE sequence = 2")
    connection.close()
    with pytest.raises(StoreUnavailable, match="issued key 2 cannot be read"):
        ring.refresh()
    assert ring.find(digest("one"), 5) is not None
    store.close()


def test_nothing_is_read_where_nothing_has_changed() -> None:
    store = open_store("sqlite:///:memory:")
    put(store, IssuedKey(digest("one"), "one", 1))
    asked: list[int] = []

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def keys_since(self, sequence: int) -> tuple[IssuedKey, ...]:
            asked.append(sequence)
            return store.keys_since(sequence)

    ring = KeyRing(Counting())  # type: ignore[arg-type]  # it passes everything on
    ring.refresh()
    told = len(asked)
    ring.refresh()
    assert len(asked) == told
    put(store, structs.replace(store.keys_since(0)[0], digest=digest("two"), sequence=0))
    ring.refresh()
    assert ring.find(digest("two"), 5) is not None
    store.close()
