"""Sums that the path adds to and a reader collects: bounded in number, and cheap where they are added to.

A synchronous instrument of the SDK costs a decision 10 to 20 µs for each `add` with its attributes. A sum in a dictionary, read
by an observable instrument when somebody collects, costs one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final, Generic, TypeVar

from opentelemetry.metrics import CallbackOptions, Meter, Observation

OTHER: Final = "other"
MOST_WAITING: Final = 10_000

T = TypeVar("T")


class Names:
    """Names of ours as attributes: the first `most` that it is shown stay as they are, all others are `other`."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._known: set[str] = set()

    def __call__(self, name: str) -> str:
        """Empty stays empty: nothing is known yet."""
        if name in self._known or not name:
            return name
        if len(self._known) >= self._most:
            return OTHER
        self._known.add(name)
        return name


class Later(Generic[T]):
    """What is counted beside the path: whoever has something to count leaves it here, and another thread fetches it. Safe in
    threads.

    most  that wait; what comes beyond that is counted at once, so that nothing is lost where nobody fetches
    """

    def __init__(self, count: Callable[[T], None], *, most: int = MOST_WAITING) -> None:
        self._count, self._most = count, most
        self._waiting: deque[T] = deque()
        self._fetching = threading.Lock()

    def add(self, one: T) -> None:
        if len(self._waiting) < self._most:
            self._waiting.append(one)
        else:
            self._count(one)

    def flush(self) -> None:
        """All that was there at the call is counted when it returns."""
        with self._fetching:
            for _ in range(len(self._waiting)):
                self._count(self._waiting.popleft())


class Counts:
    """One observable counter. Safe in threads. `scale` turns the integers that are added into what is shown."""

    def __init__(
        self, meter: Meter, name: str, attributes: tuple[str, ...], description: str, *, unit: str = "", scale: int = 1
    ) -> None:
        self._attributes, self._scale = attributes, scale
        self._lock = threading.Lock()
        self._sums: dict[tuple[str, ...], int] = {}
        meter.create_observable_counter(name, [self._observe], unit=unit, description=description)

    def add(self, *values: str, amount: int = 1) -> None:
        """values  of the attributes, in their order"""
        with self._lock:
            self._sums[values] = self._sums.get(values, 0) + amount

    def _observe(self, options: CallbackOptions) -> Iterable[Observation]:
        with self._lock:
            found = list(self._sums.items())
        for values, total in found:
            shown = total if self._scale == 1 else total / self._scale
            yield Observation(shown, dict(zip(self._attributes, values, strict=True)))
