"""Storages under test, on every store, with a clock that the test turns."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Final

from authz.limiting import WindowStorage
from authz.quota.windows import NS
from tests.store import redis_server

START: Final = 1_700_000_000 * NS
SHARED: Final = ("redis", "sqlite-file")
PLACES: Final = (*SHARED, "sqlite-memory")
_organisations = count()


class Turned:
    """A clock that stands still until it is turned."""

    def __init__(self) -> None:
        self.now_ns = START

    def __call__(self) -> int:
        return self.now_ns

    @property
    def seconds(self) -> float:
        return self.now_ns / NS


class Site:
    """One place and the storages opened on it."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.clock = Turned()
        self._closing: list[Callable[[], None]] = []
        match kind:
            case "redis":
                self.uri = f"authz+{redis_server.shared().uri}?organisation=limits{next(_organisations)}"
                self._closing.append(lambda: redis_server.shared().client.flushall())
            case "sqlite-file":
                self.folder = Path(tempfile.mkdtemp(prefix="authz-limits-"))
                self.uri = f"authz+sqlite:///{self.folder / 'limits.db'}"
                self._closing.append(lambda: shutil.rmtree(self.folder))
            case _:
                self.uri = "authz+sqlite:///:memory:"

    def open(self, *, wrap_exceptions: bool = False, turned: bool = True) -> WindowStorage:
        storage = WindowStorage(self.uri, wrap_exceptions, wait_s=20, clock=self.clock if turned else None)
        self._closing.append(storage.close)
        return storage

    def close(self) -> None:
        while self._closing:
            self._closing.pop()()
