"""What users of `limits` are used to: its documented calls, its strategies, its errors; and `hit_many`, which it lacks."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from time import time_ns

import pytest
from limits import RateLimitItemPerMinute, RateLimitItemPerSecond, WindowStats, parse, parse_many, storage, strategies
from limits.aio import strategies as aio_strategies
from limits.errors import ConfigurationError, StorageError
from limits.storage import MemoryStorage

from authz.errors import StoreUnavailable
from authz.limiting import SlidingWindowLimiter, WindowStorage, aio
from authz.limiting import storage as storages
from authz.limiting.storage import MAX_WINDOW_S, SCHEMES
from authz.model import MAX_AMOUNT
from authz.quota.windows import NS
from authz.store.database import Database, parse_uri
from authz.store.redis import SCHEMES as REDIS_SCHEMES
from tests.limiting.places import START, Site, Turned
from tests.store.redis_server import RedisServer, free_port

ROOT = Path(__file__).parents[2]


class TestAsDocumented:
    """The quickstart of `limits`, with our names in it."""

    def test_from_a_string(self, site: Site) -> None:
        limits_storage = storage.storage_from_string(site.uri, wrap_exceptions=True)
        assert isinstance(limits_storage, WindowStorage)
        limiter = strategies.STRATEGIES["authz-sliding-window"](limits_storage)
        assert isinstance(limiter, SlidingWindowLimiter)
        one_per_minute = RateLimitItemPerMinute(1, 1)
        assert limiter.hit(one_per_minute, "test_namespace", "foo")
        assert not limiter.hit(one_per_minute, "test_namespace", "foo")
        assert limiter.hit(one_per_minute, "test_namespace", "bar")
        assert not limiter.test(one_per_minute, "test_namespace", "foo")
        window = limiter.get_window_stats(one_per_minute, "test_namespace", "foo")
        assert isinstance(window, WindowStats)
        assert window.remaining == 0
        assert 0 < window.reset_time - time_ns() / NS <= 61.1
        limiter.clear(one_per_minute, "test_namespace", "foo")
        assert limiter.hit(one_per_minute, "test_namespace", "foo")
        assert limits_storage.check()
        limits_storage.close()

    def test_costs(self, limiter: SlidingWindowLimiter, clock: Turned) -> None:
        item = parse("10/minute")
        assert limiter.get_window_stats(item, "k") == WindowStats(clock.seconds, 10)
        assert limiter.hit(item, "k", cost=7)
        assert not limiter.hit(item, "k", cost=4)
        assert limiter.hit(item, "k", cost=3)
        assert not limiter.test(item, "k")
        clock.now_ns += 61 * NS
        assert limiter.test(item, "k", cost=10)
        assert not limiter.test(item, "k", cost=11)
        assert not limiter.hit(item, "k", cost=11)
        assert limiter.get_window_stats(item, "k") == WindowStats(clock.seconds, 10)

    def test_each_limit_and_each_identity_by_itself(self, limiter: SlidingWindowLimiter) -> None:
        for item in parse_many("1/second; 2/minute"):
            assert limiter.hit(item, "a")
            assert limiter.hit(item, "b")
        assert not limiter.hit(parse("1/second"), "a")
        assert limiter.hit(parse("2/minute"), "a")
        assert not limiter.hit(parse("2 per 1 minute"), "a")

    def test_reset_forgets_everything(self, storage: WindowStorage, limiter: SlidingWindowLimiter) -> None:
        assert limiter.hit(parse("1/minute"), "a")
        assert limiter.hit(parse("1/minute"), "b")
        assert storage.incr("c", 60) == 1
        assert storage.reset() == 3
        assert limiter.hit(parse("1/minute"), "a")
        assert storage.get("c") == 0

    def test_another_storage_sees_the_same(self, shared: Site) -> None:
        item = parse("2/minute")
        first, second = SlidingWindowLimiter(shared.open()), SlidingWindowLimiter(shared.open())
        assert first.hit(item, "k")
        assert second.hit(item, "k")
        assert not first.hit(item, "k")
        second.clear(item, "k")
        assert first.test(item, "k", cost=2)


class TestHitMany:
    def test_all_or_nothing(self, limiter: SlidingWindowLimiter) -> None:
        requests, tokens = parse("5/minute"), parse("1000/minute")
        wanted = [(requests, ("k",), 1), (tokens, ("k", "tokens"), 400)]
        assert [limiter.hit_many(wanted) for _ in range(4)] == [True, True, False, False]
        # What the third would have taken from the first limit is still there.
        assert limiter.get_window_stats(requests, "k").remaining == 3
        assert limiter.get_window_stats(tokens, "k", "tokens").remaining == 200

    def test_one_identity_twice_adds_up(self, limiter: SlidingWindowLimiter) -> None:
        item = parse("5/minute")
        assert not limiter.hit_many([(item, ("k",), 3), (item, ("k",), 3)])
        assert limiter.hit_many([(item, ("k",), 3), (item, ("k",), 2)])
        assert limiter.get_window_stats(item, "k").remaining == 0

    def test_none_at_all(self, limiter: SlidingWindowLimiter) -> None:
        assert limiter.hit_many([])

    def test_letters_are_no_identifiers(self, limiter: SlidingWindowLimiter) -> None:
        with pytest.raises(ValueError, match="found `chatbot` for the identifiers, expected a tuple"):
            limiter.hit_many([(parse("5/minute"), "chatbot", 1)])  # type: ignore[list-item]


class TestRefusals:
    @pytest.mark.parametrize("cost", [0, -1, MAX_AMOUNT + 1, 1.5])
    def test_costs(self, limiter: SlidingWindowLimiter, cost: int) -> None:
        item, expected = parse("5/minute"), f"a cost of {cost}, expected a whole number from 1 to {MAX_AMOUNT}"
        for ask in (limiter.hit, limiter.test):
            with pytest.raises(ValueError, match=expected):
                ask(item, "k", cost=cost)
        with pytest.raises(ValueError, match=expected):
            limiter.hit_many([(item, ("k",), 1), (item, ("j",), cost)])
        with pytest.raises(ValueError, match=expected):
            strategies.FixedWindowRateLimiter(limiter.storage).hit(item, "k", cost=cost)
        assert limiter.get_window_stats(item, "k").remaining == 5

    def test_limits_and_windows(self, limiter: SlidingWindowLimiter) -> None:
        with pytest.raises(ValueError, match=f"a limit of {MAX_AMOUNT + 1}, expected 0 to {MAX_AMOUNT}"):
            limiter.hit(RateLimitItemPerSecond(MAX_AMOUNT + 1, 1), "k")
        with pytest.raises(ValueError, match=f"a window of {MAX_WINDOW_S + 1} seconds, expected 1 to {MAX_WINDOW_S}"):
            limiter.hit(RateLimitItemPerSecond(1, MAX_WINDOW_S + 1), "k")
        assert limiter.hit(RateLimitItemPerSecond(1, MAX_WINDOW_S), "k")
        assert not limiter.hit(RateLimitItemPerSecond(1, MAX_WINDOW_S), "k")
        assert not limiter.hit(parse("0/minute"), "k")

    def test_a_storage_of_another(self) -> None:
        memory = MemoryStorage()
        with pytest.raises(NotImplementedError, match="expected one of an `authz\\+` scheme"):
            SlidingWindowLimiter(memory)
        with pytest.raises(NotImplementedError, match="expected one of an `async\\+authz\\+` scheme"):
            aio.SlidingWindowLimiter(memory)
        memory.timer.join()

    @pytest.mark.parametrize(
        "uri",
        ["authz+sqlite://", "authz+redis://a:hush@host:0", "authz+redis://:hush@/0?x=1", "authz+redis+sentinel://:hush@host"],
    )
    def test_an_address_that_is_none(self, uri: str) -> None:
        with pytest.raises(ConfigurationError, match="expected") as caught:
            storage.storage_from_string(uri)
        assert "hush" not in str(caught.value)

    def test_a_scheme_that_is_none(self) -> None:
        with pytest.raises(ConfigurationError, match=r"expected one of authz\+sqlite, "):
            WindowStorage("redis://host")

    def test_every_address_of_a_store_has_its_scheme(self) -> None:
        assert [f"authz+{scheme}" for scheme in ("sqlite", *REDIS_SCHEMES)] == SCHEMES
        # The address of one that is not there: nothing is opened before the first call.
        assert isinstance(storage.storage_from_string("authz+rediss+sentinel://192.0.2.1/main"), WindowStorage)


class TestTheLibrarysOwnStrategies:
    def test_fixed_window(self, storage: WindowStorage, clock: Turned) -> None:
        limiter, item = strategies.FixedWindowRateLimiter(storage), parse("5/minute")
        assert limiter.get_window_stats(item, "k") == WindowStats(clock.seconds, 5)
        assert limiter.hit(item, "k", cost=4)
        ends = clock.seconds + 60
        clock.now_ns += 59 * NS
        assert limiter.test(item, "k")
        assert not limiter.test(item, "k", cost=2)
        assert limiter.get_window_stats(item, "k") == WindowStats(ends, 1)
        assert limiter.hit(item, "k")
        assert not limiter.hit(item, "k")
        assert limiter.get_window_stats(item, "k") == WindowStats(ends, 0)
        clock.now_ns += NS
        assert limiter.get_window_stats(item, "k") == WindowStats(clock.seconds, 5)
        assert limiter.hit(item, "k", cost=5)
        limiter.clear(item, "k")
        assert storage.get(item.key_for("k")) == 0

    def test_a_fixed_window_counts_up_to_the_largest_amount(self, storage: WindowStorage) -> None:
        assert storage.incr("k", 60, MAX_AMOUNT) == MAX_AMOUNT
        assert storage.incr("k", 60, MAX_AMOUNT) == MAX_AMOUNT + 1
        assert storage.incr("k", 60) == MAX_AMOUNT + 1
        assert storage.get("k") == MAX_AMOUNT + 1

    def test_moving_window_is_ours(self, storage: WindowStorage, clock: Turned) -> None:
        item = parse("5/minute")
        theirs, ours = strategies.MovingWindowRateLimiter(storage), SlidingWindowLimiter(storage)
        assert theirs.get_window_stats(item, "k") == WindowStats(clock.seconds + 60, 5)
        assert theirs.hit(item, "k", cost=3)
        clock.now_ns += 30 * NS
        assert ours.hit(item, "k", cost=2)
        assert not theirs.hit(item, "k")
        assert not theirs.test(item, "k")
        assert theirs.get_window_stats(item, "k") == ours.get_window_stats(item, "k")
        clock.now_ns += 31 * NS
        assert theirs.test(item, "k", cost=3)
        assert not theirs.test(item, "k", cost=4)
        assert theirs.get_window_stats(item, "k").remaining == 3
        theirs.clear(item, "k")
        assert ours.hit(item, "k", cost=5)

    def test_a_fixed_and_a_sliding_window_of_one_key_are_two(self, storage: WindowStorage) -> None:
        item = parse("5/minute")
        assert SlidingWindowLimiter(storage).hit(item, "k", cost=5)
        assert strategies.FixedWindowRateLimiter(storage).hit(item, "k", cost=5)
        assert not SlidingWindowLimiter(storage).test(item, "k")

    def test_the_sliding_counter_is_refused(self, storage: WindowStorage) -> None:
        with pytest.raises(NotImplementedError, match="SlidingWindowCounterRateLimiting is not implemented"):
            strategies.SlidingWindowCounterRateLimiter(storage)


class TestErrors:
    def test_a_file_that_cannot_be_opened(self, tmp_path: Path) -> None:
        uri = f"authz+sqlite:///{tmp_path}"
        item = parse("5/minute")
        for wrapped, error in ((False, StoreUnavailable), (True, StorageError)):
            found = storage.storage_from_string(uri, wrap_exceptions=wrapped)
            assert isinstance(found, WindowStorage)
            assert not found.check()
            limiter = SlidingWindowLimiter(found)
            for ask in (limiter.hit, limiter.test, limiter.get_window_stats, limiter.clear):
                with pytest.raises(error):
                    ask(item, "k")
            with pytest.raises(error):
                limiter.hit_many([(item, ("k",), 1)])
            for read in (found.get, found.get_expiry):
                with pytest.raises(error):
                    read("k")
            with pytest.raises(error):
                found.incr("k", 60)
            with pytest.raises(error):
                found.reset()
            with pytest.raises(error):
                strategies.MovingWindowRateLimiter(found).hit(item, "k")

    def test_a_server_that_comes_late(self) -> None:
        """A fallback asks `check` until the storage is back, as it does with the library's own."""
        server = RedisServer(port=free_port())
        server.kill()
        found = storage.storage_from_string(f"authz+{server.uri}", wrap_exceptions=True)
        assert isinstance(found, WindowStorage)
        limiter, item = SlidingWindowLimiter(found), parse("1/minute")
        assert not found.check()
        with pytest.raises(StorageError) as caught:
            limiter.hit(item, "k")
        assert isinstance(caught.value.storage_error, StoreUnavailable)
        server.start()
        assert found.check()
        assert limiter.hit(item, "k")
        assert not limiter.hit(item, "k")
        server.client.config_set("min-replicas-to-write", 1)
        assert not found.check()  # it can be read, but would take no hit
        found.close()
        server.close()

    def test_a_file_that_can_be_read_only(self, tmp_path: Path) -> None:
        """Somebody else is writing: it would take no hit, so it is not well."""
        uri = f"sqlite:///{tmp_path / 'limits.db'}"
        found = WindowStorage(f"authz+{uri}", wait_s=0.02)
        assert found.check()
        other = Database(parse_uri(uri))
        assert not other.write(lambda _: found.check())
        assert other.write(lambda _: found.get("k")) == 0
        assert found.check()
        found.close()
        other.close()


class TestManyAtOnce:
    def test_threads(self, limiter: SlidingWindowLimiter) -> None:
        item = parse("50/minute")
        with ThreadPoolExecutor(8) as pool:
            taken = sum(pool.map(lambda _: limiter.hit(item, "k"), range(400)))
        assert taken == 50

    def test_processes(self, shared: Site) -> None:
        command = [sys.executable, "-m", "tests.limiting.hitter", shared.uri, "100"]
        processes = [
            subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT) for _ in range(3)
        ]
        for process in processes:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        assert sum(int(process.communicate(timeout=60)[0]) for process in processes) == 100

    def test_a_child_opens_its_own(self, shared: Site) -> None:
        storage = shared.open()
        limiter, item = SlidingWindowLimiter(storage), parse("10/minute")
        assert limiter.hit(item, "k", cost=4)
        parents = storage._counters()
        child = os.fork()
        if child == 0:
            done = limiter.hit(item, "k", cost=5) and not limiter.hit(item, "k", cost=2)
            os._exit(0 if done and storage._counters() is not parents else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert storage._counters() is parents
        assert not limiter.hit(item, "k", cost=2)
        assert limiter.hit(item, "k")


class TestAsync:
    def test_as_documented(self, site: Site) -> None:
        async def use() -> None:
            found = storage.storage_from_string(f"async+{site.uri}")
            assert isinstance(found, aio.WindowStorage)
            limiter = aio_strategies.STRATEGIES["authz-sliding-window"](found)  # type: ignore[abstract]  # none of those in the table is
            assert isinstance(limiter, aio.SlidingWindowLimiter)
            item = parse("10/day")
            assert sum(await asyncio.gather(*(limiter.hit(item, "k") for _ in range(30)))) == 10
            assert not await limiter.test(item, "k")
            assert (await limiter.get_window_stats(item, "k")).remaining == 0
            await limiter.clear(item, "k")
            assert await limiter.hit_many([(item, ("k",), 4), (item, ("j",), 10)])
            assert not await limiter.hit_many([(item, ("k",), 4), (item, ("j",), 1)])
            theirs = aio_strategies.MovingWindowRateLimiter(found)
            assert (await theirs.get_window_stats(item, "k")).remaining == 6
            assert await theirs.hit(item, "k", cost=6)
            fixed = aio_strategies.FixedWindowRateLimiter(found)
            assert await fixed.hit(item, "k", cost=10)
            assert not await fixed.hit(item, "k")
            assert (await fixed.get_window_stats(item, "k")).remaining == 0
            assert await found.check()
            assert await found.reset() == 3
            await found.close()

        asyncio.run(use())

    def test_errors(self, tmp_path: Path) -> None:
        async def use(wrapped: bool) -> None:
            found = aio.WindowStorage(f"async+authz+sqlite:///{tmp_path}", wrapped)
            assert not await found.check()
            with pytest.raises(StorageError if wrapped else StoreUnavailable):
                await aio.SlidingWindowLimiter(found).hit(parse("1/minute"), "k")
            with pytest.raises(StorageError if wrapped else StoreUnavailable):
                await found.incr("k", 60)

        for wrapped in (False, True):
            asyncio.run(use(wrapped))


def test_a_cluster() -> None:
    """All keys of a storage are in one slot, so `hit_many` may use them together."""
    node = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()), port=free_port())
    node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16_383)
    pause = threading.Event()
    while node.client.cluster("info")["cluster_state"] != "ok":  # the time-out of every test ends this one too
        pause.wait(0.01)
    found = storage.storage_from_string(f"authz+redis+cluster://127.0.0.1:{node.port}?organisation=acme")
    assert isinstance(found, WindowStorage)
    limiter, item = SlidingWindowLimiter(found), parse("5/minute")
    assert limiter.hit_many([(item, ("a",), 5), (item, ("b",), 4)])
    assert not limiter.hit_many([(item, ("b",), 1), (item, ("a",), 1)])
    assert limiter.hit(item, "b")
    assert found.incr("c", 60) == 1
    assert found.reset() == 3
    found.close()
    node.close()


def test_a_redis_goes_by_its_own_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """A73: nobody's wrong clock admits anything, or is told."""
    monkeypatch.setattr(storages, "system_clock", lambda: lambda: START)
    site, item = Site("redis"), parse("1/minute")
    limiter = SlidingWindowLimiter(site.open(turned=False))
    assert limiter.hit(item, "k")
    monkeypatch.setattr(storages, "system_clock", lambda: lambda: time_ns() + 3_600 * NS)
    ahead = SlidingWindowLimiter(site.open(turned=False))
    assert not ahead.hit(item, "k")
    for each in (limiter, ahead):
        assert 0 < each.get_window_stats(item, "k").reset_time - time_ns() / NS <= 61.1
    assert strategies.FixedWindowRateLimiter(limiter.storage).hit(item, "k")
    assert 59 < limiter.storage.get_expiry(item.key_for("k")) - time_ns() / NS <= 60.1
    site.close()
