"""A network between us and Redis that fails (A79): denied within the deadline, nothing done twice, and well again by itself."""

from __future__ import annotations

import random
import socket
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from time import monotonic

import pytest

from authz.errors import StoreUnavailable
from authz.model import Meter
from authz.quota.ledger import Full, Held, State
from authz.store.redis import RedisStore, parse_uri
from tests.store import redis_server
from tests.store.builders import NOW, actual, charge, hold
from tests.store.places import RedisPlace
from tests.store.proxy import Fault, Proxy, storm

WAIT_S = 0.2
SLACK = 5
"""The deadline is ours, the scheduler is not: this many times the deadline is still called within it."""


@pytest.fixture
def place() -> Iterator[RedisPlace]:
    found = RedisPlace()
    yield found
    found.close()


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    path = str(redis_server.shared().socket)

    def connect() -> socket.socket:
        found = socket.socket(socket.AF_UNIX)
        found.connect(path)
        return found

    proxy = Proxy(connect)
    yield proxy
    proxy.close()


@pytest.fixture
def behind(proxy: Proxy, place: RedisPlace) -> Iterator[RedisStore]:
    """A store that reaches its place through the proxy."""
    organisation = place.uri.partition("?")[2]
    store = RedisStore(parse_uri(f"redis://127.0.0.1:{proxy.port}?{organisation}", wait_s=WAIT_S), time="caller")
    yield store
    store.close()


def within_the_deadline(operation: Callable[[], object]) -> object:
    began = monotonic()
    try:
        return operation()
    except StoreUnavailable as error:
        assert str(error).startswith("redis: ")  # noqa: PT017  # and nothing else may come out
        return None
    finally:
        assert monotonic() - began < SLACK * WAIT_S


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_each_fault_is_unavailable_within_the_deadline_and_passes(
    proxy: Proxy, behind: RedisStore, place: RedisPlace, fault: Fault
) -> None:
    assert isinstance(behind.reserve(hold(charge(Meter.TOKENS, 1, 100), id="before"), NOW), Held)
    proxy.fault = lambda: fault
    began = monotonic()
    for number in range(3):
        with pytest.raises(StoreUnavailable, match=r"^redis: "):
            behind.reserve(hold(charge(Meter.TOKENS, 1, 100), id=f"r{number}"), NOW)
    assert monotonic() - began < 3 * SLACK * WAIT_S
    proxy.fault = lambda: Fault.NONE
    assert isinstance(behind.reserve(hold(charge(Meter.TOKENS, 1, 100), id="after"), NOW), Held)
    straight = place.open()
    assert straight.balances() == straight.replay()
    # What was done without an answer is there once: the same hold again is the same reservation.
    for number in range(3):
        assert isinstance(behind.reserve(hold(charge(Meter.TOKENS, 1, 100), id=f"r{number}"), NOW), Held)
    assert sum(sum(cell) for cell in straight.balances()["tokens"].values()) == 5


def test_one_broken_connection_is_not_even_noticed(proxy: Proxy, behind: RedisStore, place: RedisPlace) -> None:
    """The call is repeated at once, and takes effect once."""
    faults = iter([Fault.RESET])
    proxy.fault = lambda: next(faults, Fault.NONE)
    assert isinstance(behind.reserve(hold(charge(Meter.TOKENS, 7, 10)), NOW), Held)
    assert sum(sum(cell) for cell in place.open().balances()["tokens"].values()) == 7


def test_after_a_storm_the_books_agree_and_nothing_was_charged_twice(
    proxy: Proxy, behind: RedisStore, place: RedisPlace
) -> None:
    limit, times = 40, 150
    proxy.fault = storm(random.Random(5), 0.3)
    proxy.late_s = WAIT_S / 20

    def live(number: int) -> tuple[str, object, object]:
        name = f"s{number}"
        wanted = hold(charge(Meter.SPEND, 1, limit), charge(Meter.IN_FLIGHT, 1, 1_000), id=name)
        held = within_the_deadline(lambda: behind.reserve(wanted, NOW))
        ended = within_the_deadline(lambda: behind.settle(name, actual(spend=1), NOW)) if isinstance(held, Held) else None
        return name, held, ended

    with ThreadPoolExecutor(4) as pool:
        lived = list(pool.map(live, range(times)))
    assert {type(held) for _, held, _ in lived} == {Held, Full, type(None)}

    proxy.fault = lambda: Fault.NONE
    straight = place.open()
    assert straight.balances() == straight.replay()
    there = 0
    for name, held, ended in lived:
        found = straight.find(name)
        there += found is not None
        assert found is not None or not isinstance(held, Held), f"{name} is lost"
        assert found is None or not isinstance(held, Full), f"{name} was refused and is there"
        assert ended is None or (found is not None and found.state is State.SETTLED)
    assert there <= limit
    assert sum(sum(cell) for cell in straight.balances()["spend"].values()) == there
    assert isinstance(behind.reserve(hold(charge(Meter.TOKENS, 1, 10)), NOW), Held)


def test_a_server_that_is_silent_from_the_start(proxy: Proxy, place: RedisPlace) -> None:
    proxy.fault = lambda: Fault.DROP
    began = monotonic()
    with pytest.raises(StoreUnavailable, match=r"^redis: timed out$"):
        RedisStore(parse_uri(f"redis://127.0.0.1:{proxy.port}", wait_s=WAIT_S))
    assert monotonic() - began < SLACK * WAIT_S


def test_a_unix_socket_without_time_to_connect_is_unavailable_like_any_other(place: RedisPlace) -> None:
    with pytest.raises(StoreUnavailable, match=r"^redis: timed out$"):
        RedisStore(parse_uri(place.uri, wait_s=1e-9))
