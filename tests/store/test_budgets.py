"""What every store must do: budgets that are raised and resumed by hand."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.model import MAX_AMOUNT, Meter, QuotaState
from authz.quota.ledger import Charge, Full, Held
from authz.quota.windows import GAUGE, NS, Period, calendar, sliding
from authz.store import Store, open_store
from tests.store.builders import MONTH, NOW, actual, charge, hold
from tests.store.places import Place
from tests.store.spender import USD, admitted, ten_cents

SPEND = Meter.SPEND
BUDGET = charge(SPEND, 0, 100)
DAY_NS = 86_400 * NS
NEXT_MONTH = NOW + 32 * DAY_NS


def change(store: Store, by: int, now_ns: int = NOW, *, raise_id: str = "a", of: Charge = BUDGET) -> QuotaState:
    return store.raise_limit(raise_id, of, by, "ann", "the launch", now_ns)


def admits(store: Store, amount: int, now_ns: int = NOW, limit: int = 100) -> Held | Full:
    return store.reserve(hold(charge(SPEND, amount, limit)), now_ns)


def limit(store: Store, now_ns: int = NOW) -> int:
    (state,) = store.look((BUDGET,), now_ns)
    return state.limit


def test_a_raise_is_felt_by_the_next_request(place: Place) -> None:
    store, another = place.open(), place.open()
    assert isinstance(admits(store, 100), Held)
    full = admits(another, 1)
    assert isinstance(full, Full)
    assert full.retry_after_s is not None
    state = change(store, 50)
    assert (state.quota, state.limit, state.used, state.remaining) == ("q-spend", 150, 100, 50)
    held = admits(another, 50)
    assert isinstance(held, Held)
    assert (held.states[0].limit, held.states[0].used, held.states[0].remaining) == (150, 100, 0)
    full = admits(another, 1)
    assert isinstance(full, Full)
    assert (full.states[0].limit, full.states[0].used) == (150, 150)
    assert limit(another) == 150
    assert store.balances() == store.replay() == {"spend": {MONTH.bucket(NOW): (0, 150)}}


def test_an_amount_above_the_limit_fits_once_it_is_raised_that_far(store: Store) -> None:
    full = admits(store, 120)
    assert isinstance(full, Full)
    assert full.retry_after_s is None
    change(store, 20)
    assert isinstance(admits(store, 120), Held)


def test_raises_add_up_and_can_be_taken_back_to_nothing_and_no_further(store: Store) -> None:
    assert [change(store, by, raise_id=str(by)).limit for by in (50, 25, -75, -30, -500)] == [150, 175, 100, 70, 0]
    assert isinstance(admits(store, 1), Full)
    assert isinstance(admits(store, 0), Held)
    assert change(store, 431, raise_id="z").limit == 1  # what was taken below 0 is owed as well
    assert limit(store) == 1


def test_the_next_period_starts_without(store: Store) -> None:
    change(store, 50)
    assert isinstance(admits(store, 101, NEXT_MONTH), Full)
    assert limit(store, NEXT_MONTH) == 100
    assert change(store, 7, NEXT_MONTH, raise_id="b").limit == 107
    assert isinstance(admits(store, 107, NEXT_MONTH), Held)


def test_a_raise_before_the_first_request_of_a_period_holds(place: Place) -> None:
    assert change(place.open(), 50).limit == 150
    store = place.open()
    assert limit(store) == 150
    assert isinstance(admits(store, 150), Held)
    assert store.balances() == store.replay()


def test_a_clock_that_is_behind_is_in_the_period_that_was_raised(store: Store) -> None:
    """A73, A74: the time of a counter never goes back, and a raise belongs to where the counter is."""
    change(store, 50, NEXT_MONTH)
    assert isinstance(admits(store, 150, NOW), Held)
    assert isinstance(admits(store, 1, NEXT_MONTH), Full)


def test_every_limit_on_the_counter_is_raised_and_no_other(store: Store) -> None:
    strict, other = charge(SPEND, 0, 40, "spend", enforced=False), charge(SPEND, 0, 100, "other")
    change(store, 50)
    assert [state.limit for state in store.look((BUDGET, strict, other), NOW)] == [150, 90, 100]


def test_a_repeated_raise_changes_nothing(store: Store) -> None:
    assert [change(store, 50).limit for _ in range(3)] == [150, 150, 150]
    assert len(store.raises(0)) == 1


def test_raises_are_recorded(place: Place) -> None:
    store = place.open()
    change(store, 50)
    change(store, -20, NOW + DAY_NS, raise_id="b")
    first, second = place.open().raises(0)
    assert (first.id, first.quota, first.scope, first.counter) == ("a", "q-spend", 'Key::"spend"', "spend")
    assert (first.by, first.who, first.why, first.at_ns) == (50, "ann", "the launch", NOW)
    assert first.period_start_s == second.period_start_s == MONTH.bucket(NOW)
    assert (second.by, second.at_ns) == (-20, NOW + DAY_NS)
    assert store.raises(NOW + 1) == (second,)
    assert store.raises(NOW + DAY_NS + 1) == ()


def test_a_raise_outlives_a_crash_and_the_record_outlives_its_counter(place: Place) -> None:
    change(place.open(), 50)
    place.crash()
    store = place.open()
    assert limit(store) == 150
    later = NOW + 90 * DAY_NS
    while store.prune(later, DAY_NS, 100):
        pass
    assert store.balances() == store.replay() == {}
    assert [row.by for row in store.raises(0)] == [50]
    assert limit(store, later) == 100


def test_pruning_leaves_the_raises_of_the_period(store: Store) -> None:
    change(store, 50)
    while store.prune(NOW + 20 * DAY_NS, DAY_NS, 100):
        pass
    assert limit(store, NOW + 20 * DAY_NS) == 150


def test_settlement_and_repeats_know_the_raised_limit(store: Store) -> None:
    change(store, 50)
    wanted = hold(charge(SPEND, 120, 100, alerts=(100,)))
    for _ in range(2):
        held = store.reserve(wanted, NOW)
        assert isinstance(held, Held)
        assert (held.states[0].limit, held.states[0].used) == (150, 0)
    (alert,) = store.settle(wanted.id, actual(spend=120), NEXT_MONTH).alerts
    assert (alert.threshold, alert.limit, alert.posted) == (100, 150, 120)


@pytest.mark.parametrize("window", [sliding(60), GAUGE])
def test_only_budgets_are_raised(store: Store, window: object) -> None:
    rate = charge(Meter.REQUESTS, 0, 5, window=window)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="expected a budget"):
        change(store, 5, of=rate)
    assert store.raises(0) == ()


@pytest.mark.parametrize("by", [0, MAX_AMOUNT + 1, -MAX_AMOUNT - 1])
def test_absurd_raises_are_refused(store: Store, by: int) -> None:
    with pytest.raises(ValueError, match=f"a raise by {by}, expected"):
        change(store, by)
    assert store.raises(0) == ()


def test_raises_do_not_add_up_beyond_what_an_amount_may_be(store: Store) -> None:
    daily = charge(SPEND, 0, 100, "daily", window=calendar(Period.DAY))
    assert change(store, MAX_AMOUNT, of=daily).limit == MAX_AMOUNT
    with pytest.raises(ValueError, match="expected at most"):
        change(store, 1, raise_id="b", of=daily)
    assert change(store, -MAX_AMOUNT, raise_id="c", of=daily).limit == 100
    assert [row.id for row in store.raises(0)] == ["a", "c"]


def test_hostile_words_are_only_words(store: Store) -> None:
    """A56."""
    for number, text in enumerate(("'; DROP TABLE raises; --", '"', "\\", "{}", "ключ", "a\nb")):
        store.raise_limit(f"{text}{number}", charge(SPEND, 0, 100, text), 1, text, text, NOW)
    assert (
        [row.who for row in store.raises(0)] == [row.why for row in store.raises(0)] == [row.counter for row in store.raises(0)]
    )
    assert len(store.raises(0)) == 6


def test_a_hold_and_a_raise_across_a_change_of_the_clocks_stay_in_their_day(store: Store) -> None:
    """A82: 2026-03-29 has 23 hours in Berlin; what was reserved on it settles in it, and what was raised ends with it."""
    day = calendar(Period.DAY, "Europe/Berlin")
    budget = charge(SPEND, 60, 100, "daily", window=day)
    evening, after = 1_774_815_300 * NS, 1_774_821_900 * NS  # 22:15 and, in the next day, 00:05 of Berlin
    assert day.bucket(evening) == 1_774_738_800
    assert day.bucket(after) == 1_774_738_800 + 23 * 3_600
    change(store, 50, evening, of=budget)
    wanted = hold(budget)
    assert isinstance(store.reserve(wanted, evening), Held)
    (state,) = store.look((budget,), evening)
    assert (state.limit, state.used) == (150, 60)
    assert state.reset_s <= 2 * 3_600
    (state,) = store.look((budget,), after)
    assert (state.limit, state.used) == (100, 0)
    store.settle(wanted.id, actual(spend=70), after)
    (state,) = store.look((budget,), after)
    assert state.used == 0
    assert store.balances() == store.replay() == {"daily": {day.bucket(evening): (70, 0)}}


def test_a_raise_amid_a_thousand_requests_admits_exactly_as_much_more(store: Store) -> None:
    """A65: 5 USD and 2 more, by 0.10 USD."""
    budget = charge(SPEND, 0, 5 * USD)
    with ThreadPoolExecutor(8) as pool:
        taken = [pool.submit(admitted, store, ten_cents(f"r{number}")) for number in range(500)]
        pool.submit(change, store, 2 * USD, of=budget).result()
        taken += [pool.submit(admitted, store, ten_cents(f"s{number}")) for number in range(100)]
    assert sum(each.result() for each in taken) == 70
    (state,) = store.look((budget,), NOW)
    assert (state.limit, state.used) == (7 * USD, 7 * USD)


STEPS = st.one_of(
    st.tuples(st.just("reserve"), st.integers(0, 150)),
    st.tuples(st.just("raise"), st.integers(-200, 200).filter(bool)),
    st.tuples(st.just("pass"), st.sampled_from([1, 20, 40])),
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=30))
def test_nothing_is_admitted_above_the_limit_and_the_raises_of_its_period(steps: list[tuple[str, int]]) -> None:
    """I1, against three numbers by period."""
    store, now_ns = open_store("sqlite:///:memory:"), NOW
    used: dict[int, int] = {}
    raised: dict[int, int] = {}
    for number, (what, amount) in enumerate(steps):
        bucket = MONTH.bucket(now_ns)
        if what == "pass":
            now_ns += amount * DAY_NS
        elif what == "raise":
            raised[bucket] = raised.get(bucket, 0) + amount
            state = change(store, amount, now_ns, raise_id=str(number))
            assert (state.limit, state.used) == (max(0, 100 + raised[bucket]), used.get(bucket, 0))
        else:
            fits = used.get(bucket, 0) + amount <= max(0, 100 + raised.get(bucket, 0))
            assert isinstance(admits(store, amount, now_ns), Held) == fits
            used[bucket] = used.get(bucket, 0) + amount * fits
        assert store.balances() == store.replay()
    assert [row.by for row in store.raises(0)] == [amount for what, amount in steps if what == "raise"]
    store.close()
