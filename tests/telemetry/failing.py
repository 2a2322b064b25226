"""A raw stream that takes lines for a while, fails for a while, and is well again."""

from __future__ import annotations

import io
from typing import Any


class FailsHalfWay(io.RawIOBase):
    """healthy  lines that it takes before it fails, the last of them in part · failing: how many bytes that it refuses stand
    for, at a kilobyte a line"""

    def __init__(self, *, healthy: int, failing: int) -> None:
        self.taken = bytearray()
        self._healthy, self._refuses = healthy, failing * 1024
        self._lines = 0

    def write(self, data: Any) -> int:
        found = bytes(data)
        if self._lines >= self._healthy and self._refuses > 0:
            self._refuses -= len(found)
            raise OSError(28, "No space left on device")
        if self._refuses > 0 and (room := self._healthy - self._lines) < found.count(b"\n"):
            ends = [at for at, byte in enumerate(found) if byte == 10]
            found = found[: ends[room - 1] + 20]  # and the beginning of the next
        self._lines += found.count(b"\n")
        self.taken += found
        return len(found)
