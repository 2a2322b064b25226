"""A process that hits: `python -m tests.limiting.hitter URI TIMES`.

It says `ready`, waits for a line, hits 100 a minute `TIMES` times in four threads, and says how often it was admitted.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor

from limits import parse

from authz.limiting import SlidingWindowLimiter, WindowStorage
from tests.limiting.places import START


def main(uri: str, times: int) -> None:
    limiter = SlidingWindowLimiter(WindowStorage(uri, wait_s=20, clock=lambda: START))
    limit = parse("100/minute")
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    with ThreadPoolExecutor(4) as pool:
        taken = sum(pool.map(lambda _: limiter.hit(limit, "shared"), range(times)))
    sys.stdout.write(f"{taken}\n")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
