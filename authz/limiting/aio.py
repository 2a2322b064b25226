"""The same for asyncio: each call runs in a thread of the loop's own pool, so that a store which is slow holds up nobody else.

Schemes are `async+authz+sqlite` and so on. A task that is cancelled no longer waits, but its hit may be counted all the same.
"""

from __future__ import annotations

from asyncio import to_thread
from collections.abc import Iterable
from typing import Final

from limits import RateLimitItem, WindowStats
from limits.aio.storage import MovingWindowSupport, Storage
from limits.aio.strategies import STRATEGIES, RateLimiter
from limits.storage import StorageTypes

from authz.clock import Clock
from authz.errors import StoreUnavailable
from authz.limiting import storage, strategy

__all__ = ["SlidingWindowLimiter", "WindowStorage"]

_PREFIX: Final = "async+"
SCHEMES: Final = [_PREFIX + scheme for scheme in storage.SCHEMES]


class WindowStorage(Storage, MovingWindowSupport):
    """`authz.limiting.WindowStorage`, awaited."""

    STORAGE_SCHEME = SCHEMES

    def __init__(self, uri: str, wrap_exceptions: bool = False, *, wait_s: float = 1.0, clock: Clock | None = None) -> None:
        super().__init__(uri, wrap_exceptions=wrap_exceptions)
        self.windows: Final = storage.WindowStorage(uri.removeprefix(_PREFIX), wrap_exceptions, wait_s=wait_s, clock=clock)

    @property
    def base_exceptions(self) -> type[Exception]:
        return StoreUnavailable

    async def close(self) -> None:
        await to_thread(self.windows.close)

    async def acquire_entry(self, key: str, limit: int, expiry: int, amount: int = 1) -> bool:
        return await to_thread(self.windows.acquire_entry, key, limit, expiry, amount)

    async def get_moving_window(self, key: str, limit: int, expiry: int) -> tuple[float, int]:
        return await to_thread(self.windows.get_moving_window, key, limit, expiry)

    async def incr(self, key: str, expiry: int, amount: int = 1) -> int:
        return await to_thread(self.windows.incr, key, expiry, amount)

    async def get(self, key: str) -> int:
        return await to_thread(self.windows.get, key)

    async def get_expiry(self, key: str) -> float:
        return await to_thread(self.windows.get_expiry, key)

    async def clear(self, key: str) -> None:
        await to_thread(self.windows.clear, key)

    async def reset(self) -> int:
        return await to_thread(self.windows.reset)

    async def check(self) -> bool:
        return await to_thread(self.windows.check)


class SlidingWindowLimiter(RateLimiter):
    """`authz.limiting.SlidingWindowLimiter`, awaited."""

    def __init__(self, storage: StorageTypes) -> None:
        if not isinstance(storage, WindowStorage):
            raise NotImplementedError(
                f"SlidingWindowLimiter is not implemented for storage of type {storage.__class__}, "
                "expected one of an `async+authz+` scheme"
            )
        super().__init__(storage)
        self._limiter = strategy.SlidingWindowLimiter(storage.windows)

    async def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        return await to_thread(self._limiter.hit, item, *identifiers, cost=cost)

    async def hit_many(self, wanted: Iterable[strategy.Wanted]) -> bool:
        return await to_thread(self._limiter.hit_many, wanted)

    async def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        return await to_thread(self._limiter.test, item, *identifiers, cost=cost)

    async def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        return await to_thread(self._limiter.get_window_stats, item, *identifiers)


STRATEGIES[strategy.NAME] = SlidingWindowLimiter
