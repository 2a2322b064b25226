"""`kill -9` at random moments: nothing that was acknowledged is lost, and the books agree (promise 4, I3, I7).

    python -m tests.store.crash --rounds 200 --store sqlite
    python -m tests.store.crash --rounds 200 --store redis

Each round a child reserves and settles as fast as it can and prints what the store has acknowledged. After a random number of
lines somebody is killed somewhere in the work: with SQLite the child, which is the store; with Redis the server or the child,
by turns. What is left is read again. All rounds go on with the same data.

Redis runs with `appendfsync always`. With `everysec` an answer may be out before its entry has reached the kernel (Redis waits
up to two seconds with the write while a sync is under way), and a `kill -9` then does lose it: about one round in fifty.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Protocol

from authz.errors import StoreUnavailable
from authz.model import Meter
from authz.quota.ledger import Held, State
from authz.store import open_store
from tests.store.builders import NOW, actual, charge, hold
from tests.store.redis_server import AOF, RedisServer

LIMIT = 2**50
WAIT_S = 20
_ROOT = Path(__file__).parents[2]


class Victim(Protocol):
    """A place with a store on it, and somebody to kill."""

    @property
    def uri(self) -> str: ...

    def strike(self, child: subprocess.Popen[str]) -> None: ...

    def recover(self) -> None: ...

    def close(self) -> None: ...


class EmbeddedStore:
    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="authz-crash-")
        self.uri = f"sqlite:///{self._folder.name}/authz.db"

    def strike(self, child: subprocess.Popen[str]) -> None:
        child.kill()

    def recover(self) -> None:
        pass

    def close(self) -> None:
        self._folder.cleanup()


class SharedStore:
    def __init__(self) -> None:
        self._server = RedisServer(*AOF, "--appendfsync", "always")
        self._strikes = count()
        self.uri = self._server.uri

    def strike(self, child: subprocess.Popen[str]) -> None:
        if next(self._strikes) % 4 == 3:
            child.kill()
        else:
            self._server.kill()  # the child ends by itself, with the answer that it was waiting for unknown

    def recover(self) -> None:
        self._server.kill()
        self._server.start()

    def close(self) -> None:
        self._server.close()


def child(uri: str, life: str) -> None:
    store = open_store(uri, wait_s=WAIT_S)
    for number in count():
        name, now_ns = f"{life}-{number}", NOW + number * 1_000_000
        wanted = hold(charge(Meter.SPEND, 10, LIMIT), charge(Meter.TOKENS, 5, LIMIT), id=name)
        assert isinstance(store.reserve(wanted, now_ns), Held)
        _say(State.PENDING, name)
        if number % 3 == 0:
            store.settle(name, actual(spend=7, tokens=2), now_ns)
            _say(State.SETTLED, name)
        elif number % 3 == 1:
            store.void(name, now_ns)
            _say(State.VOIDED, name)


def _say(state: State, name: str) -> None:
    sys.stdout.write(f"{state.value} {name}\n")
    sys.stdout.flush()


def run(rounds: int, chance: random.Random, victim: Victim) -> int:
    """Answers how many acknowledgements were checked; raises `AssertionError` at the first that does not hold."""
    acknowledged: dict[str, str] = {}
    try:
        for life in range(rounds):
            said = _live_and_die(victim, f"life{life}", chance.randint(1, 400))
            assert said, "the child died by itself"
            victim.recover()
            _check(victim.uri, said)
            acknowledged |= said
        _check(victim.uri, acknowledged)
    finally:
        victim.close()
    return len(acknowledged)


def _live_and_die(victim: Victim, life: str, lines: int) -> dict[str, str]:
    """The last state acknowledged of each reservation."""
    command = [sys.executable, "-m", "tests.store.crash", "--child", victim.uri, life]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        victim.strike(process)
        said += process.stdout.readlines()
    acknowledged = {}
    for line in said:
        if line.endswith("\n"):  # the last one may be torn
            state, name = line.split()
            acknowledged[name] = state
    return acknowledged


def _check(uri: str, acknowledged: dict[str, str]) -> None:
    store = open_store(uri, wait_s=WAIT_S)
    try:
        for name, state in acknowledged.items():
            found = store.find(name)
            assert found is not None, f"{name} is lost"
            # What came after the last acknowledgement may have been written as well, or not.
            assert found.state.value == state or state == State.PENDING.value, f"{name}: {state} became {found.state.value}"
        assert store.balances() == store.replay()
    finally:
        store.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="kill -9 at random moments")
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--store", choices=("sqlite", "redis"), default="sqlite")
    parser.add_argument("--child", nargs=2, metavar=("URI", "LIFE"))
    arguments = parser.parse_args()
    if arguments.child:
        with suppress(StoreUnavailable):  # the server was struck
            child(*arguments.child)
        return
    victim = EmbeddedStore() if arguments.store == "sqlite" else SharedStore()
    checked = run(arguments.rounds, random.Random(arguments.seed), victim)
    sys.stdout.write(f"{arguments.rounds} rounds, {checked} acknowledged reservations, none lost, balances equal the journal\n")


if __name__ == "__main__":
    main()
