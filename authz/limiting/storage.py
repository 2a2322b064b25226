"""The storage: `limits`' interface on one side, the stores' counters on the other."""

from __future__ import annotations

import hashlib
import os
import threading
from collections.abc import Callable, Iterable
from typing import Final, TypeVar

from limits.errors import ConfigurationError, StorageError
from limits.storage import MovingWindowSupport, Storage

from authz.clock import Clock, system_clock
from authz.errors import StoreUnavailable
from authz.model import MAX_AMOUNT
from authz.quota.windows import NS
from authz.store import counters_at
from authz.store.counters import Counters, Hit, Standing

T = TypeVar("T")
Entry = tuple[str, int, int, int]
"""Key, limit, window in seconds, amount."""

PREFIX: Final = "authz+"
SCHEMES: Final = [
    PREFIX + scheme
    for scheme in (
        *("sqlite", "redis", "rediss", "unix"),
        *("redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"),
    )
]
MAX_WINDOW_S: Final = 100 * 366 * 86_400


class WindowStorage(Storage, MovingWindowSupport):
    """A `limits` storage on any of our stores, for `SlidingWindowLimiter` and for two of the library's own strategies.

    moving window           works: it is our sliding window then, with what that promises and gives away
    fixed window            works, and admits twice the limit across an edge, as it does everywhere
    sliding window counter  refused by `limits` (`NotImplementedError`): it estimates where we count

    A key has a sliding and a fixed window, which know nothing of one another; `clear` forgets both. What was refused is not
    counted, except by the fixed window, which counts every hit.

    As in `limits`, nothing is opened before the first call, `check` says whether the store would take a hit, and with
    `wrap_exceptions` a `StoreUnavailable` becomes a `StorageError`. After either a hit may be counted or not. On Redis one
    whose connection broke may be counted twice; what is admitted is always counted. An amount below 1 or above `MAX_AMOUNT`, a
    limit above that, or a window beyond a hundred years is a `ValueError`.

    Safe in threads, for several processes on one file or server, and across a fork, after which the child opens its own.

    uri     `authz+` and the address of a store: `authz+sqlite:///file.db`, `authz+redis://host?organisation=acme`
    wait_s  the longest that a call takes
    clock   nanoseconds since the Unix epoch. On Redis it is the server's own clock that counts, and giving one is for tests
    """

    STORAGE_SCHEME = SCHEMES

    def __init__(
        self,
        uri: str,
        wrap_exceptions: bool = False,
        *,
        wait_s: float = 1.0,
        clock: Clock | None = None,
    ) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        scheme = uri.partition("://")[0]
        if scheme not in SCHEMES:
            raise ConfigurationError(f"found another scheme, expected one of {', '.join(SCHEMES)}")
        try:
            self._open = counters_at(uri.removeprefix(PREFIX), wait_s=wait_s, callers_time=clock is not None)
        except ValueError as error:
            raise ConfigurationError(str(error)) from None
        self._clock = clock or system_clock()
        self._lock = threading.Lock()
        self._opened: Counters | None = None
        self._opened_by = 0
        self._inherited: list[Counters] = []

    @property
    def base_exceptions(self) -> type[Exception]:
        return StoreUnavailable

    def close(self) -> None:
        """Afterwards a call opens it anew."""
        with self._lock:
            if self._opened is not None and self._opened_by == os.getpid():
                self._opened.close()
            self._opened = None

    # Sliding windows

    def acquire_all(self, entries: Iterable[Entry]) -> bool:
        """Counts every entry, or none of them. Entries of one key add up."""
        wanted: dict[str, Hit] = {}
        for key, limit, expiry, amount in entries:
            _check(amount, limit=limit, expiry=expiry)
            known = wanted.get(key)
            if known is not None:
                limit, amount = min(limit, known.limit), amount + known.amount
            wanted[key] = Hit(_window(key), expiry, limit, amount)
        hits = tuple(wanted.values())
        if any(hit.amount > hit.limit for hit in hits):
            return False  # it never fits
        return self._run(lambda counters, now_ns: counters.hit(hits, now_ns)) if hits else True

    def standing(self, key: str, expiry: int) -> Standing:
        _check(1, expiry=expiry)
        return self._run(lambda counters, now_ns: counters.look(_window(key), expiry, now_ns))

    def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return self.acquire_all([(key, limit, expiry, amount)])

    def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        """The moment from which a window of `expiry` seconds ends when the oldest amount stops counting; and what is used."""
        found = self.standing(key, expiry)
        begins_ns = found.frees_ns - expiry * NS if found.used else found.now_ns
        return seconds(begins_ns), found.used

    # Fixed windows

    def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        """What is counted with `amount`, in a window that began with the first one; at most `MAX_AMOUNT` + 1."""
        _check(amount, expiry=expiry)
        return self._run(lambda counters, now_ns: counters.add(_fixed(key), expiry, amount, now_ns))

    def get(self, key: str) -> int:
        return self._run(lambda counters, now_ns: counters.count(_fixed(key), now_ns)).used

    def get_expiry(self, key: str) -> float:
        return seconds(self._run(lambda counters, now_ns: counters.count(_fixed(key), now_ns)).frees_ns)

    # Both

    def clear(self, key: str) -> None:
        self._run(lambda counters, _: counters.forget((_window(key), _fixed(key))))

    def reset(self) -> int:
        """Forgets every key of this storage, and nothing of the ledger's."""
        return self._run(lambda counters, _: counters.forget_all())

    def check(self) -> bool:
        try:
            # It writes, though nothing: a store that can only be read would admit nobody.
            self._run(lambda counters, _: counters.forget((b"",)))
        except (StoreUnavailable, StorageError):
            return False
        return True

    def _run(self, work: Callable[[Counters, int], T]) -> T:
        try:
            return work(self._counters(), self._clock())
        except StoreUnavailable as error:
            if self.wrap_exceptions:
                raise StorageError(error) from error
            raise

    def _counters(self) -> Counters:
        opened = self._opened
        if opened is not None and self._opened_by == os.getpid():
            return opened
        with self._lock:
            if self._opened is not None and self._opened_by != os.getpid():
                # The parent's. Not even closed: SQLite would give up locks that are not ours.
                self._inherited.append(self._opened)
                self._opened = None
            if self._opened is None:
                self._opened, self._opened_by = self._open(), os.getpid()
            return self._opened


def seconds(moment_ns: int) -> float:
    """Since the Unix epoch, rounded up to the millisecond: whoever waits until then is not early."""
    return -(-moment_ns // 1_000_000) / 1000


def check_cost(cost: int) -> None:
    if not isinstance(cost, int) or not 1 <= cost <= MAX_AMOUNT:
        raise ValueError(f"a cost of {cost}, expected a whole number from 1 to {MAX_AMOUNT}")


def _check(amount: int, *, limit: int = 0, expiry: int) -> None:
    check_cost(amount)
    if not 0 <= limit <= MAX_AMOUNT:
        raise ValueError(f"a limit of {limit}, expected 0 to {MAX_AMOUNT}")
    if not 1 <= expiry <= MAX_WINDOW_S:
        raise ValueError(f"a window of {expiry} seconds, expected 1 to {MAX_WINDOW_S}")


def _window(key: str) -> bytes:
    return _digest("window", key)


def _fixed(key: str) -> bytes:
    return _digest("fixed", key)


def _digest(kind: str, key: str) -> bytes:
    # A lone surrogate, as a header may bring one, is no reason to fail.
    return hashlib.sha256(f"{kind}:{key}".encode(errors="surrogatepass")).digest()
