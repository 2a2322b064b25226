"""`authz serve` in a process whose wall clock somebody else sets: `python -m tests.chaos.clockwork --config …`.

The file `clock` beside the settings says by how many seconds it is wrong at this moment. Only the wall clock is: a machine's
steady clock cannot be set.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Final

PROGRAM: Final = ("-m", "tests.chaos.clockwork")
FILE: Final = "clock"


def main() -> None:
    path = Path(sys.argv[sys.argv.index("--config") + 1]).parent / FILE
    right_ns = time.time_ns

    def wrong_ns() -> int:
        return right_ns() + (int(path.read_text() or 0) * 1_000_000_000 if path.exists() else 0)

    time.time_ns = wrong_ns
    time.time = lambda: wrong_ns() / 1e9
    from authz.cli import main as authz  # what it imports finds the clock as it is now

    sys.argv.insert(1, "serve")
    authz()


if __name__ == "__main__":
    main()
