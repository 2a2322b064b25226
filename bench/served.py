"""The figures of whole processes: P2, P7, P8, P9 and P10. The client is h2load in each."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Final

import grpc
from msgspec.structs import replace

from authz.bundle import load_bundle
from authz.compose import Engine
from authz.envoy.bootstrap import EnvoyOptions, Upstream, render
from authz.envoy.wire import check_pb2
from authz.model import Request
from authz.settings import read_settings
from bench.load import CHECK, Run, on_core, run
from bench.measure import AT_LEAST, AT_MOST, REFUSED, Figure
from bench.world import ENVIRON, World, lay_out
from demo.envoy import Envoy
from demo.stack import listens, wait_for
from tests.store import redis_server

TEAMS: Final = 1_000
KEYS: Final = 10_000
IN_FLIGHT: Final = {1: 1.1, 8: 2.8, 64: 4.0}
_ALLOWED_MB: Final = 150
_START_S: Final = 120.0
_QUIET_S: Final = 0.2
_RUN: Final = {1: 1.0, 8: 4.0, 64: 6.0}
"""Requests of a run, as a multiple of what it is told: about as long in each."""


class Place:
    """A folder with settings, a bundle and issued keys; `check` is a Check that is allowed."""

    def __init__(
        self, folder: Path, stack: ExitStack, *, store: str = "", teams: int = 0, keys: int = 0, more: str = ""
    ) -> None:
        self.folder, self._stack = folder, stack
        listen = "listen: {socket: s.sock, drain_s: 0.1}\n"
        self.config = lay_out(folder, store=store or "sqlite:///authz.db", teams=teams, more=listen + more)
        with Engine(read_settings(self.config), environ=ENVIRON, load=load_bundle) as engine:
            world = World(folder, engine)
            self.check, self.body, self.secret = as_check(world.request()), world.body, world.secret
            each = keys // max(1, teams)
            secrets = world.issue(each, *(f"bulk-{at}" for at in range(teams))) if each else []
            self.checks = [as_check(world.request(secret)) for secret in secrets[:: each or 1]]

    def serve(self, core: int | None = None) -> tuple[str, int]:
        """A sidecar of one process: the socket for Check, and its pid."""
        command = [*on_core(core), *self._serve]
        process = start(self._stack, command)
        (check,) = self._listening(process, 1)
        return check, process.pid

    def serve_workers(self, count: int) -> list[str]:
        """A sidecar of so many processes: the socket for Check of each."""
        return self._listening(start(self._stack, [*self._serve, "--workers", str(count)]), count)

    @property
    def _serve(self) -> list[str]:
        return [sys.executable, "-m", "authz", "serve", "--config", str(self.config), "--log-level", "ERROR"]

    def _listening(self, process: subprocess.Popen[bytes], workers: int) -> list[str]:
        listen = replace(read_settings(self.config).listen, workers=workers)
        checks = [str(self.folder / each.check_socket) for each in listen.each()]
        wait_for("a sidecar", lambda: all(map(listens, checks)) or process.poll() is not None, _START_S)
        for check in checks:
            ask(check, self.check)
        return checks

    def refusals(self) -> dict[str, str]:
        """Nothing where every decision so far was an allow: h2load looks at no answer, and a denial costs less."""
        log = self.folder / "decisions.jsonl"
        wait_for("the records", lambda: time.time() - log.stat().st_mtime > _QUIET_S)
        denied = log.read_bytes().count(b'"effect":"deny"')
        return {REFUSED: f"{denied:,}"} if denied else {}

    def floor(self, core: int | None = None) -> tuple[str, int]:
        """The same of an empty handler."""
        path = self.folder / "floor.sock"
        process = start(self._stack, [*on_core(core), sys.executable, "-m", "bench.floor", str(path)])
        wait_for("the floor", lambda: listens(str(path)) or process.poll() is not None, _START_S)
        ask(path, self.check)
        return str(path), process.pid


@contextmanager
def place(*, store: str = "", teams: int = 0, keys: int = 0, more: str = "") -> Iterator[Place]:
    with TemporaryDirectory(prefix="ab-") as folder, ExitStack() as stack:
        yield Place(Path(folder), stack, store=store, teams=teams, keys=keys, more=more)


def start(stack: ExitStack, command: list[str]) -> subprocess.Popen[bytes]:
    process = subprocess.Popen(command, env=os.environ | ENVIRON, stdin=subprocess.DEVNULL)

    def end() -> None:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    stack.callback(end)
    return process


def as_check(request: Request) -> bytes:
    """As Envoy would ask about it."""
    check = check_pb2.CheckRequest()
    check.attributes.source.address.socket_address.address = request.source_ip
    http = check.attributes.request.http
    http.method, http.path, http.raw_body = request.method, request.path, request.body or b""
    http.size = len(http.raw_body)
    for name, value in request.headers:
        http.headers[name] = value
    http.headers["x-request-id"] = request.request_id
    return check.SerializeToString()


def ask(path: Path | str, check: bytes) -> None:
    """Raises `AssertionError` unless it is allowed: h2load itself looks at no answer."""
    with grpc.insecure_channel(f"unix:{path}") as channel:
        call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CHECK)
        found = check_pb2.CheckResponse.FromString(call(check, timeout=10))
    if found.status.code or not found.HasField("ok_response"):
        raise AssertionError(f"expected an allow, found {found}")


def throughput_and_memory(rounds: int, requests: int) -> list[Figure]:
    """P2 and P9, of one sidecar with 1,000 policies and 10,000 keys. Whoever serves has one core, and the client another:
    left alone, grpc.aio takes more than one for its own threads, and a second process of ours would take as much of it."""
    served, asks = _two_cores()
    with place(teams=TEAMS, keys=KEYS) as one:
        sidecar, pid = one.serve(core=served)
        empty, empty_pid = one.floor(core=served)
        for path in (sidecar, empty):
            run(Run(path, one.check, requests, 8, core=asks))
        figures = []
        for in_flight, bound in IN_FLIGHT.items():
            found: list[tuple[float, float]] = []
            how_many, cpu_s = round(requests * _RUN[in_flight]), (_cpu_s(pid), _cpu_s(empty_pid))
            for _ in range(rounds):
                (over,) = run(Run(sidecar, one.check, how_many, in_flight, core=asks))
                (under,) = run(Run(empty, one.check, how_many, in_flight, core=asks))
                found.append((over.rate, under.rate))
            each_us = 1e6 / rounds / how_many
            cpu = {
                "CPU of a decision": f"{(_cpu_s(pid) - cpu_s[0]) * each_us:.0f} µs",
                "CPU of an empty one": f"{(_cpu_s(empty_pid) - cpu_s[1]) * each_us:.0f} µs",
            }
            figures.append(
                Figure(
                    f"P2 at {in_flight}",
                    f"Checks a second, one process on one core ÷ an empty grpc.aio handler, {in_flight} in flight",
                    tuple(over / under for over, under in found),
                    bound,
                    AT_LEAST,
                    _rates(found[-1], "decisions", "empty handler") | cpu | one.refusals(),
                )
            )
        ask(sidecar, one.check)
        with grpc.insecure_channel(f"unix:{sidecar}") as channel:
            call: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(CHECK)
            for check in one.checks:
                call(check, timeout=10)
        what = f"resident memory of a worker that has decided for each of {TEAMS:,} teams: {KEYS:,} keys, {TEAMS:,} policies"
        figures.append(Figure("P9", what, (_resident_mb(pid),), _ALLOWED_MB, AT_MOST, unit="MB"))
    return figures


def workers(rounds: int, requests: int) -> list[Figure]:
    """P7: each worker has a client of its own, 8 in flight."""
    figures = []
    with ExitStack() as stack:
        server = redis_server.shared()
        stack.callback(redis_server.close_shared)
        for name, store, bound in (("Redis", server.uri, 1.6), ("SQLite", "", 1.4)):
            with place(store=store) as one:
                each = [Run(check, one.check, requests, 8) for check in one.serve_workers(2)]
                found = []
                for _ in range(rounds):
                    alone = run(each[0])[0].rate
                    found.append((sum(load.rate for load in run(*each)), alone))
                parts = _rates(found[-1], "two", "one") | one.refusals()
            what = f"two workers ÷ one, on {name}"
            figures.append(Figure(f"P7 on {name}", what, tuple(two / one for two, one in found), bound, AT_LEAST, parts))
    return figures


def tail(rounds: int, requests: int) -> Figure:
    """P10."""
    with place() as one:
        sidecar, _ = one.serve()
        (full,) = run(Run(sidecar, one.check, 2 * requests, 32))
        clients = 4
        half = Run(sidecar, one.check, requests, 8, clients, max(1, round(full.rate / 2 / clients)))
        found = [run(half)[0] for _ in range(rounds)]
        refusals = one.refusals()
    parts = {"p50": f"{found[-1].percentile(50):.0f} µs", "p99": f"{found[-1].percentile(99):.0f} µs"}
    parts |= {"saturation": f"{full.rate:,.0f}/s"} | refusals
    ratios = tuple(each.percentile(99) / each.percentile(50) for each in found)
    return Figure("P10", "p99 ÷ p50 of a Check at half of saturation", ratios, 6, AT_MOST, parts)


def through_envoy(rounds: int, requests: int) -> Figure:
    """P8: two Envoys with the same bootstrap but for the sockets, before a third that answers in place of the upstream."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory(prefix="ab-")))
        upstream = stack.enter_context(Envoy(folder, _UPSTREAM.format(admin=folder / "a.sock"), str(folder / "a.sock")))
        port = upstream.url.rpartition(":")[2]
        more = f"upstream: {{key_env: GROQ_API_KEY, host: 127.0.0.1, port: {port}, tls: false}}\n"
        more += "envoy: {listen: '127.0.0.1:0', admin_socket: e.sock}\n"
        one = stack.enter_context(place(more=more))
        sidecar, _ = one.serve()
        urls = {}
        for name, socket in {"authz": sidecar, "floor": one.floor()[0]}.items():
            admin = one.folder / f"{name}.admin"
            bootstrap = _bootstrap(one.config, str(admin), socket)
            where = one.folder / name
            where.mkdir()
            envoy = stack.enter_context(Envoy(where, bootstrap, str(admin)))
            wait_for("a healthy sidecar", envoy.sees_sidecar)
            urls[name] = f"{envoy.url}/openai/v1/chat/completions"
        headers = (f"authorization: Bearer {one.secret}", "content-type: application/json")
        found = []
        for _ in range(rounds):
            over, under = (run(Run(urls[name], one.body, requests, 1, headers=headers))[0] for name in ("authz", "floor"))
            found.append((over.percentile(50), under.percentile(50)))
        refusals = one.refusals()
    parts = refusals | {"authz": f"{found[-1][0]:.0f} µs", "empty handler": f"{found[-1][1]:.0f} µs"}
    what = "small POST through Envoy, p50, authz ÷ an empty grpc.aio handler"
    return Figure("P8", what, tuple(over / under for over, under in found), 1.0, AT_MOST, parts)


def _bootstrap(config: Path, admin: str, socket: str) -> str:
    upstream = read_settings(config).upstream
    return render(
        EnvoyOptions(
            listen="127.0.0.1:0",
            admin_socket=admin,
            sidecar_sockets=(socket,),
            upstream=Upstream(host=upstream.host, port=upstream.port, tls=False),
        )
    )


_UPSTREAM: Final = """
admin: {{address: {{pipe: {{path: {admin}}}}}}}
static_resources:
  listeners:
  - name: upstream
    address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: upstream
          http_filters:
          - name: envoy.filters.http.router
            typed_config: {{"@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}
          route_config:
            virtual_hosts:
            - name: upstream
              domains: ["*"]
              routes:
              - match: {{prefix: /}}
                direct_response:
                  status: 200
                  body:
                    inline_string: '{{"choices":[],"usage":{{"prompt_tokens":9,"completion_tokens":9,"total_tokens":18}}}}'
                response_headers_to_add: [{{header: {{key: content-type, value: application/json}}}}]
"""


def _two_cores() -> tuple[int | None, int | None]:
    """Where there is only one, nobody is told where to run."""
    cores = sorted(os.sched_getaffinity(0))
    return (cores[0], cores[1]) if len(cores) > 1 else (None, None)


def _rates(rates: tuple[float, float], over: str, under: str) -> dict[str, str]:
    return {over: f"{rates[0]:,.0f}/s", under: f"{rates[1]:,.0f}/s"}


def _cpu_s(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _resident_mb(pid: int) -> float:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("expected a process that is there")
