"""Time, as an argument: nothing below the composition root reads a clock by itself."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Answers the time in nanoseconds since the Unix epoch; it never runs backwards."""


def system_clock() -> Clock:
    """A clock that keeps the machine's steady pace from the wall time at which it was made.

    A wall clock that is set forward or back while we run would open a window early or keep it shut; the steady clock does
    neither. It is made anew at each start, and that is where a correction of the wall clock is taken over.
    """
    offset_ns = time.time_ns() - time.monotonic_ns()
    return lambda: time.monotonic_ns() + offset_ns
