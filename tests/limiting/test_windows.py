"""Promise 6 in `limits`' notation: never above the limit in any span of the length; what is given away is a sixtieth."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from itertools import count
from math import ceil
from time import time_ns
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from limits import RateLimitItem, RateLimitItemPerSecond, parse
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter, RateLimiter, SlidingWindowCounterRateLimiter

from authz.limiting import SlidingWindowLimiter, WindowStorage
from authz.model import MAX_AMOUNT, Meter
from authz.quota.windows import MAX_BUCKETS, NS, SUB_BUCKETS, Tally
from authz.store import open_store
from authz.store.counters import KEEP_S, SqliteCounters
from authz.store.redis.counters import RedisCounters
from tests.limiting.places import START, Site, Turned
from tests.store import redis_server
from tests.store.builders import charge, hold

LENGTHS_S = st.sampled_from([1, 7, 59, 60, 3_600, 86_400, 30 * 86_400])
HITS = st.lists(st.tuples(st.floats(0, 0.4), st.integers(1, 30)), min_size=1, max_size=60)
_names = count()


def fresh() -> str:
    return f"k{next(_names)}"


def per(length_s: int, limit: int) -> RateLimitItem:
    return RateLimitItemPerSecond(limit, length_s)


class Model:
    """What was admitted, hit by hit. It knows no buckets."""

    def __init__(self) -> None:
        self.admitted: list[tuple[int, int]] = []

    def between(self, first_ns: int, last_ns: int) -> int:
        return sum(amount for when, amount in self.admitted if first_ns <= when <= last_ns)

    def most_in(self, span_ns: int) -> int:
        """In any span of that length, both ends included."""
        return max((self.between(begin_ns, begin_ns + span_ns) for begin_ns, _ in self.admitted), default=0)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(LENGTHS_S, st.integers(1, 50), HITS, st.integers(0, 10**11))
def test_never_above_the_limit_and_never_stricter_than_61_60(
    limiter: SlidingWindowLimiter, clock: Turned, length_s: int, limit: int, hits: list[tuple[float, int]], offset: int
) -> None:
    item, name, model = per(length_s, limit), fresh(), Model()
    # Sixty-one sub-buckets, each rounded up to the microsecond: as long as this an amount may count.
    counts_ns = MAX_BUCKETS * ceil(length_s * 1_000_000 / SUB_BUCKETS) * 1_000
    clock.now_ns = START + offset
    for step, cost in hits:
        clock.now_ns += int(step * length_s * NS)
        would = limiter.test(item, name, cost=cost)
        admitted = limiter.hit(item, name, cost=cost)
        assert admitted == would
        if admitted:
            model.admitted.append((clock.now_ns, cost))
        else:
            # Not refused without need.
            assert model.between(clock.now_ns - counts_ns + 1, clock.now_ns) + cost > limit
        assert limiter.get_window_stats(item, name).remaining <= limit - model.between(
            clock.now_ns - length_s * NS, clock.now_ns
        )
    assert model.most_in(length_s * NS) <= limit


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=60, deadline=None)
@given(LENGTHS_S, HITS, st.integers(0, 10**11))
def test_who_waits_until_the_reset_time_finds_room_and_no_sooner(
    limiter: SlidingWindowLimiter, clock: Turned, length_s: int, hits: list[tuple[float, int]], offset: int
) -> None:
    item, name = per(length_s, 40), fresh()
    clock.now_ns = START + offset
    for step, cost in hits:
        clock.now_ns += int(step * length_s * NS)
        limiter.hit(item, name, cost=cost)
    before = limiter.get_window_stats(item, name)
    if before.remaining == 40:
        return
    frees_ns = round(before.reset_time * 1_000) * 1_000_000
    assert clock.now_ns < frees_ns <= clock.now_ns + length_s * NS * 61 // 60 + 2_000_000
    clock.now_ns = max(clock.now_ns, frees_ns - 2_000_000)
    assert limiter.get_window_stats(item, name).remaining == before.remaining
    clock.now_ns = frees_ns
    assert limiter.get_window_stats(item, name).remaining > before.remaining


@pytest.fixture
def librarys_clock(monkeypatch: pytest.MonkeyPatch, clock: Turned) -> Turned:
    """`limits` reads the time by itself."""
    turned = SimpleNamespace(time=lambda: clock.seconds)
    monkeypatch.setattr(sys.modules["limits.storage.memory"], "time", turned)
    monkeypatch.setattr(sys.modules["limits.strategies"], "time", turned)
    return clock


@pytest.fixture
def librarys() -> Iterator[RateLimiter]:
    storage = MemoryStorage()
    yield SlidingWindowCounterRateLimiter(storage)
    storage.timer.join()


def test_why_the_librarys_sliding_counter_does_not_do(
    limiter: SlidingWindowLimiter, librarys: RateLimiter, librarys_clock: Turned
) -> None:
    """Late in one minute, and late in the next one, less than a minute apart: it believes that the first hits were spread."""
    item, taken = parse("100/minute"), {limiter: 0, librarys: 0}
    minute_ns = START - START % (60 * NS)
    for second in (59.1, 118.6, 118.9, 119.0):
        librarys_clock.now_ns = minute_ns + int(second * NS)
        for each in (limiter, librarys):
            taken[each] += sum(each.hit(item, "chatbot") for _ in range(150))
    assert taken[librarys] == 199
    assert taken[limiter] == 100


def tallies(storage: WindowStorage) -> list[bytes]:
    """As they are kept."""
    counters = storage._counters()
    if isinstance(counters, RedisCounters):
        (name,) = redis_server.shared().client.keys("*:limits")
        return [value[19:] for value in redis_server.shared().client.hvals(name)]
    assert isinstance(counters, SqliteCounters)
    rows = counters._database.read(lambda connection: connection.execute("SELECT tally FROM limits_windows").fetchall())
    return [tally for (tally,) in rows]


def test_memory_is_bounded_whatever_was_hit(
    site: Site, storage: WindowStorage, limiter: SlidingWindowLimiter, clock: Turned
) -> None:
    """100,000 hits of 1 and one of 10^9; fewer calls where each takes longer and the row is the same."""
    calls = 100_000 if site.kind == "sqlite-memory" else 5_000
    item = parse("2000000000/minute")
    for _ in range(calls):
        clock.now_ns += 60 * NS * 3 // calls
        assert limiter.hit(item, "x" * 100)
    assert limiter.hit(item, "x" * 100, cost=10**9)
    (tally,) = tallies(storage)
    assert 16 + 24 * SUB_BUCKETS <= len(tally) <= 16 + 24 * MAX_BUCKETS
    assert limiter.get_window_stats(item, "x" * 100).remaining < 10**9


def test_what_ended_is_forgotten(site: Site, storage: WindowStorage, limiter: SlidingWindowLimiter, clock: Turned) -> None:
    item = parse("5/minute")
    for number in range(20):
        assert limiter.hit(item, f"key{number}")
    clock.now_ns += (62 + KEEP_S) * NS
    for number in range(9):
        assert limiter.hit(item, f"other{number}")
    assert len(tallies(storage)) == 20 - 2 * 9 + 9
    for number in range(3):
        storage.incr(f"fixed{number}", 60)
    assert len(tallies(storage)) == 9 + 3


def test_what_was_used_again_is_not_forgotten_for_what_it_was(
    storage: WindowStorage, limiter: SlidingWindowLimiter, clock: Turned
) -> None:
    """An end that was put off, cleared or reset must not come back and take the row with it."""
    item, fixed = parse("5/minute"), FixedWindowRateLimiter(storage)
    for forget in (lambda: None, lambda: limiter.clear(item, "k"), storage.reset):
        assert limiter.hit(item, "k", cost=2)
        assert fixed.hit(item, "k")
        forget()
        clock.now_ns += (62 + KEEP_S) * NS
        assert fixed.hit(item, "k", cost=5)
        assert limiter.hit(item, "k", cost=5)
        assert not limiter.hit(item, "k")
        assert not fixed.test(item, "k")
        clock.now_ns += (62 + KEEP_S) * NS


def test_a_clock_that_is_ahead_takes_nothing_away_from_the_others(site: Site) -> None:
    """An hour ahead, it hits other keys: what it forgets on the way is not what still counts by the other clock."""
    item, limiter = parse("5/minute"), SlidingWindowLimiter(site.open())
    assert limiter.hit(item, "k", cost=5)
    site.clock.now_ns += 3_600 * NS
    for number in range(10):
        assert limiter.hit(item, f"other{number}")
    site.clock.now_ns -= 3_600 * NS
    assert not limiter.hit(item, "k")


def test_a_clock_that_jumps_opens_a_window_once(site: Site) -> None:
    """A73, A74: forward one window, once; back again, nothing."""
    item, limiter = parse("10/minute"), SlidingWindowLimiter(site.open())
    taken = 0
    for step in range(200):
        site.clock.now_ns = START + (step % 3 - 1) * 3_600 * NS
        taken += limiter.hit(item, "k")
    assert taken <= 20
    assert not limiter.test(item, "k")


def test_the_largest_amounts_are_exact(limiter: SlidingWindowLimiter) -> None:
    item = per(60, MAX_AMOUNT)
    assert limiter.hit(item, "k", cost=MAX_AMOUNT - 2)
    assert not limiter.hit(item, "k", cost=3)
    assert limiter.get_window_stats(item, "k").remaining == 2
    assert limiter.hit(item, "k")
    assert limiter.hit(item, "k")
    assert not limiter.hit(item, "k")


def test_the_ledger_next_door_sees_nothing_of_it(shared: Site) -> None:
    """Same file, same server: the balances are what the journal says, and a reset ends no reservation."""
    storage = shared.open()
    limiter = SlidingWindowLimiter(storage)
    store = open_store(shared.uri.removeprefix("authz+"), wait_s=20)
    assert limiter.hit(parse("10/minute"), "k", cost=7)
    assert store.balances() == store.replay() == {}
    store.reserve(hold(charge(Meter.TOKENS, 3, 10)), time_ns())
    balances = store.balances()
    assert list(balances) == ["tokens"]
    assert storage.reset() == 1
    assert store.balances() == store.replay() == balances
    store.close()


def test_nothing_a_client_sent_is_part_of_a_key(site: Site, limiter: SlidingWindowLimiter) -> None:
    """A64: fields are digests, and braces choose no other slot."""
    assert limiter.hit(parse("10/minute"), "{evil}", "*", "\n", "\udcff")
    assert not limiter.hit(parse("1/minute"), "{evil}", cost=2)
    if site.kind != "redis":
        return
    client = redis_server.shared().client
    for key in client.scan_iter():
        assert b"evil" not in key
    (name,) = client.keys("*:limits")
    assert all(len(field) == 32 for field in client.hkeys(name))


def test_tally_bytes_are_the_same_on_every_store() -> None:
    """What Lua wrote, Python reads, and the other way round."""
    written = []
    for kind in ("redis", "sqlite-memory"):
        site = Site(kind)
        storage = site.open()
        limiter = SlidingWindowLimiter(storage)
        for step in range(100):
            site.clock.now_ns += NS * (step % 7 - 2)  # now and then it runs backwards
            limiter.hit(parse("200/minute"), "k", cost=1 + step % 13)
        written.append(tallies(storage))
        site.close()
    assert written[0] == written[1]
    assert len(Tally(written[0][0]).buckets) > 10
