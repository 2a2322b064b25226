"""Constant traffic through a stack's Envoy."""

from __future__ import annotations

import threading
from abc import ABC, abstractmethod
from typing import Self

import httpx

from tests.e2e.conftest import Client


class Traffic(ABC):
    """Clients that ask without a pause, a thread each, as long as the `with` lasts."""

    def __init__(self, client: Client, threads: int = 3) -> None:
        self.client, self._stopping = client, threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(threads)]

    @abstractmethod
    def ask_once(self, http: httpx.Client) -> None: ...

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        with httpx.Client(base_url=self.client.stack.url, timeout=10) as http:
            while not self._stopping.is_set():
                self.ask_once(http)
