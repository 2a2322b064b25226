"""What is SQLite's own: the URI, the schema's version, the file and its log. What a disk does to it is in `test_faults`."""

from __future__ import annotations

import sqlite3
import stat
import threading
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from authz.errors import ConfigError, StoreUnavailable
from authz.model import Meter
from authz.quota.ledger import Held, Hold
from authz.store.database import Options, parse_uri
from authz.store.sqlite import SqliteStore, open_store
from tests.store.builders import NOW, charge, hold
from tests.store.places import FilePlace


def some() -> Hold:
    return hold(charge(Meter.TOKENS, 1, 10_000))


def unavailable(reason: str) -> AbstractContextManager[object]:
    return pytest.raises(StoreUnavailable, match=rf"^sqlite: {reason}$")


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


@pytest.mark.parametrize("version", [1, 99])
def test_a_store_of_another_version_is_refused(file: FilePlace, version: int) -> None:
    file.open().close()
    with sqlite3.connect(file.path) as connection:
        connection.execute(f"PRAGMA user_version={version}")
    connection.close()
    with pytest.raises(
        ConfigError, match=f"schema version {version}, expected 3: another version of authz has made this store"
    ):
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
