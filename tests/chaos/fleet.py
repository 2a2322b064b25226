"""Several sidecar processes on one store behind the real Envoy, and everything between them that can be made to fail."""

from __future__ import annotations

import random
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Final, Self

from click.testing import CliRunner
from msgspec import Struct

from authz.cli.envoy_config import envoy_config
from authz.identity.keys import IssuedKey, digest, mint
from authz.settings import read_settings
from authz.store import Store, open_store
from demo.envoy import Envoy
from demo.stack import ROOT, STAND_IN_KEY, Sidecar, wait_for
from demo.standin import StandIn
from tests.issued import put
from tests.store.proxy import Proxy
from tests.store.redis_server import AOF, RedisServer, free_port

SERVE: Final = ("-m", "authz", "serve")
CAPPED: Final = 16
"""Keys with a small budget each: a fresh one for every fault, because what a fault leaves behind stays charged."""

CAP_USD: Final = "0.05"
OPEN_KEY: Final = "analytics-reports"
"""The one key of which the quotas say that it may pass while the store is out."""

CLOCK_LIMIT: Final = 20
CLOCK_WINDOW_S: Final = 4

QUOTAS: Final = f"""\
time_zone: UTC
quotas:
  - {{id: capped, scope: Team::"research", what: spend, limit: {CAP_USD} USD/month, per: key}}
  - {{id: chatbot-spend, scope: Team::"chatbot", what: spend, limit: 500 USD/month}}
  - {{id: chatbot-tokens, scope: Team::"chatbot", what: tokens, limit: 500000000/minute}}
  - {{id: chatbot-under-way, scope: Team::"chatbot", what: in_flight, limit: 500}}
  - {{id: clock, scope: Key::"batch-processor", what: requests, limit: {CLOCK_LIMIT}/{CLOCK_WINDOW_S} seconds}}
  - {{id: reports, scope: Key::"{OPEN_KEY}", what: requests, limit: 1000000/minute, on_store_error: allow}}
"""


class Kind(StrEnum):
    SQLITE = "sqlite"
    REDIS = "redis"


class Plan(Struct, frozen=True):
    """What a fleet is made of.

    ttl_s     of a reservation: how long the auditor has to wait for what nobody reported on
    proxied   the store (where it is Redis) and the upstream are reached through a network that can be made to fail
    own_disk  the store's file is on a small file system of its own, where this user may mount one
    program   what the sidecars run, after the interpreter's name
    listen    more fields of the settings under this name
    """

    kind: Kind
    sidecars: int = 2
    ttl_s: int = 4
    proxied: bool = True
    own_disk: bool = False
    program: tuple[str, ...] = SERVE
    listen: str = ""


class Fleet:
    """`with Fleet(Plan(Kind.SQLITE)) as fleet: … fleet.envoy.url`. Its folder has a short name: Unix sockets live in it."""

    def __init__(self, plan: Plan) -> None:
        self.plan: Final = plan
        self._resources = ExitStack()
        self.folder: Path
        self.disk: Path
        self.redis: RedisServer | None = None
        self.redis_network: Proxy | None = None
        self.upstream_network: Proxy | None = None
        self.groq: Final = StandIn(STAND_IN_KEY)
        self.sidecars: list[Sidecar] = []
        self.metrics_ports: list[int] = []
        self.secrets: dict[str, str] = {}
        self.mounted = False
        self.undisturbed: Final = threading.Lock()
        """Held by whoever looks at the store from outside, and by what cannot work while somebody does."""
        self._envoy_port = free_port()  # a fixed one: after a restart of Envoy its clients know no other

    @property
    def kind(self) -> Kind:
        return self.plan.kind

    @property
    def configs(self) -> list[Path]:
        return [self.folder / f"{number}" / "authz.yaml" for number in range(self.plan.sidecars)]

    def start(self) -> None:
        plan, keep = self.plan, self._resources
        self.folder = Path(keep.enter_context(tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp")))
        self.disk = self.folder / "disk"
        self.disk.mkdir()
        if plan.own_disk:
            self._mount()
        self._write_bundle()
        self.groq.start()
        keep.callback(self.groq.stop)
        uri, upstream_port = self._open_networks()
        for number, config in enumerate(self.configs):
            self._write_config(number, config, uri, upstream_port)
        with self.open_store() as store:
            self.secrets = issue(store, ["chatbot-prod", "batch-processor", OPEN_KEY, *map(capped, range(CAPPED))])
        self.sidecars = [Sidecar(config, STAND_IN_KEY, program=plan.program) for config in self.configs]
        for sidecar in self.sidecars:
            keep.callback(sidecar.stop)
        for sidecar in self.sidecars:
            sidecar.launch()
        for sidecar in self.sidecars:
            sidecar.wait()
        self.envoy = Envoy(self.folder, self._bootstrap(), str(self.folder / "a.sock"))
        self.envoy.start()
        keep.callback(self.envoy.stop)
        self.wait_until_healthy()

    def stop(self) -> None:
        self._resources.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()

    @contextmanager
    def open_store(self, wait_s: float = 5.0) -> Iterator[Store]:
        """The store itself, past every network that fails."""
        store = open_store(self.store_uri, wait_s=wait_s)
        try:
            yield store
        finally:
            store.close()

    @property
    def store_path(self) -> Path:
        return self.disk / "authz.db"

    @property
    def store_uri(self) -> str:
        return self.redis.uri if self.redis is not None else f"sqlite:///{self.store_path}"

    @property
    def pids(self) -> list[int]:
        """Of Envoy, of the sidecars that run, and of Redis where it is the store."""
        running = [each.process.pid for each in self.sidecars if each.process is not None]
        return [self.envoy.pid, *running, *([self.redis.pid] if self.redis is not None else [])]

    def healthy(self) -> int:
        """How many sidecars Envoy takes to be well, for Checks and for its log."""
        return min(self.envoy.stats("cluster.sidecar(-log)?.membership_healthy").values())

    def wait_until_healthy(self) -> None:
        wait_for("healthy sidecars", lambda: self.healthy() == len(self.sidecars))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._envoy_port}"

    def _mount(self) -> None:
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", str(self.disk)], check=False, capture_output=True
        )
        self.mounted = done.returncode == 0
        if self.mounted:
            self._resources.callback(subprocess.run, ["umount", "--lazy", str(self.disk)], check=False)

    def remount(self, option: str) -> None:
        """`ro` or `rw`; of the store's own disk, which nobody may have open for that."""
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.disk)], check=True, capture_output=True)

    def _write_bundle(self) -> None:
        bundle = self.folder / "policies"
        shutil.copytree(ROOT / "policies", bundle)
        shutil.rmtree(bundle / "tests")  # they speak of the quotas that stood here
        (bundle / "quotas.yaml").write_text(QUOTAS)
        directory = bundle / "directory.yaml"
        lines = "".join(f"  {capped(number)}: {{team: research}}\n" for number in range(CAPPED))
        directory.write_text(directory.read_text().rstrip() + "\n" + lines)

    def _open_networks(self) -> tuple[str, int]:
        """The address of the store and the port of the upstream, as the sidecars and Envoy know them."""
        uri, port, keep = "", self.groq.port, self._resources
        if self.kind is Kind.REDIS:
            self.redis = RedisServer(*AOF, "--appendfsync", "always")
            keep.callback(self.redis.close)
        uri = self.store_uri
        if self.plan.proxied:
            if self.redis is not None:
                self.redis_network = Proxy(_to_path(self.redis.socket))
                keep.callback(self.redis_network.close)
                uri = f"redis://127.0.0.1:{self.redis_network.port}"
            self.upstream_network = Proxy(lambda: socket.create_connection(("127.0.0.1", self.groq.port)))
            keep.callback(self.upstream_network.close)
            port = self.upstream_network.port
        return uri, port

    def _write_config(self, number: int, config: Path, uri: str, upstream_port: int) -> None:
        config.parent.mkdir()
        self.metrics_ports.append(free_port())
        config.write_text(
            f"bundle: ../policies\nstore: {uri}\n"
            f"upstream: {{key_env: GROQ_API_KEY, host: 127.0.0.1, port: {upstream_port}, tls: false}}\n"
            f"listen: {{socket: s.sock, drain_s: 1.0, {self.plan.listen}}}\n"
            f"envoy: {{listen: '127.0.0.1:{self._envoy_port}', admin_socket: {self.folder}/a.sock}}\n"
            "records: {file: decisions.jsonl}\n"
            f"metrics: {{listen: '127.0.0.1:{self.metrics_ports[number]}'}}\n"
            f"reservation_ttl_s: {self.plan.ttl_s}\n"
        )

    def _bootstrap(self) -> str:
        sockets = [argument for each in self.configs for argument in ("--socket", read_settings(each).listen.socket)]
        command = ["--config", str(self.configs[0]), *sockets]
        return CliRunner().invoke(envoy_config, command, catch_exceptions=False).output


def capped(number: int) -> str:
    return f"lab-{number}"


def issue(store: Store, names: list[str]) -> dict[str, str]:
    """Secrets for keys of the directory."""
    chance = random.SystemRandom()
    secrets = {name: mint(chance.choice) for name in names}
    for name, secret in secrets.items():
        put(store, IssuedKey(digest(secret), name, time.time_ns()))
    return secrets


def _to_path(path: Path) -> Callable[[], socket.socket]:
    def connect() -> socket.socket:
        found = socket.socket(socket.AF_UNIX)
        try:
            found.connect(str(path))
        except OSError:
            found.close()
            raise
        return found

    return connect
