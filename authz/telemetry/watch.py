"""Records as they come, for whoever watches at the moment. Nothing here waits: a slow watcher loses records, and is told."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from typing import Final, Protocol

from authz.model import Record

QUEUE: Final = 1_000


class Watcher:
    """One who watches: a bounded queue of records, the oldest first. Safe in threads.

    wake  is called by whatever thread records something, when there was nothing before
    """

    def __init__(self, wake: Callable[[], None], at_most: int = QUEUE) -> None:
        self._wake, self._at_most = wake, at_most
        self._lock = threading.Lock()
        self._queue: deque[tuple[Record, int]] = deque()
        self._dropped = 0

    def offer(self, record: Record) -> None:
        with self._lock:
            if len(self._queue) >= self._at_most:
                self._dropped += 1
                return
            self._queue.append((record, self._dropped))
            self._dropped = 0
            first = len(self._queue) == 1
        if first:
            self._wake()

    @property
    def empty(self) -> bool:
        return not self._queue

    def take(self) -> tuple[Record | None, int]:
        """The next record, or None, and how many were lost between it and the one before."""
        with self._lock:
            if self._queue:
                return self._queue.popleft()
            dropped, self._dropped = self._dropped, 0
            return None, dropped


class Watches(Protocol):
    """Whoever is told of records. Must not wait, and not raise."""

    def offer(self, record: Record) -> None: ...


class Watched:
    """Passes records on, and to the watchers. Safe in threads."""

    def __init__(self, onwards: Callable[[Record], None]) -> None:
        self._onwards = onwards
        self._lock = threading.Lock()
        self.watchers: tuple[Watches, ...] = ()

    def record(self, record: Record) -> None:
        self._onwards(record)
        for watcher in self.watchers:
            watcher.offer(record)

    def add(self, watcher: Watches) -> None:
        with self._lock:
            self.watchers = (*self.watchers, watcher)

    def remove(self, watcher: Watches) -> None:
        with self._lock:
            self.watchers = tuple(each for each in self.watchers if each is not watcher)
