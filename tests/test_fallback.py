"""While the store does not answer: what the quotas declare, and afterwards the books are true again."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import Any

import pytest
from msgspec.structs import replace

from authz.errors import StoreUnavailable
from authz.fallback import Fallback, declaration
from authz.model import Meter
from authz.quota.ledger import Change, Charge, Ending, Full, Held, Hold, OnStoreError, Reservation, State
from authz.quota.windows import NS
from authz.store import Store, open_store
from tests.store.builders import NOW, TTL_NS, actual, charge, hold

DENY, ALLOW, SHARE = OnStoreError.DENY, OnStoreError.ALLOW, OnStoreError.SHARE
SPEND, TOKENS = Meter.SPEND, Meter.TOKENS
LATER = NOW + 2 * NS


class Flaky:
    """A store that a test takes away. With `applies` it does what it is asked, and the answer is lost."""

    def __init__(self) -> None:
        self.real: Store = open_store("sqlite:///:memory:")
        self.works = True
        self.applies = False
        self.asked = 0
        self.works_for = 10**9  # calls

    def __getattr__(self, name: str) -> Any:
        work = getattr(self.real, name)

        def call(*arguments: Any) -> Any:
            self.asked += 1
            self.works_for -= 1
            answer = work(*arguments) if self.works or self.applies else None
            if not self.works or self.works_for < 0:
                raise StoreUnavailable("made up")
            return answer

        return call


class Place:
    def __init__(self, replicas: int = 2, max_backlog: int = 100) -> None:
        self.flaky = Flaky()
        self.local = open_store("sqlite:///:memory:")
        self.passed: list[OnStoreError] = []
        store: Any = self.flaky
        self.fallback = Fallback(store, self.local, replicas=replicas, admitted=self.passed.append, max_backlog=max_backlog)

    @property
    def books(self) -> Store:
        return self.flaky.real

    def reserve(self, *charges: Charge, id: str = "", now_ns: int = NOW) -> Held | Full:
        return self.fallback.reserve(hold(*charges, id=id), now_ns)

    def come_back(self) -> None:
        self.flaky.works = True

    def posted(self, counter: str) -> tuple[int, int]:
        assert self.books.balances() == self.books.replay()
        cells = self.books.balances().get(counter, {}).values()
        return sum(cell[0] for cell in cells), sum(cell[1] for cell in cells)

    def close(self) -> None:
        self.books.close()
        self.local.close()


@pytest.fixture
def place() -> Iterator[Place]:
    found = Place()
    yield found
    found.close()


@pytest.fixture
def gone(place: Place) -> Place:
    place.flaky.works = False
    return place


def on(
    declared: OnStoreError, amount: int = 1, limit: int = 10, *, meter: Meter = TOKENS, counter: str = "", **more: Any
) -> Charge:
    return replace(charge(meter, amount, limit, counter or declared.value, **more), on_store_error=declared)


def test_while_the_store_answers_it_decides(place: Place) -> None:
    held = place.reserve(on(ALLOW, 10), id="a")
    assert isinstance(held, Held)
    assert held.degraded is None
    assert isinstance(place.reserve(on(ALLOW, 1)), Full)
    assert place.fallback.find("a") is not None
    assert place.fallback.settle("a", actual(tokens=3), NOW).state is State.SETTLED
    assert place.posted("allow") == (3, 0)
    assert place.passed == []
    assert place.local.balances() == {}


@pytest.mark.parametrize(
    ("charges", "declared"),
    [
        ((), DENY),
        ((on(DENY),), DENY),
        ((on(ALLOW), on(DENY)), DENY),
        ((on(SHARE), on(DENY)), DENY),
        ((on(ALLOW),), ALLOW),
        ((on(SHARE),), SHARE),
        ((on(SHARE), on(ALLOW)), ALLOW),
        ((on(ALLOW, enforced=False),), DENY),
        ((on(SHARE), on(DENY, enforced=False)), SHARE),
    ],
)
def test_what_quotas_declare_together(charges: tuple[Charge, ...], declared: OnStoreError) -> None:
    """Open only where every enforced quota says so; where nothing is at stake nothing has said so."""
    assert declaration(charges) is declared
    place = Place()
    place.flaky.works = False
    if declared is DENY:
        with pytest.raises(StoreUnavailable):
            place.reserve(*charges)
        assert place.local.balances() == {}
    else:
        held = place.reserve(*charges)
        assert isinstance(held, Held)
        assert held.degraded is declared
        assert [state.quota for state in held.states] == [each.quota for each in charges]
    assert place.passed == ([] if declared is DENY else [declared])
    place.close()


def test_a_share_is_the_limit_by_the_number_of_replicas(gone: Place) -> None:
    admitted = [isinstance(gone.reserve(on(SHARE, limit=11)), Held) for _ in range(8)]
    assert admitted == [True] * 5 + [False] * 3
    full = gone.reserve(on(SHARE, limit=11))
    assert isinstance(full, Full)
    assert (full.states[full.quota].limit, full.states[full.quota].used) == (5, 5)
    assert full.retry_after_s is not None
    assert isinstance(gone.reserve(on(SHARE, limit=1, counter="small")), Full)  # half of one is none


def test_replicas_together_stay_within_the_limit() -> None:
    places = [Place(replicas=3) for _ in range(3)]
    taken = 0
    for place in places:
        place.flaky.works = False
        taken += sum(isinstance(place.reserve(on(SHARE, limit=100)), Held) for _ in range(100))
        place.close()
    assert taken == 99


def test_what_is_allowed_is_refused_by_nothing_and_counted(gone: Place) -> None:
    for _ in range(20):
        assert isinstance(gone.reserve(on(ALLOW)), Held)
    assert gone.passed == [ALLOW] * 20


def test_an_ended_request_frees_its_share(gone: Place) -> None:
    wanted = on(SHARE, limit=2, meter=Meter.IN_FLIGHT)
    assert isinstance(gone.reserve(wanted, id="a"), Held)
    assert isinstance(gone.reserve(wanted), Full)
    assert gone.fallback.void("a", NOW).changed
    assert isinstance(gone.reserve(wanted, id="b"), Held)
    assert gone.fallback.settle("b", actual(), NOW).changed
    assert isinstance(gone.reserve(wanted, id="c"), Held)
    gone.fallback.tidy(NOW + TTL_NS, 100)  # nobody reported in time
    assert isinstance(gone.reserve(wanted, now_ns=NOW + TTL_NS), Held)


def test_what_was_admitted_is_in_the_books_once_the_store_is_back(gone: Place) -> None:
    for name, amount in (("settled", 30), ("voided", 50), ("open", 20)):
        assert isinstance(gone.reserve(on(ALLOW, amount, 10, meter=SPEND), id=name), Held)
    assert gone.fallback.settle("settled", actual(spend=12), NOW).state is State.SETTLED
    assert gone.fallback.void("voided", NOW).state is State.VOIDED
    with pytest.raises(StoreUnavailable):
        gone.fallback.catch_up(NOW, 100)
    assert gone.posted("allow") == (0, 0)

    gone.come_back()
    changes = gone.fallback.catch_up(LATER, 100)
    assert [change.state for change in changes] == [State.SETTLED, State.VOIDED]
    assert gone.posted("allow") == (12, 20)  # above the limit of 10: it has happened
    assert gone.fallback.catch_up(LATER, 100) == ()
    assert gone.fallback.settle("open", actual(spend=7), LATER).state is State.SETTLED
    assert gone.posted("allow") == (19, 0)
    assert isinstance(gone.reserve(on(ALLOW, 1, 10, meter=SPEND), now_ns=LATER), Full)
    assert gone.passed == [ALLOW] * 3


def test_usage_and_alerts_follow(gone: Place) -> None:
    gone.reserve(on(ALLOW, 30, 100, meter=SPEND, alerts=(10,)), id="a")
    gone.fallback.settle("a", actual(spend=12), NOW)
    gone.come_back()
    (change,) = gone.fallback.catch_up(LATER, 100)
    assert [alert.threshold for alert in change.alerts] == [10]
    (row,) = gone.books.usage("2026-01-01", "2026-01-01")
    assert (row.requests, row.cost_nanousd) == (1, 12)


def test_what_nobody_reports_on_ends_as_its_estimate(gone: Place) -> None:
    """A67."""
    gone.reserve(on(ALLOW, 30, 100, meter=SPEND), id="a")
    gone.come_back()
    gone.fallback.catch_up(NOW + TTL_NS, 100)
    (change,) = gone.fallback.expire(NOW + TTL_NS, 10)
    assert change.state is State.EXPIRED
    assert gone.posted("allow") == (30, 0)
    gone.fallback.tidy(NOW + TTL_NS, 100)
    assert gone.fallback._backlog == {}
    assert gone.fallback.settle("a", actual(spend=5), NOW + TTL_NS).state is State.CORRECTED
    assert gone.posted("allow") == (5, 0)


def test_one_end_and_no_more(gone: Place) -> None:
    """A68."""
    gone.reserve(on(ALLOW, 30, 100, meter=SPEND), id="a")
    assert gone.fallback.settle("a", actual(spend=5), NOW).changed
    again = gone.fallback.void("a", NOW)
    assert (again.changed, again.state) == (False, State.SETTLED)
    found = gone.fallback.find("a")
    assert found is not None
    assert found.state is State.SETTLED
    gone.come_back()
    gone.fallback.catch_up(LATER, 100)
    again = gone.fallback.void("a", LATER)
    assert (again.changed, again.state) == (False, State.SETTLED)
    assert gone.posted("allow") == (5, 0)


def test_reported_under_the_requests_own_id(gone: Place) -> None:
    gone.fallback.reserve(hold(on(ALLOW), request_id="x"), NOW)
    gone.fallback.reserve(hold(on(ALLOW), request_id="y"), NOW)
    gone.fallback.reserve(hold(on(ALLOW), request_id="y"), NOW)
    found = gone.fallback.find_by_request("x")
    assert found is not None
    assert found.state is State.PENDING
    assert gone.fallback.find_by_request("y") is None
    with pytest.raises(StoreUnavailable):
        gone.fallback.find_by_request("")


def test_a_settlement_of_what_the_store_holds_waits_for_the_store(place: Place) -> None:
    place.reserve(on(ALLOW, 5), id="a")
    place.flaky.works = False
    with pytest.raises(StoreUnavailable):
        place.fallback.find("a")
    with pytest.raises(StoreUnavailable):
        place.fallback.settle("a", actual(tokens=1), NOW)


def test_together_each_goes_by_what_its_own_quotas_declare(gone: Place) -> None:
    passes, refused, full = gone.fallback.reserve_many(
        [hold(on(ALLOW, 2), id="a"), hold(on(DENY), id="d"), hold(on(SHARE, 6), id="s")], NOW
    )
    assert isinstance(passes, Held)
    assert passes.degraded is ALLOW
    assert isinstance(refused, StoreUnavailable)
    assert isinstance(full, Full), "half of 10 is this replica's"
    assert gone.passed == [ALLOW]

    asked, soon, pause_over = gone.flaky.asked, NOW + 1, NOW + NS
    more = gone.fallback.reserve_many([hold(on(ALLOW), id="b"), hold(on(SHARE), id="c")], soon)
    assert [type(each) for each in more] == [Held, Held]
    assert gone.flaky.asked == asked, "for a while nobody is asked who may pass without"
    assert isinstance(gone.fallback.reserve_many([hold(on(DENY))], soon)[0], StoreUnavailable)
    assert gone.flaky.asked == asked + 1
    gone.fallback.reserve_many([hold(on(ALLOW), id="e")], pause_over + 1)
    assert gone.flaky.asked == asked + 2
    gone.come_back()
    gone.fallback.catch_up(LATER, 100)
    assert gone.posted("allow") == (0, 4)
    assert gone.posted("share") == (0, 1)
    assert gone.posted("deny") == (0, 0)


def test_together_what_was_written_and_not_answered_is_given_back_or_stands_once(place: Place) -> None:
    place.flaky.works, place.flaky.applies = False, True
    refused, passes = place.fallback.reserve_many([hold(on(DENY, 3), id="d"), hold(on(ALLOW, 2), id="a")], NOW)
    assert isinstance(refused, StoreUnavailable)
    assert isinstance(passes, Held)
    assert (place.posted("deny"), place.posted("allow")) == ((0, 3), (0, 2))
    place.come_back()
    place.fallback.catch_up(LATER, 100)
    assert (place.posted("deny"), place.posted("allow")) == ((0, 0), (0, 2))


def test_together_each_has_its_own_answer_also_without_the_store(place: Place) -> None:
    """What the store holds waits for it; what was admitted without it has ended."""
    place.reserve(on(ALLOW, 5), id="kept")
    place.flaky.works = False
    place.reserve(on(ALLOW, 2), id="admitted")
    place.reserve(on(ALLOW, 3), id="used")
    kept, admitted = place.fallback.find_many(["kept", "admitted"])
    assert isinstance(kept, StoreUnavailable)
    assert isinstance(admitted, Reservation)
    assert (admitted.id, admitted.state, admitted.created_ns, admitted.deadline_ns) == (
        "admitted",
        State.PENDING,
        NOW,
        NOW + TTL_NS,
    )
    assert [each.amount for each in admitted.charges] == [2]
    endings = [Ending("kept", actual(tokens=1)), Ending("admitted", None), Ending("used", actual(tokens=7))]
    waits, *ended = place.fallback.end_many(endings, NOW)
    assert isinstance(waits, StoreUnavailable)
    assert ended == [Change(changed=True, state=State.VOIDED), Change(changed=True, state=State.SETTLED)]
    assert [type(each) for each in place.fallback.end_many(endings[:1], NOW)] == [StoreUnavailable]
    assert [type(each) for each in place.fallback.find_many(["kept"])] == [StoreUnavailable]
    place.come_back()
    place.fallback.catch_up(LATER, 100)
    assert place.fallback.end_many(endings, LATER) == (
        Change(changed=True, state=State.SETTLED),
        Change(changed=False, state=State.VOIDED),
        Change(changed=False, state=State.SETTLED),
    )
    assert place.posted("allow") == (8, 0)


def repeated(name: str, declared: OnStoreError) -> Hold:
    wanted = hold(on(declared, 4))
    return Hold(name, wanted.charges, wanted.terms, TTL_NS, request_id="e")


def test_a_repeated_check_has_a_reservation_of_its_own(gone: Place) -> None:
    for name in ("a", "b"):
        held = gone.fallback.reserve(repeated(name, SHARE), NOW)
        assert isinstance(held, Held)
        assert held.reservation_id == name
        gone.fallback.void("a", NOW)
    gone.come_back()
    gone.fallback.catch_up(LATER, 100)
    assert gone.posted("share") == (0, 4)


@pytest.mark.parametrize("many", [False, True])
@pytest.mark.parametrize("heard", ["a", "b"])
def test_whoever_gave_up_gives_back_nothing_of_another_try(place: Place, many: bool, heard: str) -> None:
    """Envoy repeats a Check that was slow. Whichever of the two comes to the store first, one of them hears late that nobody
    waits for it, gives back what it holds, and the other one's stays."""
    for name in ("a", "b"):
        wanted = repeated(name, DENY)
        (held,) = place.fallback.reserve_many([wanted], NOW) if many else (place.fallback.reserve(wanted, NOW),)
        assert isinstance(held, Held)
        assert held.reservation_id == name
    assert place.posted("deny") == (0, 8)
    assert place.fallback.void({"a": "b", "b": "a"}[heard], NOW).changed
    assert place.posted("deny") == (0, 4)
    assert place.fallback.settle(heard, actual(tokens=3), NOW).changed
    assert place.posted("deny") == (3, 0)


def test_a_write_that_nobody_confirmed_is_not_given_back_with_what_was_asked_again(place: Place) -> None:
    """The first process had no answer of the store's, which had written all the same; another process was asked next."""
    other = Fallback(place.books, place.local, replicas=2, admitted=place.passed.append)
    place.flaky.works, place.flaky.applies = False, True
    with pytest.raises(StoreUnavailable):
        place.fallback.reserve(repeated("a", DENY), NOW)
    held = other.reserve(repeated("b", DENY), NOW)
    assert isinstance(held, Held)
    assert held.reservation_id == "b"
    place.come_back()
    place.fallback.catch_up(LATER, 100)
    assert place.posted("deny") == (0, 4)
    assert other.settle("b", actual(tokens=3), LATER).changed
    assert place.posted("deny") == (3, 0)


def test_what_the_store_did_without_saying_so_is_not_done_twice(place: Place) -> None:
    """The reservation arrived and its answer was lost: it is the same one, under the same id."""
    place.flaky.works, place.flaky.applies = False, True
    assert isinstance(place.reserve(on(ALLOW, 4), id="a"), Held)
    place.flaky.applies = False
    place.come_back()
    place.fallback.catch_up(LATER, 100)
    assert place.posted("allow") == (0, 4)
    place.fallback.settle("a", actual(tokens=3), LATER)
    assert place.posted("allow") == (3, 0)


def test_what_was_refused_but_written_all_the_same_is_given_back(place: Place) -> None:
    """No phantom spend: the request was denied and never left."""
    place.flaky.works, place.flaky.applies = False, True
    with pytest.raises(StoreUnavailable):
        place.reserve(on(DENY, 4), id="a")
    assert place.posted("deny") == (0, 4)
    place.come_back()
    place.fallback.catch_up(LATER, 100)
    assert place.posted("deny") == (0, 0)


@pytest.mark.parametrize("works_for", range(8))
def test_a_store_that_goes_away_again_loses_and_doubles_nothing(gone: Place, works_for: int) -> None:
    for name in ("a", "b"):
        gone.reserve(on(ALLOW, 30, meter=SPEND), id=name)
        gone.fallback.settle(name, actual(spend=12), NOW)
    with pytest.raises(StoreUnavailable):
        gone.reserve(on(DENY), id="c")
    gone.come_back()
    gone.flaky.works_for = works_for
    changed = 0
    for _ in range(3):
        with suppress(StoreUnavailable):
            changed += sum(change.changed for change in gone.fallback.catch_up(LATER, 100))
        gone.flaky.works_for = 10**9
    assert gone.posted("allow") == (24, 0)
    assert changed <= 2
    (row,) = gone.books.usage("2026-01-01", "2026-01-01")
    assert row.requests == 2


def test_the_backlog_is_bounded(gone: Place) -> None:
    place = Place(max_backlog=3)
    place.flaky.works = False
    for _ in range(3):
        assert isinstance(place.reserve(on(ALLOW)), Held)
    with pytest.raises(StoreUnavailable, match="3 requests wait"):
        place.reserve(on(ALLOW))
    assert len(place.passed) == 3
    place.come_back()
    assert place.fallback.catch_up(LATER, 2) == ()
    place.close()


def test_catching_up_is_done_in_pieces(gone: Place) -> None:
    for _ in range(5):
        gone.reserve(on(ALLOW, 2))
    gone.come_back()
    seen = []
    for _ in range(3):
        gone.fallback.catch_up(LATER, 2)
        seen.append(gone.posted("allow")[1])
    assert seen == [4, 8, 10]


def test_who_may_pass_does_not_wait_for_a_store_that_has_just_failed(gone: Place) -> None:
    gone.reserve(on(ALLOW))
    asked = gone.flaky.asked
    assert isinstance(gone.reserve(on(ALLOW), now_ns=NOW + NS - 1), Held)
    assert gone.flaky.asked == asked
    with pytest.raises(StoreUnavailable):
        gone.reserve(on(DENY), now_ns=NOW + NS - 1)  # who may not pass is refused only by the store itself
    assert gone.flaky.asked == asked + 1
    gone.come_back()
    held = gone.reserve(on(ALLOW), now_ns=NOW + 3 * NS)
    assert isinstance(held, Held)
    assert held.degraded is None


def test_looking_is_the_stores_alone(gone: Place) -> None:
    with pytest.raises(StoreUnavailable):
        gone.fallback.look((on(ALLOW),), NOW)


def test_replicas_are_counted_from_one() -> None:
    with pytest.raises(ValueError, match="found 0 replicas, expected 1 or more"):
        Place(replicas=0)


def test_in_threads_everything_ends_once(gone: Place) -> None:
    """Settlements race with the catching up: every one of them reaches the books, and once."""
    names = [f"r{number}" for number in range(60)]
    for name in names:
        gone.reserve(on(ALLOW, 5, meter=SPEND), id=name)
    gone.come_back()
    with ThreadPoolExecutor(4) as pool:
        ends = [pool.submit(gone.fallback.settle, name, actual(spend=3), LATER) for name in names]
        ticks = [pool.submit(gone.fallback.catch_up, LATER, 7) for _ in range(30)]
        futures: list[Future[Any]] = [*ends, *ticks]
        for future in futures:
            future.result()
    while gone.fallback.catch_up(LATER, 100):
        pass
    assert gone.posted("allow") == (180, 0)
    assert gone.fallback._backlog == {}
