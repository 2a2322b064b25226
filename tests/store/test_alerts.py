"""What every store must do: alerts are handed out until each target has them, and to one caller at a time."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from authz.model import Meter
from authz.quota.ledger import DELIVER_WITHIN_NS, Delivery, Held, Terms, alert_id
from authz.quota.windows import NS
from authz.store import Store
from tests.store.builders import MONTH, NOW, TTL_NS, actual, charge, hold
from tests.store.places import Place

SPEND = Meter.SPEND
LEASE_NS = 60 * NS
NEXT_MONTH = NOW + 32 * 86_400 * NS


def spend(store: Store, amount: int, now_ns: int = NOW, *, counter: str = "spend") -> None:
    wanted = hold(charge(SPEND, 1, 10_000, counter, alerts=(100, 250, 400)))
    assert isinstance(store.reserve(wanted, now_ns), Held)
    store.settle(wanted.id, actual(spend=amount), now_ns)


def claim(store: Store, now_ns: int = NOW, *, target: str = "ops", at_most: int = 10) -> tuple[Delivery, ...]:
    return store.claim_alerts(target, now_ns, LEASE_NS, at_most)


def thresholds(deliveries: tuple[Delivery, ...]) -> list[int]:
    return [delivery.alert.threshold for delivery in deliveries]


def test_nothing_reached_is_nothing_to_tell(store: Store) -> None:
    spend(store, 99)
    assert claim(store) == ()


def test_a_delivery_says_what_was_reached_and_when(place: Place) -> None:
    spend(place.open(), 130, NOW + 5)
    store = place.open()
    (delivery,) = claim(store, NOW + 9)
    bucket = MONTH.bucket(NOW)
    assert delivery.id == alert_id("spend", bucket, 100)
    assert (delivery.period_start_s, delivery.at_ns, delivery.attempts) == (bucket, NOW + 5, 1)
    alert = delivery.alert
    assert (alert.quota, alert.scope, alert.meter, alert.window) == ("q-spend", 'Key::"spend"', SPEND, "month")
    assert (alert.threshold, alert.limit, alert.posted, alert.organisation) == (100, 10_000, 130, "acme")


def test_what_is_claimed_is_nobody_elses_until_the_lease_ends(place: Place) -> None:
    first, second = place.open(), place.open()
    spend(first, 300)
    assert thresholds(claim(first)) == [100, 250]
    assert claim(second, NOW + LEASE_NS - 1) == ()
    again = claim(second, NOW + LEASE_NS)  # whoever had it has died
    assert thresholds(again) == [100, 250]
    assert [delivery.attempts for delivery in again] == [2, 2]
    assert claim(first, NOW + LEASE_NS) == ()


def test_what_is_delivered_is_not_offered_again(place: Place) -> None:
    store = place.open()
    spend(store, 300)
    first, second = claim(store)
    for _ in range(2):
        store.delivered("ops", first.id, NOW + 1)
    store.retry_alert("ops", first.id, NOW + 2)  # late, and too late
    store.retry_alert("ops", second.id, NOW + 5)
    assert claim(place.open(), NOW + 4) == ()
    (again,) = claim(place.open(), NOW + 5)
    assert (again.id, again.attempts) == (second.id, 2)
    store.delivered("ops", second.id, NOW + 6)
    assert claim(store, NOW + 10 * LEASE_NS) == ()


def test_claims_outlive_a_crash(place: Place) -> None:
    store = place.open()
    spend(store, 300)
    first, _ = claim(store)
    store.delivered("ops", first.id, NOW)
    place.crash()
    store = place.open()
    assert claim(store, NOW + 1) == ()
    assert thresholds(claim(store, NOW + LEASE_NS)) == [250]


def test_each_target_has_its_own(store: Store) -> None:
    spend(store, 100)
    (one,) = claim(store, target="one")
    (two,) = claim(store, target="two")
    assert one == two
    store.delivered("one", one.id, NOW)
    store.retry_alert("two", two.id, NOW)
    assert claim(store, target="one") == ()
    assert thresholds(claim(store, target="two")) == [100]


def test_the_oldest_first_and_no_more_than_asked_for(store: Store) -> None:
    for step in range(5):
        spend(store, 100, NOW + step, counter=f"c{4 - step}")
    assert [delivery.alert.quota for delivery in claim(store, NOW + 9, at_most=2)] == ["q-c4", "q-c3"]
    assert [delivery.alert.quota for delivery in claim(store, NOW + 9, at_most=9)] == ["q-c2", "q-c1", "q-c0"]


def test_a_threshold_is_told_once_a_period(store: Store) -> None:
    for now_ns in (NOW, NOW + 1, NEXT_MONTH):
        spend(store, 60, now_ns)
        for delivery in claim(store, now_ns):
            store.delivered("ops", delivery.id, now_ns)
    assert claim(store, NEXT_MONTH + LEASE_NS) == ()
    spend(store, 60, NEXT_MONTH)
    (delivery,) = claim(store, NEXT_MONTH + LEASE_NS)
    assert delivery.period_start_s == MONTH.bucket(NEXT_MONTH)


def test_an_expiry_that_reaches_a_threshold_is_told(store: Store) -> None:
    assert isinstance(store.reserve(hold(charge(SPEND, 100, 500, alerts=(100,))), NOW), Held)
    store.expire(NOW + TTL_NS, 1)
    assert thresholds(claim(store, NOW + TTL_NS)) == [100]


def test_what_is_too_old_is_no_longer_news(store: Store) -> None:
    spend(store, 100)
    assert claim(store, NOW + DELIVER_WITHIN_NS + 1) == ()
    assert thresholds(claim(store, NOW + DELIVER_WITHIN_NS)) == [100]


def test_unknown_names_are_ignored(store: Store) -> None:
    spend(store, 100)
    store.delivered("ops", "nothing", NOW)
    store.retry_alert("ops", "nothing", NOW)
    assert thresholds(claim(store)) == [100]


def test_pruning_forgets_what_was_delivered_with_its_counter(store: Store) -> None:
    spend(store, 100)
    (delivery,) = claim(store)
    store.delivered("ops", delivery.id, NOW)
    while store.prune(NOW + 90 * 86_400 * NS, 86_400 * NS, 100):
        pass
    assert claim(store, NOW + 1) == ()


def test_two_that_ask_at_once_share(place: Place) -> None:
    stores = [place.open(), place.open()]
    for number in range(40):
        spend(stores[0], 100, counter=f"c{number}")
    with ThreadPoolExecutor(8) as pool:
        rounds = list(pool.map(lambda turn: claim(stores[turn % 2], at_most=3), range(40)))
    ids = [delivery.id for deliveries in rounds for delivery in deliveries]
    assert len(ids) == len(set(ids)) == 40


def test_the_terms_organisation_is_told(store: Store) -> None:
    other = Terms("2026-01-01", "umbrella", "t", "", "k", "m", "chat", None, {})
    wanted = hold(charge(SPEND, 1, 500, alerts=(1,)), on=other)
    assert isinstance(store.reserve(wanted, NOW), Held)
    (alert,) = store.settle(wanted.id, actual(spend=1), NOW).alerts
    assert alert.organisation == "umbrella"
