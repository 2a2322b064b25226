"""Sums that the path adds to and a reader collects: bounded in number, and cheap where they are added to.

A synchronous instrument of the SDK costs a decision 10 to 20 µs for each `add` with its attributes. A sum in a dictionary, read
by an observable instrument when somebody collects, costs one.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, Histogram, Meter, Observation

OTHER: Final = "other"
MOST_DURATIONS: Final = 100_000


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


class Durations:
    """Durations on their way into a histogram: the path leaves them here, and another thread brings them. Safe in threads.

    Of more than `most` between two flushes the oldest are lost; the engine flushes twice a second.
    """

    def __init__(self, histogram: Histogram, *, most: int = MOST_DURATIONS) -> None:
        self._histogram = histogram
        self._waiting: deque[tuple[str, int]] = deque(maxlen=most)
        self._attributes: dict[str, dict[str, str]] = {}

    def add(self, effect: str, duration_us: int) -> None:
        self._waiting.append((effect, duration_us))

    def flush(self) -> None:
        for _ in range(len(self._waiting)):
            try:
                effect, duration_us = self._waiting.popleft()
            except IndexError:  # another thread flushes too
                return
            self._histogram.record(duration_us / 1e6, self._attributes.setdefault(effect, {"effect": effect}))


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
