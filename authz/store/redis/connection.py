"""One Redis: how it is found and reached, until when it may answer, and what its errors mean.

All keys of a store carry one hash tag, so that even a cluster is one server to us: the primary of one slot. It is looked up
(asked of a sentinel, or of any node of the cluster) when there is no connection yet, and again after an error that says that it
may have moved. Such a call is repeated once, at once, within the same deadline; every script can bear to be run twice (what is
learned may then count double, and alerts that were claimed are offered again after their lease).

The deadline holds for an operation as a whole: before each read and write a socket gets what is left of it. Only the resolver
of host names knows no deadline.
"""

from __future__ import annotations

import hashlib
import math
import re
import ssl
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from socket import socket
from timeit import default_timer as stopwatch  # measures a span and knows no time of day
from typing import Any, Final

from redis import exceptions as failures
from redis.backoff import NoBackoff
from redis.connection import AbstractConnection, Connection, ConnectionPool, SSLConnection, UnixDomainSocketConnection
from redis.crc import key_slot
from redis.retry import Retry

from authz.errors import StoreUnavailable
from authz.store.redis import scripts
from authz.store.redis.uri import Login, Options, Topology

_MAX_CONNECTIONS: Final = 1024
_SEED_SHARE: Final = 4
"""One sentinel or node that is silent takes a quarter of the deadline at most, so that another one can be asked."""

_REASONS: Final = {
    "READONLY": "read-only",
    "OOM": "out of memory",
    "LOADING": "loading its data",
    "BUSY": "busy with a script",
    "MISCONF": "cannot write to its disk",
    "NOREPLICAS": "too few replicas",
    "MASTERDOWN": "its primary is down",
    "CLUSTERDOWN": "cluster down",
    "MOVED": "slot is moving",
    "ASK": "slot is moving",
    "TRYAGAIN": "slot is moving",
    "NOPERM": "no permission",
    "NOAUTH": "not logged in",
    "WRONGPASS": "wrong user or password",
}
_CODE: Final = re.compile(rf"\b({'|'.join(_REASONS)})\b")
_MOVED: Final = ("read-only", "slot is moving", "its primary is down", "cluster down")
"""After these it may be another server that answers for us now."""


class _Deadline(threading.local):
    """Of the operation that this thread is in."""

    at = math.inf

    def left_s(self) -> float:
        return self.at - stopwatch()


_deadline: Final = _Deadline()


class _BoundedSocket:
    """A socket that takes no longer than its own time-out and what is left of the deadline."""

    def __init__(self, inner: socket) -> None:
        self._inner, self._limit_s = inner, inner.gettimeout()

    def settimeout(self, seconds: float | None) -> None:
        self._limit_s = seconds

    def recv(self, *args: Any) -> bytes:
        return self._armed().recv(*args)

    def recv_into(self, *args: Any) -> int:
        return self._armed().recv_into(*args)

    def sendall(self, *args: Any) -> None:
        self._armed().sendall(*args)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def _armed(self) -> socket:
        left_s = _deadline.left_s()
        if self._limit_s == 0:  # only looks whether there is something
            left_s = 0
        elif left_s <= 0:
            raise TimeoutError("the deadline has passed")
        limit_s = left_s if self._limit_s is None else min(left_s, self._limit_s)
        self._inner.settimeout(None if limit_s == math.inf else limit_s)
        return self._inner


class _Bounded(AbstractConnection):
    """What makes a connection of redis-py one whose socket knows the deadline."""

    def _connect(self) -> Any:
        left_s = _deadline.left_s()
        if left_s <= 0:
            raise TimeoutError("the deadline has passed")
        limit_s = self.socket_timeout
        self.socket_connect_timeout = left_s if limit_s is None else min(left_s, limit_s)
        inner = super()._connect()  # type: ignore[safe-super,no-untyped-call]  # the class that this is mixed into has one
        return _BoundedSocket(inner)


class _Tcp(_Bounded, Connection):
    pass


class _Tls(_Bounded, SSLConnection):
    pass


class _Unix(_Bounded, UnixDomainSocketConnection):
    # redis-py asks every connection for them when it tells its own metrics of a failure; without them that is another error.
    host, port = "", 0


class Server:
    """Runs scripts. Safe in threads, each of which has a connection to itself while it needs one; after a fork a child opens
    its own. Every error leaves as `StoreUnavailable`."""

    def __init__(self, options: Options) -> None:
        self._options = options
        tag = hashlib.sha256(options.organisation.encode()).hexdigest()[:16]
        self._prefix = f"authz:{{{tag}}}:"
        self._slot = key_slot(self._prefix.encode())
        self._seeds = list(options.hosts)
        self._lock = threading.Lock()
        self._closed = False
        self._pool: ConnectionPool | None = None
        self._calls: dict[str, _Call] = {}

    def run(self, name: str, *args: str | bytes | int) -> Any:
        """What the script answers: integers, bytes, None, and lists of these."""
        call = self._calls.get(name)
        if call is None:
            call = self._calls[name] = _Call(scripts.load(name), self._prefix)
        with self.within_the_deadline():
            try:
                return self._attempt(call, args)
            except _Again:
                return self._attempt(call, args, last=True)

    @contextmanager
    def within_the_deadline(self) -> Iterator[None]:
        """What happens inside is one operation."""
        outermost = _deadline.at == math.inf
        if outermost:
            _deadline.at = stopwatch() + self._options.wait_s
        try:
            yield
        finally:
            if outermost:
                _deadline.at = math.inf

    def doubt(self) -> None:
        """The next call looks again for the server that has our keys."""
        pool = self._pool
        if pool is not None:
            self._drop(pool)

    def close(self) -> None:
        with self._lock:
            self._closed = True
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.disconnect()

    def _attempt(self, call: _Call, args: Sequence[str | bytes | int], *, last: bool = False) -> Any:
        pool = None
        try:
            pool = self._current_pool()
            return _evaluate(pool, call, args)
        except (failures.RedisError, OSError) as error:
            reason = _reason(error)
            lost = _is_lost(error) or reason in _MOVED
            if lost and pool is not None:
                self._drop(pool)
            if lost and not last and _deadline.left_s() > 0:
                raise _Again from None
            raise StoreUnavailable(f"redis: {reason}") from None

    def _current_pool(self) -> ConnectionPool:
        pool = self._pool
        if pool is not None:
            return pool
        if not self._lock.acquire(timeout=max(0.0, min(_deadline.left_s(), self._options.wait_s))):
            raise TimeoutError
        try:
            if self._closed:
                raise StoreUnavailable("redis: closed")
            if self._pool is None:
                self._pool = self._pool_to(*self._locate())
            return self._pool
        finally:
            self._lock.release()

    def _drop(self, pool: ConnectionPool) -> None:
        with self._lock:
            if self._pool is pool:
                self._pool = None
        pool.disconnect(inuse_connections=False)

    def _locate(self) -> tuple[str, int]:
        """Host and port of the server that has our keys now."""
        match self._options.topology:
            case Topology.SINGLE:
                return self._seeds[0] if self._seeds else ("", 0)
            case Topology.SENTINEL:
                return self._ask_seeds(self._ask_sentinel, self._options.sentinel_login)
            case Topology.CLUSTER:
                return self._ask_seeds(self._ask_node, self._options.login)

    def _ask_seeds(self, ask: Callable[[Any, str], tuple[str, int]], login: Login) -> tuple[str, int]:
        problem: Exception = failures.ConnectionError()
        kind: Any = _connection_class(self._options)  # redis-py is typed in part only
        settings = _settings(self._options, login, self._options.wait_s / _SEED_SHARE)
        for host, port in list(self._seeds):
            connection = kind(host=host, port=port, **settings)
            try:
                connection.connect()
                found = ask(connection, host)
            except (failures.RedisError, OSError) as error:
                problem = error
            else:
                # Whoever knew is asked first the next time.
                self._seeds.remove((host, port))
                self._seeds.insert(0, (host, port))
                return found
            finally:
                with suppress(failures.RedisError, OSError):
                    connection.disconnect()
        raise problem

    def _ask_sentinel(self, connection: Any, _: str) -> tuple[str, int]:
        connection.send_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._options.service)
        found: Any = connection.read_response()
        if not found:
            raise failures.ResponseError(f"no sentinel knows `{self._options.service}`")
        return found[0].decode(), int(found[1])

    def _ask_node(self, connection: Any, host: str) -> tuple[str, int]:
        connection.send_command("CLUSTER", "SLOTS")
        found: Any = connection.read_response()
        for first, last, primary, *_ in found:
            if first <= self._slot <= last:
                return (primary[0] or b"").decode() or host, int(primary[1])
        raise failures.ResponseError("CLUSTERDOWN no node has our slot")

    def _pool_to(self, host: str, port: int) -> ConnectionPool:
        options = self._options
        where: dict[str, Any] = {"path": options.socket} if options.socket else {"host": host, "port": port}
        return ConnectionPool(
            connection_class=_connection_class(options),
            max_connections=_MAX_CONNECTIONS,
            db=options.db,
            **where,
            **_settings(options, options.login, options.wait_s),
        )


class _Again(Exception):
    """The call is worth repeating."""


def _connection_class(options: Options) -> type[AbstractConnection]:
    return _Unix if options.socket else _Tls if options.tls is not None else _Tcp


def _settings(options: Options, login: Login, timeout_s: float) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "username": login.username or None,
        "password": login.password.reveal() if login.password else None,
        "socket_timeout": timeout_s,
        "protocol": 2,
        "driver_info": None,
        "retry": Retry(NoBackoff(), 0),  # repeating is done here, where the deadline is known
    }
    if options.tls is not None:
        settings |= {
            "ssl_ca_certs": options.tls.ca_file or None,
            "ssl_certfile": options.tls.cert_file or None,
            "ssl_keyfile": options.tls.key_file or None,
            "ssl_cert_reqs": "required",
            "ssl_check_hostname": True,
        }
    return settings


class _Call:
    """A script with its keys, in the bytes of Redis's protocol: only the arguments are left to add."""

    def __init__(self, script: scripts.Script, prefix: str) -> None:
        keys = [prefix + key for key in script.keys]
        self._parts = 3 + len(keys)
        self._by_sha = _packed("EVALSHA", script.sha, len(keys), *keys)
        self._by_text = _packed("EVAL", script.text, len(keys), *keys)

    def bytes_of(self, args: Sequence[str | bytes | int], *, with_text: bool = False) -> bytes:
        start = self._by_text if with_text else self._by_sha
        return b"*%d\r\n%b%b" % (self._parts + len(args), start, _packed(*args))


def _packed(*args: str | bytes | int) -> bytes:
    found = []
    for arg in args:
        text = arg if isinstance(arg, bytes) else str(arg).encode()
        found.append(b"$%d\r\n%b\r\n" % (len(text), text))
    return b"".join(found)


def _evaluate(pool: ConnectionPool, call: _Call, args: Sequence[str | bytes | int]) -> Any:
    connection: Any = pool.get_connection()
    try:
        try:
            connection.send_packed_command((call.bytes_of(args),))
            return connection.read_response()
        except failures.NoScriptError:
            # A server that was restarted or failed over to: with its text the script is kept again.
            connection.send_packed_command((call.bytes_of(args, with_text=True),))
            return connection.read_response()
    except failures.ResponseError:
        raise  # it has answered: the connection is in order
    except BaseException:
        connection.disconnect()  # what comes in on it now would answer the next question
        raise
    finally:
        pool.release(connection)


def _is_lost(error: Exception) -> bool:
    """Whether the connection broke, rather than the server refusing or keeping silent."""
    refusals = (
        failures.AuthenticationError,
        failures.AuthorizationError,
        failures.BusyLoadingError,
        failures.MaxConnectionsError,
    )
    silent = isinstance(error, (TimeoutError, failures.TimeoutError))
    return isinstance(error, (failures.ConnectionError, OSError)) and not silent and not isinstance(error, refusals)


def _reason(error: Exception) -> str:
    """Redis's error in a word or two."""
    if isinstance(error, (TimeoutError, failures.TimeoutError)):
        return "timed out"
    if isinstance(error, failures.MaxConnectionsError):
        return "too many connections"
    cause = error if isinstance(error, OSError) else error.__context__
    if isinstance(cause, ssl.SSLCertVerificationError):
        return f"its certificate is not trusted: {cause.verify_message}"
    if isinstance(cause, OSError) and not isinstance(error, failures.ResponseError):
        return (cause.strerror or "connection lost").lower()
    if isinstance(error, failures.BusyLoadingError):
        return _REASONS["LOADING"]
    if isinstance(error, failures.ReadOnlyError):
        return _REASONS["READONLY"]
    if isinstance(error, failures.OutOfMemoryError):
        return _REASONS["OOM"]
    if isinstance(error, failures.NoPermissionError):
        return _REASONS["NOPERM"]
    if isinstance(error, (failures.MovedError, failures.AskError, failures.TryAgainError)):
        return _REASONS["MOVED"]
    if isinstance(error, failures.AuthenticationError):
        return _REASONS["NOAUTH" if "required" in str(error) else "WRONGPASS"]
    text = str(error)
    if text.startswith("The user executing the script can't"):
        return _REASONS["NOPERM"]
    code = _CODE.search(text)
    if code is not None:
        return _REASONS[code[1]]
    if isinstance(error, failures.ConnectionError):
        return "connection lost"
    return text[:200].rstrip(".")
