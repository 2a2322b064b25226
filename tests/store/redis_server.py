"""A real redis-server for tests, in a folder of its own: on a Unix socket, or on a random port of the loopback interface."""

from __future__ import annotations

import shutil
import socket
import subprocess
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from time import monotonic
from typing import Any, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

BINARY: Final = shutil.which("valkey-server") or shutil.which("redis-server") or ""
_START_S: Final = 20
AOF: Final = ("--appendonly", "yes", "--auto-aof-rewrite-min-size", "16mb")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """Starts at once. `kill` and `start` again: what is in the folder stays, and so do socket and port.

    first  what has to stand in front of all options: a configuration file, and what makes a sentinel of it
    """

    def __init__(self, *arguments: str, port: int = 0, first: tuple[str, ...] = (), wait: bool = True) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="authz-redis-"))
        self.port = port
        self.socket = self.folder / "redis.sock"
        self._first, self._arguments = first, arguments
        self._process: subprocess.Popen[bytes] | None = None
        self._client: redis.Redis | None = None
        self.start(wait=wait)

    @property
    def uri(self) -> str:
        return f"redis://127.0.0.1:{self.port}" if self.port else f"unix://{self.socket}"

    @property
    def pid(self) -> int:
        assert self._process is not None, "it is not running"
        return self._process.pid

    @property
    def client(self) -> Any:  # redis-py is typed in part only
        """To look and to meddle, past the store."""
        if self._client is None:
            self._client = redis.Redis(unix_socket_path=str(self.socket), protocol=2, retry=Retry(NoBackoff(), 0))
        return self._client

    def start(self, *more: str, wait: bool = True) -> None:
        # What a worker that is killed itself would leave behind ends with it.
        leash = ["setpriv", "--pdeathsig", "KILL"] if shutil.which("setpriv") else []
        place = ["--dir", str(self.folder), "--port", str(self.port), "--unixsocket", str(self.socket)]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [*leash, BINARY, *self._first, *place, "--bind", "127.0.0.1", "--save", "", *self._arguments, *more],
                stdout=log,
                stderr=log,
            )
        if wait:
            self.wait()

    def wait(self) -> None:
        """Until it answers."""
        began, pause = monotonic(), threading.Event()
        while monotonic() - began < _START_S:
            try:
                if self.client.ping():
                    return
            except (redis.ConnectionError, redis.ResponseError):  # not yet there, or loading
                pause.wait(0.003)
        raise AssertionError(f"redis-server does not answer:\n{(self.folder / 'log').read_text()}")

    def kill(self) -> None:
        """`kill -9`."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def close(self) -> None:
        self.kill()
        if self._client is not None:
            self._client.close()
        shutil.rmtree(self.folder, ignore_errors=True)


@lru_cache(maxsize=1)
def shared() -> RedisServer:
    """One for all tests of this process that only need some server. Its log reaches the kernel before it answers."""
    return RedisServer(*AOF, "--appendfsync", "no")


def close_shared() -> None:
    if shared.cache_info().currsize:
        shared().close()
        shared.cache_clear()
