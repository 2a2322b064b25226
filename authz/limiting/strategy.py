"""The strategy: a sliding window that holds in every span of its length."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from limits import RateLimitItem, WindowStats
from limits.storage import StorageTypes
from limits.strategies import STRATEGIES, RateLimiter

from authz.limiting.storage import Entry, WindowStorage, check_cost, seconds

NAME: Final = "authz-sliding-window"

Wanted = tuple[RateLimitItem, tuple[str, ...], int]
"""A limit, whose it is, and the cost: the arguments of one hit."""


class SlidingWindowLimiter(RateLimiter):
    """In any span of the window's length no more than the limit is admitted, over all threads, processes and machines that
    share the storage. An amount counts for up to 61/60 of the window, which is what that costs.

    `hit`, `test`, `get_window_stats` and `clear` are as in `limits`. `test` promises nothing: whoever else asks may take the
    room before the hit. Errors are those of `WindowStorage`.
    """

    def __init__(self, storage: StorageTypes) -> None:
        if not isinstance(storage, WindowStorage):
            raise NotImplementedError(
                f"SlidingWindowLimiter is not implemented for storage of type {storage.__class__}, "
                "expected one of an `authz+` scheme"
            )
        super().__init__(storage)
        self._windows: WindowStorage = storage

    def hit(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Counts all of the cost, or nothing; False where it does not fit."""
        return self._windows.acquire_all([_entry(item, identifiers, cost)])

    def hit_many(self, wanted: Iterable[Wanted]) -> bool:
        """Counts every hit, or none of them where one does not fit. Costs against one limit of one identity add up.

        `hit_many([(parse("500/minute"), ("chatbot",), 1), (parse("100000/minute"), ("chatbot", "tokens"), 1_200)])`
        """
        return self._windows.acquire_all([_entry(*each) for each in wanted])

    def test(self, item: RateLimitItem, *identifiers: str, cost: int = 1) -> bool:
        """Whether the cost would fit now."""
        check_cost(cost)
        return self._windows.standing(item.key_for(*identifiers), item.get_expiry()).used + cost <= item.amount

    def get_window_stats(self, item: RateLimitItem, *identifiers: str) -> WindowStats:
        """When the oldest of what is used stops counting (now, where nothing is used), and how much still fits."""
        found = self._windows.standing(item.key_for(*identifiers), item.get_expiry())
        return WindowStats(seconds(found.frees_ns), item.amount - found.used)


def _entry(item: RateLimitItem, identifiers: tuple[str, ...], cost: int) -> Entry:
    if not isinstance(identifiers, tuple):
        raise ValueError(f"found `{identifiers}` for the identifiers, expected a tuple")
    return item.key_for(*identifiers), item.amount, item.get_expiry(), cost


STRATEGIES[NAME] = SlidingWindowLimiter  # type: ignore[assignment]  # `limits` names its own three as the type
