"""The load: h2load (nghttp2), which is no Python, over a Unix socket to Check or over TCP to Envoy."""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Final

from msgspec import Struct

CHECK: Final = "/envoy.service.auth.v3.Authorization/Check"
_RATE: Final = re.compile(r"finished in [0-9.]+m?s, ([0-9.]+) req/s")
_DONE: Final = re.compile(
    r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout"
)
_DEADLINE_S: Final = 120


class Missing(Exception):
    """h2load is not installed: `apt-get install nghttp2-client`."""


class Load(Struct, frozen=True):
    """Requests a second, and how long each took in microseconds."""

    rate: float
    took_us: tuple[float, ...]

    def percentile(self, which: int) -> float:
        return quantiles(self.took_us, n=100)[which - 1]


def version() -> str:
    found = shutil.which("h2load")
    if found is None:
        raise Missing(Missing.__doc__)
    return subprocess.run([found, "--version"], check=True, capture_output=True, text=True).stdout.strip()


class Run(Struct, frozen=True):
    """What one h2load is to do. `target` is a Unix socket's path for Checks, or a URL for POSTs through Envoy.

    rate  requests a second of each of the `clients`; 0 for as fast as it goes
    core  the one that the client has to itself; None for whichever is free
    """

    target: str
    body: bytes
    requests: int
    in_flight: int = 1
    clients: int = 1
    rate: int = 0
    headers: tuple[str, ...] = ()
    core: int | None = None


def run(*several: Run) -> list[Load]:
    """At once, each by a process of its own. Raises `AssertionError` where a request was not answered with success."""
    with TemporaryDirectory(prefix="authz-load-") as folder, ExitStack() as stack:
        started = []
        for number, each in enumerate(several):
            log = Path(folder, f"{number}.log")
            process = subprocess.Popen(_command(each, Path(folder, f"{number}.body"), log), stdout=subprocess.PIPE, text=True)
            stack.callback(_end, process)
            started.append((process, log))
        return [_read(process, log) for process, log in started]


def on_core(core: int | None) -> list[str]:
    """What stands before a command that is to run on one core only."""
    return ["taskset", "--cpu-list", str(core)] if core is not None else []


def _command(what: Run, body: Path, log: Path) -> Sequence[str]:
    check = what.target.startswith("/")
    body.write_bytes(struct.pack(">BI", 0, len(what.body)) + what.body if check else what.body)
    command = [*on_core(what.core), "h2load", "-t", "1", f"--log-file={log}", "-d", str(body)]
    command += ["-n", str(what.requests), "-c", str(what.clients), "-m", str(what.in_flight)]
    if what.rate:
        command.append(f"--rps={what.rate}")
    if check:
        command += [f"--base-uri=unix:{what.target}", "-H", "content-type: application/grpc", "-H", "te: trailers"]
        return [*command, f"http://authz{CHECK}"]
    for header in what.headers:
        command += ["-H", header]
    return [*command, "--h1", what.target]


def _read(process: subprocess.Popen[str], log: Path) -> Load:
    output = process.communicate(timeout=_DEADLINE_S)[0]
    done, rate = _DONE.search(output), _RATE.search(output)
    if process.returncode or done is None or rate is None or int(done[1]) == 0 or any(int(done[at]) for at in (2, 3, 4)):
        raise AssertionError(f"expected that every request succeeds, found:\n{output[-800:]}")
    rows = (line.split("\t") for line in log.read_text().splitlines())
    return Load(float(rate[1]), tuple(float(took) for _, status, took in rows if status == "200"))


def _end(process: subprocess.Popen[str]) -> None:
    if process.poll() is None:
        process.kill()
        process.wait()
    if process.stdout is not None:
        process.stdout.close()
