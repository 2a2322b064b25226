"""`kill -9` at random moments: nothing that was acknowledged is lost, and the books agree (promise 4, I3, I7).

    python -m tests.store.crash --rounds 200

Each round a child reserves and settles as fast as it can and prints what the store has acknowledged; it is killed after a
random number of lines, somewhere in its work, and the file it leaves is read again. All rounds go on in one file.
"""

from __future__ import annotations

import argparse
import random
import subprocess
import sys
import tempfile
from itertools import count
from pathlib import Path

from authz.model import Meter
from authz.quota.ledger import Held, State
from authz.store import open_store
from tests.store.builders import NOW, actual, charge, hold

LIMIT = 2**50
_ROOT = Path(__file__).parents[2]


def child(uri: str, life: str) -> None:
    store = open_store(uri)
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


def run(rounds: int, chance: random.Random) -> int:
    """Answers how many acknowledgements were checked; raises `AssertionError` at the first that does not hold."""
    acknowledged: dict[str, str] = {}
    with tempfile.TemporaryDirectory(prefix="authz-crash-") as folder:
        uri = f"sqlite:///{folder}/authz.db"
        for life in range(rounds):
            said = _live_and_die(uri, f"life{life}", chance.randint(1, 400))
            assert said, "the child died by itself"
            _check(uri, said)
            acknowledged |= said
        _check(uri, acknowledged)
    return len(acknowledged)


def _live_and_die(uri: str, life: str, lines: int) -> dict[str, str]:
    """The last state acknowledged of each reservation."""
    command = [sys.executable, "-m", "tests.store.crash", "--child", uri, life]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=_ROOT) as process:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(lines)]
        process.kill()
        said += process.stdout.readlines()
    acknowledged = {}
    for line in said:
        if line.endswith("\n"):  # the last one may be torn
            state, name = line.split()
            acknowledged[name] = state
    return acknowledged


def _check(uri: str, acknowledged: dict[str, str]) -> None:
    store = open_store(uri)
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
    parser.add_argument("--child", nargs=2, metavar=("URI", "LIFE"))
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child)
    else:
        checked = run(arguments.rounds, random.Random(arguments.seed))
        sys.stdout.write(
            f"{arguments.rounds} rounds, {checked} acknowledged reservations, none lost, balances equal the journal\n"
        )


if __name__ == "__main__":
    main()
