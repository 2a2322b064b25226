"""A SQLite file: how it is opened, how a transaction runs on it, and what its errors mean.

WAL, so that reports read while decisions write, and `synchronous=NORMAL`: a commit reaches the operating system, so that the
end of the process (`kill -9`, out of memory) loses nothing and corrupts nothing. The end of the machine may roll the last
commits back, by as much as the kernel had not written; who must not lose these either sets `synchronous=full`, which costs an
fsync for each decision.

One connection behind one lock, for all threads. Four threads that did nothing but reserve got 5,900 a second from one
connection and 7,100 from one each, but then some were refused as locked: between connections there is only SQLite's busy
handler, which sleeps, while a mutex wakes whoever is next. Between processes there is no choice.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.resources import files
from typing import Any, Final, Literal, TypeVar
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from authz.errors import ConfigError, StoreUnavailable

T = TypeVar("T")
Connection = sqlite3.Connection
Work = Callable[[Connection], T]

SCHEMA_VERSION: Final = 3
APPLICATION_ID: Final = 0x61757468  # "auth"
MEMORY: Final = ":memory:"
_OPEN_ATTEMPTS: Final = 100
_OPEN_PAUSE_S: Final = 0.01
_WAL_PAGES: Final = 16_384
"""How far the log grows (64 MiB) before a commit has to move it into the file by itself: only where nobody called `checkpoint`
for long. SQLite's own thousand pages would let one decision in every few hundred wait for the disk."""
_BUSY_S: Final = 0.01
"""What SQLite's busy handler gets at a time. Its sleeps grow to 100 ms, and who sleeps that long is overtaken again and again:
begun anew each time, they stay at 5 ms."""

_AT_A_TIME: Final = 256
"""Parameters of one statement, and statements of one kind that are kept."""

_REASONS: Final = {
    "SQLITE_BUSY": "locked",
    "SQLITE_LOCKED": "locked",
    "SQLITE_FULL": "disk full",
    "SQLITE_READONLY": "read-only",
    "SQLITE_PERM": "no permission",
    "SQLITE_CORRUPT": "corrupt",
    "SQLITE_NOTADB": "corrupt",
    "SQLITE_CANTOPEN": "cannot be opened",
    "SQLITE_IOERR": "input/output error",
}
_GONE: Final = "the file is gone"
_REOPEN: Final = frozenset({"read-only", "no permission", "corrupt", "cannot be opened", "input/output error"})
"""After these a new connection may find things in order where the old one would not look again."""


class Options(Struct, frozen=True):
    """Where and how.

    path         `:memory:` for a store that ends with the process and is shared by its threads
    synchronous  `normal` or `full`, as explained above
    wait_s       the longest that an operation waits for others, threads and processes together
    """

    path: str
    synchronous: Literal["normal", "full"] = "normal"
    wait_s: float = 0.25


def parse_uri(uri: str, *, wait_s: float = 0.25) -> Options:
    """`sqlite:///relative.db`, `sqlite:////absolute.db`, `sqlite:///:memory:`; `?synchronous=full` may follow."""
    scheme, separator, rest = uri.partition(":///")
    path, _, query = rest.partition("?")
    if scheme != "sqlite" or not separator or not path:
        raise ValueError(f"found `{uri}`, expected `sqlite:///file.db`, `sqlite:////absolute/file.db` or `sqlite:///:memory:`")
    options = Options(path=unquote(path), wait_s=wait_s)
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name != "synchronous" or value not in ("normal", "full"):
            raise ValueError(f"found `{name}={value}` in `{uri}`, expected `synchronous=normal` or `synchronous=full`")
        options = Options(path=options.path, synchronous="full" if value == "full" else "normal", wait_s=wait_s)
    return options


class Database:
    """One connection that threads take turns on. Open it after a fork, not before.

    Every `sqlite3.Error` leaves here as `StoreUnavailable`, with the transaction rolled back.

    undone  is called, before anybody else's turn, after a transaction that was not committed
    """

    def __init__(self, options: Options, *, undone: Callable[[], None] = lambda: None) -> None:
        self.options: Final = options
        self._undone = undone
        # Half for the other threads, half for the other processes: never more than the whole together.
        self._wait_s = options.wait_s / 2
        self._lock = threading.Lock()
        self._closed = False
        self._connection: Connection | None = None
        self._identity: tuple[int, int] | None = None
        self.read(lambda connection: None)

    def write(self, work: Work[T]) -> T:
        """Runs `work` in a transaction that holds the write lock from its start: what it reads stays true until it commits."""
        return self._run("BEGIN IMMEDIATE", work)

    def read(self, work: Work[T]) -> T:
        """Runs `work` on one snapshot."""
        return self._run("BEGIN", work)

    def checkpoint(self) -> None:
        """Moves what stands in the log into the file, as far as nobody reads it, while others go on reading and writing."""
        if self.options.path != MEMORY:
            self._run("", lambda connection: connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall())

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._drop()

    def _run(self, begin: str, work: Work[T]) -> T:
        if not self._lock.acquire(blocking=False) and not self._lock.acquire(timeout=self._wait_s):
            raise StoreUnavailable("sqlite: locked by another thread")
        try:
            connection = self._current()
            if not begin:
                return work(connection)
            self._begin(connection, begin)
            result = work(connection)
            connection.execute("COMMIT")
            return result
        except sqlite3.Error as error:
            self._roll_back()
            reason = _reason(error)
            if reason in _REOPEN and self.options.path != MEMORY:
                self._drop()
            raise StoreUnavailable(f"sqlite: {reason}") from error
        except BaseException:
            self._roll_back()
            raise
        finally:
            self._lock.release()

    def _current(self) -> Connection:
        """The open connection, as long as its file is the one that stands under the path.

        A file that was deleted or replaced can still be written to, and nobody would ever read it again. One that is gone is
        not made anew either: with an empty store everybody would have the whole of every budget once more.
        """
        path = self.options.path
        if path != MEMORY and self._identity is not None:
            identity = _identity(path)
            if identity != self._identity:
                self._drop()
                if identity is None:
                    raise StoreUnavailable(f"sqlite: {_GONE}")
        return self._connection or self._open()

    def _begin(self, connection: Connection, begin: str) -> None:
        for attempt in range(attempts := max(1, round(self._wait_s / _BUSY_S))):
            try:
                connection.execute(begin)
                return
            except sqlite3.OperationalError as error:
                if _reason(error) != "locked" or attempt == attempts - 1:
                    raise

    def _roll_back(self) -> None:
        self._undone()
        if self._connection is not None and self._connection.in_transaction:
            try:
                self._connection.execute("ROLLBACK")
            except sqlite3.Error:
                self._drop()  # closing it rolls back as well

    def _drop(self) -> None:
        if self._connection is not None:
            with suppress(sqlite3.Error):
                self._connection.close()
            self._connection = None

    def _open(self) -> Connection:
        if self._closed:
            raise StoreUnavailable("sqlite: closed")
        path = self.options.path
        if path != MEMORY:
            _create_private(path)
        # Whoever starts may find others starting or leaving, who need the file alone for a moment; nobody waits for it yet.
        attempts = _OPEN_ATTEMPTS if self._identity is None else max(1, round(self._wait_s / (_OPEN_PAUSE_S + _BUSY_S)))
        while (connection := _connect(self.options, last=attempts <= 1)) is None:
            attempts -= 1
            threading.Event().wait(_OPEN_PAUSE_S)
        self._connection = connection
        self._identity = _identity(path) if path != MEMORY else None
        return connection


def select_in(connection: Connection, statement: str, values: Sequence[str]) -> Iterator[Any]:
    """The rows of a `SELECT … WHERE column` for any of the values: by one statement, since a statement costs more than what it
    looks up, or by as many as take that many parameters."""
    for begin in range(0, len(values), _AT_A_TIME):
        some = values[begin : begin + _AT_A_TIME]
        yield from connection.execute(_with_parameters(statement, len(some)), some)


@lru_cache(maxsize=4 * _AT_A_TIME)
def _with_parameters(statement: str, count: int) -> str:
    return f"{statement} IN ({', '.join('?' * count)})"


def _connect(options: Options, *, last: bool) -> Connection | None:
    """None where the file is locked and this was not the last attempt."""
    connection = sqlite3.connect(options.path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
    try:
        _prepare(connection, options)
        return connection
    except BaseException as error:
        connection.close()
        if not last and isinstance(error, sqlite3.OperationalError) and _reason(error) == "locked":
            return None
        raise


def _identity(path: str) -> tuple[int, int] | None:
    """Which file stands under the path; None for none that can be seen."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _create_private(path: str) -> None:
    """Makes the file for its owner only: who may use a key stands in it. SQLite gives the log beside it the same mode."""
    with suppress(OSError):  # whatever stands in the way, SQLite meets it next and says so
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        # INVARIANT: a file that exists is never opened here. Closing any descriptor of it gives up all POSIX locks that this
        # process holds on it, SQLite's too; the next process to leave would then take the log away from under us.
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))


def _prepare(connection: Connection, options: Options) -> None:
    if options.path != MEMORY:
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        if mode != "wal":
            connection.execute("PRAGMA journal_mode=WAL")  # needs the file alone, and does not wait for it
        connection.execute(f"PRAGMA wal_autocheckpoint={_WAL_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit={_WAL_PAGES * 4096}")
    connection.execute("PRAGMA synchronous=FULL" if options.synchronous == "full" else "PRAGMA synchronous=NORMAL")
    if _version(connection) == 0:
        connection.execute("BEGIN IMMEDIATE")
        if _version(connection) == 0:  # another process may have been faster
            if connection.execute("SELECT 1 FROM sqlite_schema").fetchone():
                raise ConfigError(options.path, "a SQLite file of another program, expected one of authz or none yet")
            _create(connection)
        connection.execute("COMMIT")
    version = _version(connection)
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION_ID:
        raise ConfigError(options.path, "a SQLite file of another program, expected one of authz or none yet")
    if version != SCHEMA_VERSION:
        problem = f"schema version {version}, expected {SCHEMA_VERSION}: another version of authz has made this store"
        raise ConfigError(options.path, problem)


def _version(connection: Connection) -> int:
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return int(version)


def _create(connection: Connection) -> None:
    statement = ""
    for line in files("authz.store").joinpath("schema.sql").read_text("utf-8").splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            connection.execute(statement)
            statement = ""
    # A pragma takes no parameters; these are constants of ours.
    connection.execute(f"PRAGMA application_id={APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")


def _reason(error: sqlite3.Error) -> str:
    """SQLite's error in a word or two; extended codes (`SQLITE_IOERR_WRITE`) fall under their family."""
    name = getattr(error, "sqlite_errorname", "")
    family = "_".join(name.split("_")[:2])
    return _REASONS.get(family, str(error).lower().rstrip("."))
