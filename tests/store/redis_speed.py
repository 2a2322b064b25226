"""What a decision on Redis costs, as a ratio to one empty script on the same connection, in the same run.

python -m tests.store.redis_speed [--times 3000]
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from statistics import median
from time import perf_counter, time_ns

from redis import Redis

from authz.model import Meter, Usage
from authz.quota.ledger import Held
from authz.quota.windows import Period, calendar, sliding
from authz.store.redis import RedisStore, parse_uri
from tests.store import redis_server
from tests.store.builders import actual, charge, hold

LARGE = 10**12


def measure(work: Callable[[int], object], times: int) -> float:
    """Median, microseconds."""
    taken = []
    for number in range(times):
        began = perf_counter()
        work(number)
        taken.append(perf_counter() - began)
    return median(taken) * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description="the cost of a decision on Redis")
    parser.add_argument("--times", type=int, default=3_000)
    times = parser.parse_args().times
    server = redis_server.shared()
    client = Redis(unix_socket_path=str(server.socket))
    empty = client.script_load("return 1")
    store = RedisStore(parse_uri(server.uri))
    charges = (
        charge(Meter.REQUESTS, 1, LARGE, window=sliding(60)),
        charge(Meter.TOKENS, 500, LARGE, "team tokens", window=sliding(60)),
        charge(Meter.TOKENS, 500, LARGE, "key tokens", window=sliding(3_600)),
        charge(Meter.SPEND, 900, LARGE, "day", window=calendar(Period.DAY, "Europe/Berlin")),
        charge(Meter.SPEND, 900, LARGE, "month", alerts=(LARGE,)),
        charge(Meter.IN_FLIGHT, 1, LARGE),
    )
    used = actual(Usage(300, 100), requests=1, tokens=400, spend=700)

    def reserve(number: int) -> None:
        assert isinstance(store.reserve(hold(*charges, id=f"r{number}"), time_ns()), Held)

    floor = measure(lambda _: client.evalsha(empty, 0), times)
    rows = {
        "reserve, 6 quotas": measure(reserve, times),
        "look, 6 quotas": measure(lambda _: store.look(charges, time_ns()), times),
        "find": measure(lambda number: store.find(f"r{number}"), times),
        "settle, 6 quotas": measure(lambda number: store.settle(f"r{number}", used, time_ns()), times),
        "sweep, nothing due": measure(lambda _: store.expire(time_ns(), 500), times),
    }
    sys.stdout.write(f"empty script: {floor:.0f} us\n")
    for name, cost in rows.items():
        sys.stdout.write(f"{name:20} {cost:5.0f} us  {cost / floor:.1f} x\n")
    for command, figures in sorted(client.info("commandstats").items()):
        if command == "cmdstat_evalsha":
            sys.stdout.write(f"in the server, all scripts: {figures['usec_per_call']:.0f} us a call\n")
    store.close()
    client.close()
    redis_server.close_shared()


if __name__ == "__main__":
    main()
