"""Workers under a supervisor, as real processes: who is started again, who is drained when, and what becomes of orphans."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from authz.supervisor import CANNOT_RUN, Pauses, Supervisor
from demo.stack import wait_for

WORKER = """
import os, signal, sys, time
name, folder = sys.argv[1:3]
def note(what):
    with open(f"{folder}/{name}", "a") as file: file.write(f"{what} {os.getpid()}\\n")
def drain(*_):
    note("drains")
    time.sleep(float(sys.argv[3]))
    note("ends")
    os._exit(0)
signal.signal(signal.SIGTERM, drain)
note("serves")
sys.stdin.read()
note("orphaned")
"""
QUICK = Pauses(first_s=0.05, most_s=0.2)


class Under:
    """A supervisor of workers that write down what happens to them."""

    def __init__(self, folder: Path, *, drains_s: float, patience_s: float, count: int = 2) -> None:
        self.folder, self.stopped = folder, False
        commands = [[sys.executable, "-c", WORKER, str(number), str(folder), str(drains_s)] for number in range(count)]
        self.supervisor = Supervisor(commands, patience_s=patience_s, pauses=QUICK)

    def stop(self) -> None:
        self.stopped = True
        self.supervisor.stop()

    def lines(self, worker: int) -> list[str]:
        path = self.folder / str(worker)
        return [line.split()[0] for line in path.read_text().splitlines()] if path.exists() else []

    def pid(self, worker: int) -> int:
        return int((self.folder / str(worker)).read_text().split()[-1])

    async def until(self, worker: int, *lines: str) -> None:
        async with asyncio.timeout(20):
            while self.lines(worker) != list(lines):  # noqa: ASYNC110  # processes write it to files
                await asyncio.sleep(0.01)


def under(folder: Path, act: Callable[[Under], Awaitable[None]], *, drains_s: float = 0.0, patience_s: float = 10.0) -> int:
    async def go() -> int:
        it = Under(folder, drains_s=drains_s, patience_s=patience_s)
        running = asyncio.create_task(it.supervisor.run())
        for worker in (0, 1):
            await it.until(worker, "serves")
        await act(it)
        if not it.stopped:
            it.stop()
        return await asyncio.wait_for(running, 20)

    return asyncio.run(go())


def test_a_dead_worker_is_started_again_and_the_other_goes_on(tmp_path: Path) -> None:
    async def act(it: Under) -> None:
        other = it.pid(1)
        for times in (2, 3):
            os.kill(it.pid(0), signal.SIGKILL)
            await it.until(0, *["serves"] * times)
        assert it.pid(1) == other
        assert it.lines(1) == ["serves"]

    assert under(tmp_path, act) == 0


def test_workers_drain_in_turn(tmp_path: Path) -> None:
    async def act(it: Under) -> None:
        it.stop()
        await it.until(0, "serves", "drains")
        assert it.lines(1) == ["serves"], "it goes on until the first has ended"
        await it.until(1, "serves", "drains")
        assert it.lines(0) == ["serves", "drains", "ends"]

    assert under(tmp_path, act, drains_s=0.3) == 0
    assert (tmp_path / "1").read_text().split()[::2] == ["serves", "drains", "ends"]


def test_a_second_signal_drains_all_at_once(tmp_path: Path) -> None:
    async def act(it: Under) -> None:
        it.stop()
        await it.until(0, "serves", "drains")
        it.stop()
        await it.until(1, "serves", "drains")
        assert it.lines(0) == ["serves", "drains"]

    assert under(tmp_path, act, drains_s=1.0) == 0


def test_who_does_not_stop_is_killed(tmp_path: Path) -> None:
    async def act(it: Under) -> None:
        it.stop()

    assert under(tmp_path, act, drains_s=60.0, patience_s=0.2) == 0
    assert (tmp_path / "1").read_text().split()[::2] == ["serves", "drains"]


def test_what_cannot_run_at_all_ends_them_all(tmp_path: Path) -> None:
    async def go() -> int:
        wrong = [sys.executable, "-c", f"raise SystemExit({CANNOT_RUN})"]
        right = [sys.executable, "-c", WORKER, "1", str(tmp_path), "0"]
        return await asyncio.wait_for(Supervisor([wrong, right], patience_s=10).run(), 20)

    assert asyncio.run(go()) == CANNOT_RUN


def test_orphans_see_the_end_of_their_supervisor(tmp_path: Path) -> None:
    code = (
        "import asyncio, sys\n"
        "from authz.supervisor import Supervisor\n"
        f"asyncio.run(Supervisor([[sys.executable, '-c', {WORKER!r}, '0', {str(tmp_path)!r}, '0']], patience_s=1).run())\n"
    )
    supervisor = subprocess.Popen([sys.executable, "-c", code])
    log = tmp_path / "0"
    wait_for("a worker", lambda: log.exists() and "serves" in log.read_text())
    supervisor.kill()
    supervisor.wait()
    wait_for("its end", lambda: "orphaned" in log.read_text())


@pytest.mark.parametrize(("failures", "pause_s"), [(1, 0.5), (2, 1.0), (4, 4.0), (9, 30.0), (10_000, 30.0)])
def test_pauses_grow_up_to_a_bound(failures: int, pause_s: float) -> None:
    assert Pauses().after(failures) == pause_s
