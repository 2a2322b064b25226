"""Ratios that hold on a busy machine: what is compared is measured in turns, so that what disturbs one disturbs the other."""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from statistics import median, quantiles
from time import perf_counter_ns
from typing import Final

from msgspec import Struct

AT_MOST: Final = "at most"
AT_LEAST: Final = "at least"
REFUSED: Final = "REFUSED"
"""The part that says that not every request was allowed: a figure with it holds for nothing."""


class Figure(Struct, frozen=True):
    """One figure of the table.

    name    as the issue calls it, `P1`; with what it is of where there are several, `P2 at 8`
    ratios  one for each round
    limit   the bound, and `kind` says which: at most, at least, or empty where there is none
    parts   what stands behind it: name and value with its unit, for people
    """

    name: str
    what: str
    ratios: tuple[float, ...]
    limit: float
    kind: str
    parts: dict[str, str] = {}
    unit: str = ""

    @property
    def value(self) -> float:
        return median(self.ratios)

    @property
    def spread(self) -> tuple[float, float]:
        """The quartiles of the rounds; of fewer than four, the least and the greatest."""
        if len(self.ratios) < 4:
            return min(self.ratios), max(self.ratios)
        first, _, third = quantiles(self.ratios, n=4)
        return first, third

    @property
    def holds(self) -> bool:
        if REFUSED in self.parts:
            return False
        return not self.kind or (self.value <= self.limit if self.kind == AT_MOST else self.value >= self.limit)


Works = Mapping[str, Callable[[], object]]


def in_turns(
    works: Works,
    *,
    rounds: int,
    times: int,
    clock: Callable[[], int] = perf_counter_ns,
    between: Callable[[], object] = lambda: None,
) -> dict[str, list[float]]:
    """Each work once, then each again, `times` in a round: its median in microseconds for every round.

    clock    `thread_time_ns` for what waits for nobody: long works are interrupted by others more often than short ones
    between  is done after each round, and not measured
    """
    for work in works.values():
        for _ in range(max(10, times // 10)):
            work()
    found: dict[str, list[float]] = {name: [] for name in works}
    items = list(works.items())
    gc.collect()
    gc.freeze()  # what was made until now is looked at no more: a server does the same before it serves
    try:
        for _ in range(rounds):
            taken: dict[str, list[int]] = {name: [] for name in works}
            for _ in range(times):
                for name, work in items:
                    began = clock()
                    work()
                    taken[name].append(clock() - began)
            for name, each in taken.items():
                found[name].append(median(each) / 1000)
            between()
    finally:
        gc.unfreeze()
    return found


def ratios(found: Mapping[str, Sequence[float]], over: str, under: str) -> tuple[float, ...]:
    return tuple(one / other for one, other in zip(found[over], found[under], strict=True))


def microseconds(found: Mapping[str, Sequence[float]]) -> dict[str, str]:
    """For people: the median of the rounds."""
    return {name: f"{median(each):.0f} µs" for name, each in found.items()}
