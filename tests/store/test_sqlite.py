"""What is SQLite's own: the URI, the schema's version, and everything that a disk does (A80)."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import textwrap
import threading
from contextlib import AbstractContextManager
from pathlib import Path
from time import monotonic

import pytest

from authz.errors import ConfigError, StoreUnavailable
from authz.model import Meter
from authz.quota.ledger import Held, Hold
from authz.store import SqliteStore, open_store
from authz.store.database import Options, parse_uri
from tests.store.builders import NOW, actual, charge, hold
from tests.store.places import FilePlace

WAIT_S = 0.1


def some() -> Hold:
    return hold(charge(Meter.TOKENS, 1, 10_000))


def execute(store: SqliteStore, statement: str) -> None:
    """On the store's own connection, outside a transaction."""
    connection = store._decisions._connection
    assert connection is not None
    connection.execute(statement)


def unavailable(reason: str) -> AbstractContextManager[object]:
    return pytest.raises(StoreUnavailable, match=rf"^sqlite: {reason}$")


def check_refuses(store: SqliteStore, reason: str) -> None:
    """Refused with a reason, for every kind of write, and nothing is half done."""
    before = store.balances()
    for write in (
        lambda: store.reserve(some(), NOW),
        lambda: store.settle("kept", actual(tokens=1), NOW),
        lambda: store.void("kept", NOW),
    ):
        with unavailable(reason):
            write()
    assert store.balances() == store.replay() == before


def check_works(store: SqliteStore) -> None:
    before = store.balances()
    assert isinstance(store.reserve(some(), NOW), Held)
    assert store.balances() == store.replay() != before


@pytest.mark.parametrize(
    ("uri", "options"),
    [
        ("sqlite:///authz.db", Options("authz.db")),
        ("sqlite:///var/a%20b.db", Options("var/a b.db")),
        ("sqlite:////var/authz.db", Options("/var/authz.db")),
        ("sqlite:///:memory:", Options(":memory:")),
        ("sqlite:////var/authz.db?synchronous=full", Options("/var/authz.db", "full")),
    ],
)
def test_uris(uri: str, options: Options) -> None:
    assert parse_uri(uri) == options


@pytest.mark.parametrize("uri", ["", "authz.db", "sqlite://authz.db", "sqlite:///", "redis://localhost", "sqlite:///a?mode=ro"])
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(ValueError, match=r"^found .*, expected `s"):
        open_store(uri)


def test_the_file_is_its_owners_and_folders_are_made(tmp_path: Path) -> None:
    store = open_store(f"sqlite:///{tmp_path}/var/lib/authz.db")
    check_works(store)
    for path in (tmp_path / "var/lib").iterdir():
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
    store.close()


def test_modes(file: FilePlace) -> None:
    for query, level in (("", 1), ("?synchronous=full", 2)):
        store = open_store(file.uri + query)
        found = store._decisions.read(
            lambda each: [each.execute(f"PRAGMA {name}").fetchone()[0] for name in ("journal_mode", "synchronous")]
        )
        assert found == ["wal", level]
        store.close()


def test_a_newer_store_is_refused(file: FilePlace) -> None:
    file.open().close()
    with sqlite3.connect(file.path) as connection:
        connection.execute("PRAGMA user_version=99")
    connection.close()
    with pytest.raises(ConfigError, match="schema version 99, expected at most 1: a newer authz has used this store"):
        file.open()


@pytest.mark.parametrize("version", [0, 1])
def test_a_file_of_another_program_is_refused(file: FilePlace, version: int) -> None:
    file.path.parent.mkdir()
    with sqlite3.connect(file.path) as connection:
        connection.execute("CREATE TABLE theirs (id INTEGER)")
        connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    with pytest.raises(ConfigError, match="a SQLite file of another program"):
        file.open()


def test_several_processes_may_start_at_once(file: FilePlace) -> None:
    failures: list[BaseException] = []

    def start() -> None:
        try:
            check = open_store(file.uri)
            check.close()
        except BaseException as error:  # noqa: BLE001  # handed to the test's own thread
            failures.append(error)

    threads = [threading.Thread(target=start) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


def fill(store: SqliteStore) -> None:
    for _ in range(10_000):
        store.reserve(some(), NOW)


def test_disk_full(file: FilePlace) -> None:
    store = file.open()
    store.reserve(hold(charge(Meter.TOKENS, 1, 10_000), id="kept"), NOW)
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
    root = Path(__file__).parents[2]
    said = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)], cwd=root, capture_output=True, text=True, timeout=60, check=False
    )
    assert said.stderr == ""
    assert said.stdout.strip() in ("sqlite: disk full", "sqlite: input/output error")


def test_read_only(file: FilePlace) -> None:
    store = file.open()
    store.reserve(hold(charge(Meter.TOKENS, 1, 10_000), id="kept"), NOW)
    for write in (lambda: store.reserve(some(), NOW), lambda: store.void("kept", NOW)):
        # Permissions do not bind root; this is the same refusal from the same place.
        execute(store, "PRAGMA query_only=ON")
        before = store.balances()
        with unavailable("read-only"):
            write()
        assert store.balances() == store.replay() == before
        check_works(store)  # a new connection looks again


def test_locked_by_another_process(file: FilePlace) -> None:
    file.open().reserve(hold(charge(Meter.TOKENS, 1, 10_000), id="kept"), NOW)
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


def test_closed(file: FilePlace) -> None:
    store = file.open()
    store.close()
    store.close()
    for use in (lambda: store.reserve(some(), NOW), lambda: store.usage("", "9"), lambda: store.keys_since(0)):
        with unavailable("closed"):
            use()


def test_an_exception_in_the_work_leaves_nothing(file: FilePlace) -> None:
    store = file.open()

    def work(connection: sqlite3.Connection) -> None:
        connection.execute("DELETE FROM counters")
        raise KeyboardInterrupt

    check_works(store)
    before = store.balances()
    with pytest.raises(KeyboardInterrupt):
        store._decisions.write(work)
    assert store.balances() == before
    check_works(store)
