"""What a disk does to the embedded store (A80): denied with a reason, nothing half done, and well again by itself."""

from __future__ import annotations

import shutil
import sqlite3
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from time import monotonic

import pytest

from authz.model import Meter
from authz.store import database
from authz.store.sqlite import SqliteStore, open_store
from tests.store.builders import NOW, actual, charge, hold
from tests.store.places import FilePlace
from tests.store.test_sqlite import check_works, some, unavailable

WAIT_S = 0.1
NOBODY = 65_534
ROOT = Path(__file__).parents[2]


def execute(store: SqliteStore, statement: str) -> None:
    """On the store's own connection, outside a transaction."""
    connection = store._decisions._connection
    assert connection is not None
    connection.execute(statement)


def check_refuses(store: SqliteStore, reason: str) -> None:
    """Refused with a reason, for every kind of write, and nothing is half done."""
    before = store.balances()
    budget = charge(Meter.SPEND, 0, 100)
    for write in (
        lambda: store.reserve(some(), NOW),
        lambda: store.settle("kept", actual(tokens=1), NOW),
        lambda: store.void("kept", NOW),
        lambda: store.raise_limit("r", budget, 1, "ann", "why", NOW),
    ):
        with unavailable(reason):
            write()
    assert store.balances() == store.replay() == before
    assert store.raises(0) == ()


def keep(store: SqliteStore) -> None:
    store.reserve(hold(charge(Meter.TOKENS, 1, 10_000), id="kept"), NOW)


def fill(store: SqliteStore) -> None:
    for _ in range(10_000):
        store.reserve(some(), NOW)


def test_disk_full(file: FilePlace) -> None:
    store = file.open()
    keep(store)
    execute(store, "PRAGMA max_page_count=1")  # never below what there is: no page can be added
    with unavailable("disk full"):
        fill(store)
    before = store.balances()
    assert store.replay() == before
    with unavailable("disk full"):
        store.reserve(some(), NOW)
    assert store.balances() == before
    execute(store, "PRAGMA max_page_count=1000000")
    check_works(store)


def test_disk_full_as_the_kernel_says_it(file: FilePlace) -> None:
    """A file that may not grow: the write itself fails, in the middle of a commit."""
    program = f"""
        import resource
        from authz.errors import StoreUnavailable
        from authz.store import open_store
        from tests.store.test_sqlite import check_works, some
        from tests.store.builders import NOW
        store = open_store("{file.uri}")
        check_works(store)
        resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, resource.RLIM_INFINITY))
        for number in range(10_000):
            before = store.balances()
            try:
                store.reserve(some(), NOW)
            except StoreUnavailable as error:
                print(error)
                break
        assert store.balances() == store.replay() == before
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        check_works(store)
        store.close()
    """
    assert run(program) in ("sqlite: disk full", "sqlite: input/output error")


def test_read_only(file: FilePlace) -> None:
    store = file.open()
    keep(store)
    for write in (lambda: store.reserve(some(), NOW), lambda: store.void("kept", NOW)):
        # Permissions do not bind root; this is the same refusal from the same place.
        execute(store, "PRAGMA query_only=ON")
        before = store.balances()
        with unavailable("read-only"):
            write()
        assert store.balances() == store.replay() == before
        check_works(store)  # a new connection looks again


def test_locked_by_another_process(file: FilePlace) -> None:
    keep(file.open())
    store = open_store(file.uri, wait_s=WAIT_S)
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    began = monotonic()
    check_refuses(store, "locked")
    assert monotonic() - began < 3 * WAIT_S + 1
    assert store.find("kept") is not None  # reading goes on
    other.execute("ROLLBACK")
    other.close()
    check_works(store)
    store.close()


def test_locked_by_another_thread() -> None:
    store = open_store("sqlite:///:memory:", wait_s=WAIT_S)
    inside, leave = threading.Event(), threading.Event()

    def occupy(connection: sqlite3.Connection) -> None:
        inside.set()
        leave.wait()

    thread = threading.Thread(target=store._decisions.write, args=(occupy,))
    thread.start()
    inside.wait()
    with unavailable("locked by another thread"):
        store.reserve(some(), NOW)
    leave.set()
    thread.join()
    check_works(store)
    store.close()


def test_corrupt(file: FilePlace) -> None:
    file.open().close()
    good = file.path.read_bytes()
    file.path.write_bytes(b"not a database" * 1_000)
    with unavailable("corrupt"):
        file.open()
    file.path.write_bytes(good)
    check_works(file.open())


def test_a_place_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with unavailable("cannot be opened"):
        open_store(f"sqlite:///{tmp_path}/file/authz.db")


def run(program: str) -> str:
    """What a process of its own says."""
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=ROOT, capture_output=True, text=True, timeout=60, check=False
    )
    assert said.stderr == ""
    return said.stdout.strip()


def test_read_only_as_the_kernel_says_it(file: FilePlace) -> None:
    """Permissions do not bind root, so another user is asked: first without the right to write, then with it."""
    store = file.open()
    keep(store)
    store.close()
    said = run(f"""
        import os
        from authz.errors import StoreUnavailable
        from authz.store import open_store
        from tests.store.test_sqlite import check_works
        path = "{file.path}"
        for parent in ("{file.path.parent.parent}", "{file.path.parent}"):
            os.chmod(parent, 0o755)
        os.chmod(path, 0o444)
        if os.getuid() == 0:
            os.chown(path, {NOBODY}, {NOBODY})
            os.chown("{file.path.parent}", {NOBODY}, {NOBODY})
            os.setresuid({NOBODY}, {NOBODY}, {NOBODY})
        os.chmod("{file.path.parent}", 0o555)
        for _ in range(2):
            try:
                open_store("{file.uri}")
            except StoreUnavailable as error:
                print(error)
        os.chmod("{file.path.parent}", 0o755)
        os.chmod(path, 0o600)
        store = open_store("{file.uri}")
        assert store.find("kept") is not None
        check_works(store)
        store.close()
    """)
    assert set(said.splitlines()) <= {"sqlite: read-only", "sqlite: cannot be opened"}
    assert len(said.splitlines()) == 2


def companions(path: Path) -> list[Path]:
    return sorted(path.parent.glob("authz.db*"))


@pytest.mark.parametrize("log_too", [True, False])
def test_a_file_that_is_moved_away(file: FilePlace, log_too: bool) -> None:
    """Nobody is let through on a file that nobody will read again, and no empty one takes its place."""
    store = file.open()
    keep(store)
    before = store.balances()
    away = file.path.parent / "away"
    away.mkdir()
    for path in companions(file.path) if log_too else [file.path]:
        path.rename(away / path.name)
    for use in (
        lambda: store.reserve(some(), NOW),
        lambda: store.settle("kept", actual(tokens=1), NOW),
        lambda: store.find("kept"),
        store.balances,
        store.checkpoint,
        lambda: store.reserve(some(), NOW),
    ):
        with unavailable("the file is gone"):
            use()
    assert not file.path.exists()
    for path in companions(away / file.path.name):
        path.rename(file.path.parent / path.name)
    assert store.balances() == store.replay() == before
    check_works(store)


def test_a_file_that_is_replaced_by_a_copy_is_taken_up(file: FilePlace) -> None:
    store = file.open()
    keep(store)
    store.checkpoint()
    copy = file.path.with_name("copy")
    shutil.copy(file.path, copy)
    store.reserve(hold(charge(Meter.TOKENS, 1, 10_000), id="later"), NOW)
    for path in companions(file.path):
        path.unlink()
    copy.rename(file.path)
    assert store.find("kept") is not None
    assert store.find("later") is None
    check_works(store)
    assert file.open().balances() == store.balances()


def test_a_file_that_is_deleted_stays_deleted(file: FilePlace) -> None:
    store = file.open()
    keep(store)
    for path in companions(file.path):
        path.unlink()
    for _ in range(3):
        with unavailable("the file is gone"):
            store.reserve(some(), NOW)
    assert companions(file.path) == []


def log_bytes(file: FilePlace) -> int:
    return file.path.with_name("authz.db-wal").stat().st_size


def test_a_checkpoint_moves_the_log_into_the_file_while_others_work(file: FilePlace) -> None:
    store = open_store(file.uri, wait_s=WAIT_S)
    for _ in range(200):
        store.reserve(some(), NOW)
    size = file.path.stat().st_size
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store.checkpoint()  # waits for nobody
    other.execute("ROLLBACK")
    other.close()
    assert file.path.stat().st_size > size
    grown = log_bytes(file)
    for _ in range(50):
        for _ in range(20):
            store.reserve(some(), NOW)
        store.checkpoint()
    assert log_bytes(file) <= grown + 200_000  # used again from its start
    assert store.balances() == store.replay()
    store.close()


def test_without_a_checkpoint_the_log_is_bounded_all_the_same(file: FilePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    assert database._WAL_PAGES * 4096 == 64 * 2**20
    monkeypatch.setattr(database, "_WAL_PAGES", 100)
    store = file.open()
    for _ in range(1_000):
        store.reserve(some(), NOW)
    assert log_bytes(file) < 2 * 100 * 4_200
    assert store.balances() == store.replay()


def test_a_checkpoint_of_what_is_in_memory_is_nothing() -> None:
    store = open_store("sqlite:///:memory:")
    store.checkpoint()
    check_works(store)
    store.close()


def test_deadline_holds_whatever_is_asked(file: FilePlace) -> None:
    """Each operation ends within what it may wait for, not only the first."""
    keep(file.open())
    store = open_store(file.uri, wait_s=WAIT_S)
    other = sqlite3.connect(file.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    for _ in range(5):
        began = monotonic()
        with unavailable("locked"):
            store.reserve(some(), NOW)
        assert monotonic() - began < WAIT_S + 0.5
    other.close()
    check_works(store)
    store.close()
