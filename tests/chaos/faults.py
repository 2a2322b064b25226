"""What is done to a fleet while requests go through it. Each heals what it did before it returns, and says what it was."""

from __future__ import annotations

import os
import random
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from resource import RLIM_INFINITY, RLIMIT_FSIZE, prlimit
from typing import Final

from msgspec import Struct

from demo.answers import Behaviour
from demo.stack import Sidecar
from tests.chaos.clockwork import FILE, PROGRAM
from tests.chaos.fleet import CLOCK_LIMIT, CLOCK_WINDOW_S, SERVE, Fleet, Kind
from tests.chaos.load import Caller, Load, Sent
from tests.store.proxy import Fault as Cut
from tests.store.proxy import Proxy, storm

Inject = Callable[[Fleet, float], str]
BOTH: Final = frozenset(Kind)
SQLITE: Final = frozenset({Kind.SQLITE})
REDIS: Final = frozenset({Kind.REDIS})

SKIPPED: Final = "not possible here: "


class Fault(Struct, frozen=True):
    """inject   takes the fleet and how many seconds it may go on; answers in words what was done, or raises `Broken`
    program  what the sidecars have to run for it
    """

    name: str
    on: frozenset[Kind]
    inject: Inject
    program: tuple[str, ...] = SERVE


class Broken(Exception):
    """A promise that only who injects the fault could see broken."""


FAULTS: Final[list[Fault]] = []


def fault(name: str, on: frozenset[Kind] = BOTH, program: tuple[str, ...] = SERVE) -> Callable[[Inject], Inject]:
    def register(inject: Inject) -> Inject:
        FAULTS.append(Fault(name, on, inject, program))
        return inject

    return register


def pause(seconds: float) -> None:
    """The time in which a fault is left to work."""
    threading.Event().wait(max(0.0, seconds))


def until(end_s: float) -> bool:
    return time.monotonic() < end_s


@contextmanager
def suspended(pid: int) -> Iterator[None]:
    """A process that answers nobody and loses nothing."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextmanager
def starved(pids: Sequence[int], longest_s: float) -> Iterator[None]:
    """Each of these processes stands still again and again, as on a machine that has no time for it. They may end meanwhile."""
    stopping = threading.Event()

    def run(pid: int) -> None:
        chance = random.Random(pid)
        with suppress(ProcessLookupError):
            while not stopping.wait(chance.uniform(0.0, longest_s / 2)):
                with suspended(pid):
                    pause(chance.uniform(0.0, longest_s))

    threads = [threading.Thread(target=run, args=(pid,), daemon=True) for pid in pids]
    for thread in threads:
        thread.start()
    try:
        yield
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


# ---- processes


@fault("nothing")
def nothing(fleet: Fleet, seconds: float) -> str:
    pause(seconds)
    return "the same load, undisturbed"


@fault("sidecars killed")
def kill_sidecars(fleet: Fleet, seconds: float) -> str:
    chance, end_s, times = random.Random(1), time.monotonic() + seconds, 0
    while until(end_s):
        victim = chance.choice(fleet.sidecars)
        pause(chance.uniform(0.05, 0.3))
        victim.kill()
        victim.start()
        fleet.wait_until_healthy()
        times += 1
    return f"{times} × kill -9 of one of {len(fleet.sidecars)} sidecars"


@fault("all sidecars killed")
def kill_all(fleet: Fleet, seconds: float) -> str:
    """And with them what Envoy had begun to tell them of."""
    pause(seconds / 3)
    for sidecar in fleet.sidecars:
        sidecar.kill()
    pause(seconds / 3)
    for sidecar in fleet.sidecars:
        sidecar.launch()
    for sidecar in fleet.sidecars:
        sidecar.wait()
    fleet.wait_until_healthy()
    return f"kill -9 of all {len(fleet.sidecars)} at once, gone for {seconds / 3:.1f} s"


@fault("sidecars suspended")
def suspend_sidecar(fleet: Fleet, seconds: float) -> str:
    (victim, *_) = fleet.sidecars
    assert victim.process is not None
    with suspended(victim.process.pid):
        pause(seconds / 2)
    fleet.wait_until_healthy()
    return f"SIGSTOP of a sidecar for {seconds / 2:.1f} s"


@fault("sidecars gone while the log waits")
def gone_while_the_log_waits(fleet: Fleet, seconds: float) -> str:
    """Streams end while nobody is there to hear of it: Envoy keeps what it has to tell."""
    fleet.groq.behave(Behaviour(chunk_delay_s=0.06))
    pause(seconds / 3)
    for sidecar in fleet.sidecars:
        sidecar.stop()
    fleet.groq.behave()
    pause(seconds / 3)
    for sidecar in fleet.sidecars:
        sidecar.launch()
    for sidecar in fleet.sidecars:
        sidecar.wait()
    fleet.wait_until_healthy()
    return "SIGTERM of all, streams end meanwhile, all back"


@fault("rolling restart")
def roll(fleet: Fleet, seconds: float) -> str:
    end_s, times = time.monotonic() + seconds, 0
    while not times or until(end_s):
        for sidecar in fleet.sidecars:
            restart(fleet, sidecar)
            times += 1
    return f"{times} × SIGTERM and start, one after the other"


def restart(fleet: Fleet, sidecar: Sidecar) -> None:
    """As an operator would: the next one only when Envoy sees this one serve."""
    stop(sidecar)
    sidecar.start()
    fleet.wait_until_healthy()


def stop(sidecar: Sidecar) -> None:
    code = sidecar.stop()
    if code != 0:
        raise AssertionError(f"a sidecar that was told to stop ended with {code}")


@fault("envoy restarted")
def restart_envoy(fleet: Fleet, seconds: float) -> str:
    end_s, times = time.monotonic() + seconds, 0
    while not times or until(end_s):
        pause(0.4)
        fleet.envoy.stop()
        fleet.envoy.start()
        fleet.wait_until_healthy()
        times += 1
    return f"{times} × Envoy ended and started"


# ---- the store


@fault("redis killed", REDIS)
def kill_redis(fleet: Fleet, seconds: float) -> str:
    assert fleet.redis is not None
    chance, end_s, times = random.Random(2), time.monotonic() + seconds, 0
    while until(end_s):
        pause(chance.uniform(0.1, 0.5))
        fleet.redis.kill()
        pause(0.1)
        fleet.redis.start()
        times += 1
    return f"{times} × kill -9 of Redis (AOF, fsync always)"


@fault("redis suspended", REDIS)
def suspend_redis(fleet: Fleet, seconds: float) -> str:
    assert fleet.redis is not None
    process = fleet.redis._process
    assert process is not None
    with suspended(process.pid):
        pause(seconds / 2)
    return f"SIGSTOP of Redis for {seconds / 2:.1f} s"


def _cut(cut: Cut) -> Inject:
    def inject(fleet: Fleet, seconds: float) -> str:
        times = _bursts(_network(fleet.redis_network), cut, seconds)
        return f"network to Redis: {times} × {cut.value.replace('_', ' ')}"

    return inject


for _each in Cut:
    if _each is not Cut.NONE:
        FAULTS.append(Fault(f"redis network {_each.value.replace('_', ' ')}", REDIS, _cut(_each)))


@fault("redis network storm", REDIS)
def storm_of_redis(fleet: Fleet, seconds: float) -> str:
    network = _network(fleet.redis_network)
    network.late_s, network.fault = 0.005, storm(random.Random(3), 0.3)
    pause(seconds)
    network.fault = lambda: Cut.NONE
    return "every fault at random for 30 % of all answers of Redis"


def _network(proxy: Proxy | None) -> Proxy:
    if proxy is None:
        raise ValueError("this fleet has no network that fails")
    return proxy


def _bursts(network: Proxy, cut: Cut, seconds: float) -> int:
    """On for a while and off for a while."""
    end_s, times = time.monotonic() + seconds, 0
    while not times or until(end_s):
        network.fault = lambda: cut
        pause(seconds / 4)
        network.fault = lambda: Cut.NONE
        pause(seconds / 6)
        times += 1
    return times


@fault("database locked", SQLITE)
def lock(fleet: Fleet, seconds: float) -> str:
    end_s, times = time.monotonic() + seconds, 0
    while not times or until(end_s):
        with closing(sqlite3.connect(fleet.store_path, isolation_level=None, timeout=5)) as other:
            other.execute("BEGIN IMMEDIATE")
            pause(0.6)
            other.execute("ROLLBACK")
        pause(0.2)
        times += 1
    return f"{times} × the write lock held for 0.6 s by another process"


@fault("no file may grow", SQLITE)
def limit_files(fleet: Fleet, seconds: float) -> str:
    """What the kernel says where a quota of the disk is used up: the database, its log and the records alike."""
    pids = [sidecar.process.pid for sidecar in fleet.sidecars if sidecar.process is not None]
    for pid in pids:
        prlimit(pid, RLIMIT_FSIZE, (4_096, RLIM_INFINITY))
    pause(seconds / 2)
    for pid in pids:
        prlimit(pid, RLIMIT_FSIZE, (RLIM_INFINITY, RLIM_INFINITY))
    return f"RLIMIT_FSIZE of 4 KiB for {seconds / 2:.1f} s"


@fault("disk full", SQLITE)
def fill_disk(fleet: Fleet, seconds: float) -> str:
    if not fleet.mounted:
        return SKIPPED + "a file system of its own cannot be mounted"
    filler = fleet.disk / "filler"
    with filler.open("wb", buffering=0) as file:
        for size in (1 << 20, 4_096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:  # full, as far as pieces of this size go
                continue
    pause(seconds / 2)
    filler.unlink()
    return f"a file system without a free byte for {seconds / 2:.1f} s"


@fault("disk read-only", SQLITE)
def read_only(fleet: Fleet, seconds: float) -> str:
    """A file system cannot be made read-only under a process that writes: it is so when the sidecars come back."""
    if not fleet.mounted:
        return SKIPPED + "a file system of its own cannot be mounted"
    for sidecar in fleet.sidecars:
        sidecar.kill()
    with fleet.undisturbed:
        fleet.remount("ro")
    refused = 0
    for sidecar in fleet.sidecars:
        try:
            sidecar.start()
        except RuntimeError:
            refused += 1
            sidecar.kill()
    pause(seconds / 3)
    fleet.remount("rw")
    for sidecar in fleet.sidecars:
        sidecar.kill()
        sidecar.start()
    fleet.wait_until_healthy()
    return f"read-only under {len(fleet.sidecars)} starting sidecars ({refused} refused to start), then writable"


# ---- the clock


@fault("clock jumps", program=PROGRAM)
def jump(fleet: Fleet, seconds: float) -> str:
    """Wall clocks that jump by an hour under running sidecars; on Redis theirs are two minutes apart from the start as well.

    A key with a limit asks as fast as it can, and in no span of its window's length may more of it be answered.
    """
    if fleet.kind is Kind.REDIS:
        _set(fleet.sidecars[-1], 120)
        restart(fleet, fleet.sidecars[-1])
    pressing = Caller("batch-processor", fleet.secrets["batch-processor"], "llama-3.1-8b-instant")
    chance, times = random.Random(4), 0
    with Load(fleet.url, [pressing], threads=2, pause_s=0.01) as load:
        end_s = time.monotonic() + max(seconds, 1.5 * CLOCK_WINDOW_S)
        while until(end_s):
            for sidecar in fleet.sidecars:
                _set(sidecar, chance.choice((-3600, 0, 3600)))
                times += 1
            pause(0.3)
    for sidecar in fleet.sidecars:
        _set(sidecar, 0)
    most = _most_in_a_window([each for each in load.sent if each.status == 200])
    if most > CLOCK_LIMIT:
        raise Broken(f"{most} requests were admitted in {CLOCK_WINDOW_S} s, where {CLOCK_LIMIT} is the limit")
    return f"{times} jumps of ±1 h; at most {most} of {CLOCK_LIMIT} admitted in any window"


def _set(sidecar: Sidecar, seconds: int) -> None:
    (sidecar.log_path.parent / FILE).write_text(str(seconds))


def _most_in_a_window(answered: list[Sent]) -> int:
    """Each was admitted somewhere between its beginning and its end: those surely within one span count."""
    spans = sorted((each.began_s, each.ended_s) for each in answered)
    return max(
        (sum(first <= began and ended <= first + CLOCK_WINDOW_S for began, ended in spans) for first, _ in spans), default=0
    )


# ---- the upstream


def _upstream_cut(cut: Cut) -> Inject:
    def inject(fleet: Fleet, seconds: float) -> str:
        times = _bursts(_network(fleet.upstream_network), cut, seconds)
        return f"network to the upstream: {times} × {cut.value.replace('_', ' ')}"

    return inject


for _each in (Cut.REFUSE, Cut.RESET, Cut.CLOSE, Cut.HALF_CLOSE):
    FAULTS.append(Fault(f"upstream network {_each.value.replace('_', ' ')}", BOTH, _upstream_cut(_each)))


@fault("upstream slow")
def slow_upstream(fleet: Fleet, seconds: float) -> str:
    fleet.groq.behave(Behaviour(chunk_delay_s=0.1))
    pause(seconds / 2)
    fleet.groq.behave()
    pause(seconds / 4)
    return "0.1 s between the pieces of every stream"


@fault("upstream silent")
def silent_upstream(fleet: Fleet, seconds: float) -> str:
    """Longer than a stream may take, so that Envoy ends them."""
    fleet.groq.behave(Behaviour(hang=True))
    pause(max(seconds / 2, fleet.plan.ttl_s - 0.5))
    fleet.groq.behave()
    pause(seconds / 4)
    return "requests are taken and never answered"


@fault("upstream failing")
def failing_upstream(fleet: Fleet, seconds: float) -> str:
    answers = [Behaviour(status=status, times=3) for status in (500, 503, 429, 400)] + [Behaviour(cut_after=3, times=3)]
    end_s, rounds = time.monotonic() + seconds, 0
    while not rounds or until(end_s):
        fleet.groq.behave(*answers)
        pause(seconds / 4)
        rounds += 1
    fleet.groq.behave()
    return f"{rounds} rounds of 500, 503, 429, 400 and answers that break off"
