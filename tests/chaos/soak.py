"""Steady load for a long time: does memory grow, and is anything left behind.

    python -m tests.chaos.soak --minutes 60

The slope is that of a line through the sidecars' resident memory after a warm-up, by least squares. One tenth of the requests
break off or fail at the upstream, so that every end of a reservation comes up.
"""

from __future__ import annotations

import argparse
import os
import sqlite3
import sys
import time
from collections import Counter
from statistics import linear_regression, quantiles

import msgspec
from msgspec import Struct
from redis.exceptions import TimeoutError as RedisTimeout
from rich.console import Console
from rich.table import Table

from demo.answers import Behaviour
from tests.chaos import books
from tests.chaos.audit import Watch, secrets_found, wait_for_the_ends
from tests.chaos.faults import pause
from tests.chaos.fleet import Fleet, Kind, Plan, capped
from tests.chaos.load import Load, Sent
from tests.chaos.schedule import callers

SAMPLE_S = 2.0
WARM_UP = 0.25
"""The share of the samples that are left out: caches, pools and the allocator fill up first."""

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_PER_ROUND = 20


class Soaked(Struct, frozen=True):
    """rss_mib      first and last after the warm-up, and the highest, of both sidecars together
    mib_an_hour     the slope; kib_per_1000  the same by requests
    overdue         the most reservations seen pending after their deadline and a sweep; left  pending at the end
    unseen          looks at them that the store had no time to answer
    """

    store: str
    minutes: float
    sent: int
    codes: dict[str, int]
    median_s: float
    p99_s: float
    samples: int
    rss_mib: tuple[float, float, float]
    mib_an_hour: float
    kib_per_1000: float
    file_mib: float
    overdue: int
    unseen: int
    left: int
    leaks: list[str]
    books_agree: bool

    @property
    def well(self) -> bool:
        return self.overdue == self.left == 0 and self.books_agree and not self.leaks


def run(kind: Kind, minutes: float, *, threads: int = 4, pause_s: float = 0.03) -> Soaked:
    with Fleet(Plan(kind, ttl_s=20, proxied=False)) as fleet, Watch(fleet) as watch:
        fleet.groq.keep_only(_PER_ROUND)
        fleet.groq.behave(*_mixture())
        with Load(fleet.url, callers(fleet, capped(0)), threads=threads, pause_s=pause_s) as load:
            samples, overdue, unseen = _follow(fleet, load, time.monotonic() + 60 * minutes)
        fleet.groq.behave()
        wait_for_the_ends(fleet)
        watch.look()
        return _soaked(fleet, minutes, load.sent, samples, overdue, unseen)


def _mixture() -> list[Behaviour]:
    """Answered for the most part; the last one goes on for ever, so it is set again at every sample."""
    return [Behaviour(times=18), Behaviour(status=500, times=1), Behaviour(cut_after=2, times=1)] * 10


def _follow(fleet: Fleet, load: Load, end_s: float) -> tuple[list[tuple[float, int, int]], int, int]:
    """(seconds, requests so far, resident bytes) at every sample; the most that were overdue; how many looks failed."""
    samples, overdue, unseen, began_s = [], 0, 0, time.monotonic()
    while time.monotonic() < end_s:
        pause(SAMPLE_S)
        fleet.groq.behave(*_mixture())
        samples.append((time.monotonic() - began_s, len(load.sent), sum(_resident(each.process) for each in fleet.sidecars)))
        try:
            overdue = max(overdue, books.overdue(fleet))
        except (RedisTimeout, sqlite3.OperationalError):
            unseen += 1  # the sidecars' own time is what matters: who looks on has to do without
    return samples, overdue, unseen


def _resident(process: object) -> int:
    pid = getattr(process, "pid", None)
    assert isinstance(pid, int), "a sidecar is gone"
    with open(f"/proc/{pid}/statm", encoding="ascii") as file:
        return int(file.read().split()[1]) * _PAGE_BYTES


def _soaked(
    fleet: Fleet, minutes: float, sent: list[Sent], samples: list[tuple[float, int, int]], overdue: int, unseen: int
) -> Soaked:
    warm = samples[int(len(samples) * WARM_UP) :]
    sizes = [size for _, _, size in warm]
    by_time = linear_regression([at for at, _, _ in warm], sizes).slope
    by_request = linear_regression([number for _, number, _ in warm], sizes).slope
    times = [each.took_s for each in sent]
    with fleet.open_store() as store:
        agree = store.balances() == store.replay()
    return Soaked(
        store=fleet.kind.value,
        minutes=minutes,
        sent=len(sent),
        codes=dict(Counter(f"{each.status} {each.code}".strip() for each in sent)),
        median_s=quantiles(times, n=100)[49],
        p99_s=quantiles(times, n=100)[98],
        samples=len(warm),
        rss_mib=(sizes[0] / 2**20, sizes[-1] / 2**20, max(sizes) / 2**20),
        mib_an_hour=by_time * 3600 / 2**20,
        kib_per_1000=by_request * 1000 / 2**10,
        file_mib=fleet.store_path.stat().st_size / 2**20 if fleet.store_path.exists() else 0.0,
        overdue=overdue,
        unseen=unseen,
        left=books.pending(fleet),
        leaks=secrets_found(fleet),
        books_agree=agree,
    )


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos.soak", description="steady load, memory and stale reservations"
    )
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--store", choices=[kind.value for kind in Kind], default=Kind.SQLITE.value)
    parser.add_argument("--threads", type=int, default=4, help="requests under way at once: how steady a load it is")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    soaked = run(Kind(arguments.store), arguments.minutes, threads=arguments.threads)
    if arguments.json:
        sys.stdout.write(msgspec.json.encode(soaked).decode() + "\n")
    else:
        table = Table("what", "found", title=f"{soaked.minutes:g} minutes on {soaked.store}, two sidecars")
        table.add_row("requests", f"{soaked.sent}: {soaked.codes}")
        table.add_row("median and 99th percentile of all answers, s", f"{soaked.median_s:.3f}, {soaked.p99_s:.3f}")
        table.add_row(
            "resident memory after warm-up: first, last, highest, MiB", ", ".join(f"{each:.1f}" for each in soaked.rss_mib)
        )
        table.add_row("growth", f"{soaked.mib_an_hour:+.2f} MiB an hour, {soaked.kib_per_1000:+.1f} KiB per 1,000 requests")
        table.add_row("database file, MiB", f"{soaked.file_mib:.1f}")
        table.add_row("reservations overdue at any look; pending at the end", f"{soaked.overdue}; {soaked.left}")
        table.add_row("looks that the store had no time for", str(soaked.unseen))
        table.add_row("balances equal the replayed journal", "yes" if soaked.books_agree else "NO")
        table.add_row("secrets seen", ", ".join(soaked.leaks) or "none")
        Console(width=140).print(table)
    return 0 if soaked.well else 1


if __name__ == "__main__":
    sys.exit(main())
