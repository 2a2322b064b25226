"""A65: 1,000 concurrent reservations of 0.10 USD against 5 USD admit exactly 50; and what a kill leaves (promise 4)."""

from __future__ import annotations

import random
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from authz.quota.ledger import State
from authz.store import Store
from tests.store import crash
from tests.store.builders import NOW, actual
from tests.store.places import FilePlace, RedisPlace
from tests.store.spender import USD, admitted, ten_cents

ROOT = Path(__file__).parents[2]


def check_books(store: Store) -> None:
    balances = store.balances()
    assert balances == store.replay()
    assert sum(sum(cell) for cell in balances["spend"].values()) == 5 * USD
    assert sum(sum(cell) for cell in balances["requests"].values()) == 50


def test_in_threads(store: Store) -> None:
    with ThreadPoolExecutor(16) as pool:
        taken = list(pool.map(lambda number: admitted(store, ten_cents(f"r{number}")), range(1_000)))
    assert sum(taken) == 50
    check_books(store)


def spend_in_processes(uri: str, how_many: int) -> int:
    """How many of 1,000 were admitted."""
    command = [sys.executable, "-m", "tests.store.spender", uri]
    times = str(1_000 // how_many)
    processes = [
        subprocess.Popen([*command, f"p{number}", times], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT)
        for number in range(how_many)
    ]
    for process in processes:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return sum(int(process.communicate(timeout=60)[0]) for process in processes)


def test_in_four_processes_on_one_file(file: FilePlace) -> None:
    assert spend_in_processes(file.uri, 4) == 50
    check_books(file.open())


def test_in_two_services_on_one_redis() -> None:
    """Here the server's own time counts."""
    place = RedisPlace()
    assert spend_in_processes(place.uri, 2) == 50
    check_books(place.open())
    place.close()


def test_one_end_whoever_reports_it(store: Store) -> None:
    """I2, A68: a settlement, a void and an expiry race; one of them takes effect."""
    for number in range(30):
        name = f"r{number}"
        assert admitted(store, ten_cents(name))
        with ThreadPoolExecutor(8) as pool:
            racing = [pool.submit(store.settle, name, actual(spend=1, requests=1), NOW) for _ in range(4)]
            racing += [pool.submit(store.void, name, NOW) for _ in range(4)]
            changes = [future.result() for future in racing]
        assert [change.changed for change in changes].count(True) == 1
        found = store.find(name)
        assert found is not None
        assert found.state in (State.SETTLED, State.VOIDED)
    assert store.balances() == store.replay()


def test_a_kill_loses_nothing_that_was_acknowledged() -> None:
    """The long run: `python -m tests.store.crash --rounds 200`."""
    assert crash.run(8, random.Random(7), crash.EmbeddedStore()) > 0


def test_a_kill_of_the_server_or_its_client_loses_nothing_that_was_acknowledged() -> None:
    """The long run: `python -m tests.store.crash --rounds 200 --store redis`."""
    assert crash.run(8, random.Random(7), crash.SharedStore()) > 0
