"""Whose clock counts: Redis's, for all who share it (A73, A74). The store is as in production, and our clocks are wrong."""

from __future__ import annotations

import random
from collections.abc import Iterator
from time import time_ns

import pytest

from authz.model import Meter
from authz.quota.ledger import Full, Held
from authz.quota.windows import NS, Period, calendar, sliding
from authz.store import Store, open_store
from tests.store.builders import TTL_NS, actual, charge, hold
from tests.store.places import RedisPlace

HOUR = sliding(3_600)
DAY_NS = 86_400 * NS


@pytest.fixture
def replicas() -> Iterator[tuple[Store, Store]]:
    place = RedisPlace()
    pair = (open_store(place.uri, wait_s=5), open_store(place.uri, wait_s=5))
    yield pair
    for store in pair:
        store.close()
    place.close()


def hit(store: Store, now_ns: int, amount: int = 1) -> bool:
    wanted = (charge(Meter.REQUESTS, amount, 10, window=HOUR), charge(Meter.SPEND, amount, 10))
    return isinstance(store.reserve(hold(*wanted), now_ns), Held)


def test_two_replicas_two_minutes_apart_share_one_limit(replicas: tuple[Store, Store]) -> None:
    now_ns = time_ns()
    taken = sum(hit(replicas[step % 2], now_ns + (step % 2) * 120 * NS) for step in range(60))
    assert taken == 10
    assert replicas[0].balances() == replicas[1].replay()
    assert len(replicas[0].balances()["spend"]) == 1


@pytest.mark.parametrize("jump_ns", [3_600 * NS, 2 * DAY_NS, 45 * DAY_NS, 400 * DAY_NS])
def test_a_wall_clock_that_jumps_admits_nothing_extra(replicas: tuple[Store, Store], jump_ns: int) -> None:
    chance = random.Random(jump_ns)
    taken = sum(hit(chance.choice(replicas), time_ns() + chance.choice((-jump_ns, 0, jump_ns))) for _ in range(60))
    assert taken == 10
    assert list(replicas[0].balances()["spend"]) == [charge(Meter.SPEND, 1, 1).window.bucket(time_ns())]


def test_what_is_told_is_reckoned_by_the_servers_clock(replicas: tuple[Store, Store]) -> None:
    wrong_ns = time_ns() + 40 * DAY_NS
    day = calendar(Period.DAY, "Pacific/Apia")
    budget = charge(Meter.SPEND, 7, 10, window=day)
    held = replicas[0].reserve(hold(budget), wrong_ns)
    assert isinstance(held, Held)
    assert 0 < held.states[0].reset_s <= 25 * 3_600
    full = replicas[1].reserve(hold(budget), wrong_ns)
    assert isinstance(full, Full)
    assert full.retry_after_s is not None
    assert 0 < full.retry_after_s <= 25 * 3_600
    (state,) = replicas[1].look((budget,), wrong_ns)
    assert (state.used, state.reset_s <= 25 * 3_600) == (7, True)
    found = replicas[0].find(held.reservation_id)
    assert found is not None
    assert abs(found.created_ns - time_ns()) < 60 * NS
    assert found.deadline_ns == found.created_ns + TTL_NS


def test_a_sweeper_whose_clock_is_ahead_ends_nothing_early(replicas: tuple[Store, Store]) -> None:
    assert hit(replicas[0], time_ns(), 10)
    assert replicas[1].expire(time_ns() + 40 * DAY_NS, 10) == ()
    assert not hit(replicas[1], time_ns())


def test_neither_prunes_it(replicas: tuple[Store, Store]) -> None:
    assert hit(replicas[0], time_ns(), 10)
    (name,) = [row.key for row in replicas[0].usage("0", "9")]
    assert name == "k"
    before = replicas[0].balances()
    assert replicas[1].prune(time_ns() + 400 * DAY_NS, DAY_NS, 100) == 0
    assert replicas[1].balances() == before
    assert not replicas[1].settle("nothing", actual(), time_ns()).changed
