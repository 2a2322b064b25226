"""Where a store under test lives: opened, opened again, and left behind as after a crash.

A new kind of store joins every test by adding its place to `PLACES`.
"""

from __future__ import annotations

import shutil
import tempfile
from itertools import count
from pathlib import Path
from typing import Protocol

from authz.store import Store
from authz.store.redis import RedisStore, parse_uri
from authz.store.sqlite import SqliteStore, open_store
from tests.store import redis_server


class Place(Protocol):
    reopens: bool
    """Whether `open` gives another store each time, so that one may be closed."""

    def open(self) -> Store:
        """A store on this place: another one on the same data each time. `close` closes it."""
        ...

    def crash(self) -> None:
        """Goes on from what a `kill -9` at this moment would leave."""
        ...

    def close(self) -> None: ...


class FilePlace:
    reopens = True

    def __init__(self) -> None:
        self._root = Path(tempfile.mkdtemp(prefix="authz-store-"))
        self._life = 0
        self._opened: list[SqliteStore] = []

    @property
    def path(self) -> Path:
        return self._root / f"life{self._life}" / "authz.db"

    @property
    def uri(self) -> str:
        return f"sqlite:///{self.path}"

    def open(self) -> SqliteStore:
        store = open_store(self.uri, wait_s=5)
        self._opened.append(store)
        return store

    def crash(self) -> None:
        # The files as the kernel has them now, without the end of a process: neither checkpoint nor clean-up of the log.
        left = self.path.parent
        self._life += 1
        shutil.copytree(left, self.path.parent, ignore=shutil.ignore_patterns("*-shm"))

    def close(self) -> None:
        for store in self._opened:
            store.close()
        shutil.rmtree(self._root)


class MemoryPlace:
    """One store for its whole life: what is in memory cannot be opened again."""

    reopens = False

    def __init__(self) -> None:
        self._store = open_store("sqlite:///:memory:", wait_s=5)

    def open(self) -> SqliteStore:
        return self._store

    def crash(self) -> None:
        pass

    def close(self) -> None:
        self._store.close()


class RedisPlace:
    """An organisation of its own on the server of this process. A crash is `kill -9` of that server."""

    reopens = True
    _organisations = count()

    def __init__(self) -> None:
        self._server = redis_server.shared()
        self._opened: list[RedisStore] = []
        self.uri = f"{self._server.uri}?organisation=o{next(self._organisations)}"

    def open(self) -> RedisStore:
        store = RedisStore(parse_uri(self.uri, wait_s=20), time="caller")
        self._opened.append(store)
        return store

    def crash(self) -> None:
        self._server.kill()
        self._server.start()

    def close(self) -> None:
        for store in self._opened:
            store.close()
        self._server.client.flushall()


class HastyRedisPlace(RedisPlace):
    """For thousands of crashes: one in fifty is a real one, in the others the server forgets all but its data."""

    _crashes = count(1)

    def crash(self) -> None:
        if next(self._crashes) % 50 == 0:
            super().crash()
        else:
            self._server.client.script_flush("ASYNC")
            self._server.client.client_kill_filter(_type="normal", skipme=True)


PLACES: dict[str, type[FilePlace | MemoryPlace | RedisPlace]] = {
    "sqlite-file": FilePlace,
    "sqlite-memory": MemoryPlace,
    "redis": RedisPlace,
}
