"""Where balances, reservations and issued keys live. One package, and the one place of I/O in a decision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final, Protocol

from authz.identity.keys import KeyStore
from authz.quota.belongings import Belongings
from authz.quota.ledger import Ledger
from authz.store import database
from authz.store.counters import Counters, SqliteCounters
from authz.store.housekeeping import Balances
from authz.store.sqlite import SqliteStore
from authz.store.sqlite import open_store as _open_sqlite

__all__ = ["SqliteStore", "Store", "counters_at", "open_store"]

_REDIS: Final = ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster")
_EXPECTED: Final = "expected `sqlite:///…`, `redis://…`, `rediss://…`, `unix://…`, `redis+sentinel://…` or `redis+cluster://…`"


class Store(Ledger, KeyStore, Belongings, Protocol):
    """What every store is: the ledger, the issued keys, what at the upstream is whose, and its own books laid open."""

    def balances(self) -> Balances:
        """Posted and pending by counter and bucket, as the counters hold them."""
        ...

    def replay(self) -> Balances:
        """Posted and pending by counter and bucket, added up from the journal alone."""
        ...

    def close(self) -> None: ...


def open_store(uri: str, *, wait_s: float = 0.25) -> Store:
    """The store that a URI names; close it. `wait_s` bounds how long an operation waits for others, or for an answer.

    Raises `ValueError` for a URI that is none of ours, `ConfigError` for the data of another program or a newer version, and
    `StoreUnavailable` where the store does not answer. None of them repeats a password.
    """
    scheme, found, _ = uri.partition("://")
    if not found or scheme not in (*_REDIS, "sqlite"):
        raise ValueError(f"found {f'the scheme `{scheme}`' if found else 'no scheme'}, {_EXPECTED}")
    if scheme == "sqlite":
        return _open_sqlite(uri, wait_s=wait_s)
    from authz.store.redis import RedisStore, parse_uri  # a driver that only its users load

    return RedisStore(parse_uri(uri, wait_s=wait_s))


def counters_at(uri: str, *, wait_s: float, callers_time: bool = False) -> Callable[[], Counters]:
    """What opens the counters that a store's URI names. Raises `ValueError` for a URI that is none of ours.

    callers_time  for tests: on Redis it is the server's clock that counts, unless this is set
    """
    if uri.startswith("sqlite:"):
        return partial(SqliteCounters, database.parse_uri(uri, wait_s=wait_s))
    from authz.store.redis import parse_uri  # a driver that only its users load
    from authz.store.redis.counters import RedisCounters

    return partial(RedisCounters, parse_uri(uri, wait_s=wait_s), time="caller" if callers_time else "server")
