"""Where a store under test lives: opened, opened again, and left behind as after a crash.

A new kind of store joins every test by adding its place to `PLACES`.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Protocol

from authz.store import SqliteStore, open_store


class Place(Protocol):
    def open(self) -> SqliteStore:
        """A store on this place: another one on the same data each time. `close` closes it."""
        ...

    def crash(self) -> None:
        """Goes on from what a `kill -9` at this moment would leave."""
        ...

    def close(self) -> None: ...


class FilePlace:
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

    def __init__(self) -> None:
        self._store = open_store("sqlite:///:memory:", wait_s=5)

    def open(self) -> SqliteStore:
        return self._store

    def crash(self) -> None:
        pass

    def close(self) -> None:
        self._store.close()


PLACES: dict[str, type[FilePlace | MemoryPlace]] = {"sqlite-file": FilePlace, "sqlite-memory": MemoryPlace}
