"""Several sidecars on one machine: each a process of its own with its own sockets, all under this one.

A worker that ends by itself is started again, after a pause that grows where it does not last; the others go on meanwhile. The
first SIGTERM or SIGINT drains the workers in turn, so that there is one to ask for as long as can be; a second one drains them
all at once. Each worker's standard input is a pipe from here: should this process die, they drain by themselves.
"""

from __future__ import annotations

import asyncio
import logging
import signal
from asyncio.subprocess import Process
from collections.abc import Sequence
from typing import Final

from msgspec import Struct

CANNOT_RUN: Final = 2
"""What a worker exits with where its settings or its bundle are wrong: at the very start that is wrong for all of them."""

_log = logging.getLogger(__name__)


class Pauses(Struct, frozen=True):
    """Before a worker is started again, in seconds: the first, at most, and how long one has to live to count as well."""

    first_s: float = 0.5
    most_s: float = 30.0
    well_s: float = 30.0

    def after(self, failures: int) -> float:
        """failures  in a row, 1 or more"""
        return float(min(self.most_s, self.first_s * 2 ** min(failures - 1, 16)))


class Supervisor:
    """commands  one for each worker
    patience_s   how long a drain may take before a worker is killed
    """

    def __init__(self, commands: Sequence[Sequence[str]], *, patience_s: float, pauses: Pauses | None = None) -> None:
        self._commands, self._patience_s, self._pauses = commands, patience_s, pauses or Pauses()
        self._processes: dict[int, Process] = {}
        self._stopping, self._hurrying = asyncio.Event(), asyncio.Event()
        self._asked: set[int] = set()  # to stop
        self._exit_code = 0

    def stop(self) -> None:
        """Begins the drain; called again, hurries it. Safe to call from a signal handler of the loop."""
        if self._stopping.is_set():
            self._hurrying.set()
        self._stopping.set()

    async def run(self) -> int:
        """Until it is stopped and every worker has ended. Answers this process's exit code."""
        keepers = [asyncio.create_task(self._keep(number)) for number in range(len(self._commands))]
        await self._stopping.wait()
        for number in range(len(self._commands)):
            await self._drain(number)
        await asyncio.gather(*keepers)
        _log.info("all workers have stopped")
        return self._exit_code

    async def _keep(self, number: int) -> None:
        loop, failures = asyncio.get_running_loop(), 0
        served = False
        while not self._stopping.is_set():
            began_s = loop.time()
            process = await asyncio.create_subprocess_exec(*self._commands[number], stdin=asyncio.subprocess.PIPE)
            self._processes[number] = process
            if self._stopping.is_set():  # while it was being started
                self._ask_to_stop(number)
            _log.info("worker started", extra={"worker": number, "worker_pid": process.pid})
            code = await process.wait()
            del self._processes[number]
            if self._stopping.is_set():
                _log.info("worker stopped", extra={"worker": number, "code": code})
                return
            if code == CANNOT_RUN and not served:
                self._exit_code = CANNOT_RUN
                self.stop()
                self._hurrying.set()
                return
            served = True
            failures = 1 if loop.time() - began_s >= self._pauses.well_s else failures + 1
            pause_s = self._pauses.after(failures)
            _log.error("a worker has ended", extra={"worker": number, "code": code, "restart_s": pause_s})
            await self._pause(pause_s)

    async def _pause(self, pause_s: float) -> None:
        try:
            await asyncio.wait_for(self._stopping.wait(), pause_s)
        except TimeoutError:
            return

    async def _drain(self, number: int) -> None:
        """One worker; all that are left once there is a hurry."""
        process = self._processes.get(number)
        if process is None:
            return
        self._ask_to_stop(number)
        ended, hurried = asyncio.create_task(process.wait()), asyncio.create_task(self._hurrying.wait())
        await asyncio.wait({ended, hurried}, timeout=self._patience_s, return_when=asyncio.FIRST_COMPLETED)
        hurried.cancel()
        if self._hurrying.is_set():
            for other in list(self._processes):
                self._ask_to_stop(other)
            await asyncio.wait({ended}, timeout=self._patience_s)
        if not ended.done():
            _log.error("a worker did not stop in time and is killed", extra={"worker": number})
            process.kill()
            await ended

    def _ask_to_stop(self, number: int) -> None:
        if number not in self._asked:
            self._asked.add(number)
            self._processes[number].terminate()


async def run(commands: Sequence[Sequence[str]], *, patience_s: float) -> int:
    """Until SIGTERM or SIGINT."""
    supervisor = Supervisor(commands, patience_s=patience_s)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, supervisor.stop)
    return await supervisor.run()
