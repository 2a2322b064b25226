"""What an answer is posted at, by what is known of it: the upstream's count, the bound, or what the request itself said."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from authz.inference.estimate import amounts
from authz.model import Meter, Outcome, Price, Receipt, Usage
from authz.quota.belongings import Belonging
from authz.quota.ledger import Actual, Change, Ending, Reservation, State, Terms
from authz.settlement import Doubt, Settler

PRICE = Price(input=50_000_000, output=80_000_000, cached_input=25_000_000)
BOUND = amounts(Usage(100, 50), PRICE)
SECONDS = {Meter.REQUESTS: 1, Meter.AUDIO_SECONDS: 13, Meter.SPEND: 400_834, Meter.IN_FLIGHT: 1}


class Store:
    """Holds one reservation and keeps how it ended."""

    def __init__(self, price: Price | None) -> None:
        terms = Terms("2026-11-30", "o", "t", "", "k", "m", "a", price, BOUND if price else SECONDS)
        self.reservation = Reservation("r", State.PENDING, created_ns=0, deadline_ns=1, charges=(), terms=terms)
        self.actual: Actual | None = None

    def find(self, reservation_id: str) -> Reservation | None:
        return self.reservation

    def find_many(self, reservation_ids: Sequence[str]) -> list[Reservation]:
        return [self.reservation for _ in reservation_ids]

    def find_by_request(self, request_id: str) -> Reservation | None:
        return None

    def settle(self, reservation_id: str, actual: Actual, now_ns: int) -> Change:
        self.actual = actual
        return Change(changed=True, state=State.SETTLED)

    def void(self, reservation_id: str, now_ns: int) -> Change:
        return Change(changed=True, state=State.VOIDED)

    def end_many(self, endings: Sequence[Ending], now_ns: int) -> list[Change]:
        return [self.void("r", 0) if each.actual is None else self.settle("r", each.actual, 0) for each in endings]

    def expire(self, now_ns: int, at_most: int) -> tuple[Change, ...]:
        return ()

    def keep(self, belonging: Belonging) -> None:
        raise AssertionError("nothing here is a file or a batch")


def settled(price: Price | None, usage: Usage | None, outcome: Outcome = Outcome.ANSWERED) -> tuple[Actual | None, list[Doubt]]:
    store, doubts = Store(price), list[Doubt]()
    settler = Settler(
        store,
        clock=lambda: 0,
        record=lambda record: None,
        observe=lambda observed: None,
        alerted=lambda alert: None,
        doubted=doubts.append,
    )
    settler.settle(Receipt("r", "", outcome, 200, usage))
    return store.actual, doubts


@pytest.mark.parametrize("usage", [Usage(100, 50), Usage(40, 20, 30), Usage(0, 1)])
def test_a_count_within_the_bound_is_posted(usage: Usage) -> None:
    assert settled(PRICE, usage) == (Actual(amounts(usage, PRICE), usage), [])


def test_a70_without_a_count_the_bound_stands_and_is_counted() -> None:
    assert settled(PRICE, None) == (Actual(BOUND, None), [Doubt.MISSING])
    assert settled(PRICE, None, Outcome.ABANDONED) == (Actual(BOUND, None), []), "nothing odd: the client left"


@pytest.mark.parametrize("usage", [Usage(101, 50), Usage(100, 51)])
def test_a69_a_count_above_the_bound_is_posted_in_full_and_counted(usage: Usage) -> None:
    assert settled(PRICE, usage) == (Actual(amounts(usage, PRICE), usage), [Doubt.ABOVE_BOUND])


@pytest.mark.parametrize("usage", [None, Usage(1, 1), Usage(10**6, 10**6)])
def test_audio_settles_on_the_request_whatever_count_came(usage: Usage | None) -> None:
    assert settled(None, usage) == (Actual(SECONDS, None), [])


def test_an_upstream_error_posts_nothing() -> None:
    assert settled(PRICE, None, Outcome.UPSTREAM_ERROR) == (None, [])
