"""What every store must do: the ledger's contract, case by case (A65 to A83 as far as a store decides them)."""

from __future__ import annotations

import pytest

from authz.model import MAX_AMOUNT, Meter, Usage
from authz.quota.ledger import TRANSITIONS, Change, Ending, Event, Full, Held, Hold, State
from authz.quota.windows import GAUGE_RETRY_NS, NS, Period, calendar, sliding
from authz.store import Store
from tests.store.builders import MINUTE, MONTH, NOW, TTL_NS, actual, charge, hold, terms
from tests.store.places import Place

TOKENS = Meter.TOKENS
SPEND = Meter.SPEND


def reserve(store: Store, wanted: Hold, now_ns: int = NOW) -> str:
    held = store.reserve(wanted, now_ns)
    assert isinstance(held, Held), held
    return held.reservation_id


def refuse(store: Store, wanted: Hold, now_ns: int = NOW) -> Full:
    full = store.reserve(wanted, now_ns)
    assert isinstance(full, Full), full
    return full


def posted(store: Store, counter: str) -> int:
    return sum(cell[0] for cell in store.balances().get(counter, {}).values())


def pending(store: Store, counter: str) -> int:
    return sum(cell[1] for cell in store.balances().get(counter, {}).values())


class TestReserve:
    def test_holds_every_charge(self, store: Store) -> None:
        wanted = hold(charge(TOKENS, 300, 1_000), charge(SPEND, 5, 100), charge(Meter.IN_FLIGHT, 1, 2))
        held = store.reserve(wanted, NOW)
        assert isinstance(held, Held)
        assert held.reservation_id == wanted.id
        assert [(s.used, s.requested, s.remaining, s.window) for s in held.states] == [
            (0, 300, 700, "minute"),
            (0, 5, 95, "month"),
            (0, 1, 1, "in flight"),
        ]
        assert 60 < held.states[0].reset_s <= 61
        assert held.states[1].reset_s == pytest.approx(31 * 86_400, abs=1)
        assert [pending(store, name) for name in ("tokens", "spend", "in_flight")] == [300, 5, 1]
        found = store.find(wanted.id)
        assert found is not None
        assert (found.state, found.charges, found.terms) == (State.PENDING, wanted.charges, wanted.terms)
        assert (found.created_ns, found.deadline_ns) == (NOW, NOW + TTL_NS)

    def test_all_or_nothing(self, store: Store) -> None:
        """A76, A77: the request that the last quota refuses has charged nothing to the first."""
        reserve(store, hold(charge(SPEND, 90, 100)))
        before = store.balances()
        full = refuse(store, hold(charge(TOKENS, 300, 1_000), charge(SPEND, 11, 100)))
        assert (full.quota, [s.used for s in full.states]) == (1, [0, 90])
        assert full.retry_after_s == pytest.approx(31 * 86_400, abs=1)
        assert store.balances() == store.replay() == before

    def test_names_the_quota_that_waits_longest(self, store: Store) -> None:
        reserve(store, hold(charge(TOKENS, 10, 10), charge(SPEND, 10, 10), charge(Meter.REQUESTS, 1, 1)))
        full = refuse(store, hold(charge(TOKENS, 1, 10), charge(SPEND, 1, 10), charge(Meter.REQUESTS, 1, 1)))
        assert full.quota == 1

    def test_above_the_limit_itself_never_fits(self, store: Store) -> None:
        reserve(store, hold(charge(SPEND, 10, 10)))
        full = refuse(store, hold(charge(SPEND, 1, 10), charge(TOKENS, 11, 10)))
        assert (full.quota, full.retry_after_s) == (1, None)
        assert store.find("nothing") is None

    def test_waiting_as_told_is_enough_and_not_too_long(self, store: Store) -> None:
        """A78."""
        for step in range(5):
            reserve(store, hold(charge(TOKENS, 2, 10)), NOW + step * 7 * NS)
        now_ns = NOW + 29 * NS
        full = refuse(store, hold(charge(TOKENS, 3, 10)), now_ns)
        assert full.retry_after_s is not None
        fits_ns = now_ns + round(full.retry_after_s * NS)
        refuse(store, hold(charge(TOKENS, 3, 10)), fits_ns - 1_000_000)
        reserve(store, hold(charge(TOKENS, 3, 10)), fits_ns)

    def test_shadow_quotas_count_and_never_refuse(self, store: Store) -> None:
        wanted = [hold(charge(TOKENS, 8, 10, enforced=False), charge(SPEND, 1, 2)) for _ in range(3)]
        reserve(store, wanted[0])
        held = store.reserve(wanted[1], NOW)
        assert isinstance(held, Held)
        assert (held.states[0].used, held.states[0].enforced, held.states[0].remaining) == (8, False, 0)
        assert refuse(store, wanted[2]).quota == 1
        assert pending(store, "tokens") == 16

    def test_one_counter_under_two_limits_counts_once(self, store: Store) -> None:
        strict, loose = charge(TOKENS, 6, 5, "t", enforced=False), charge(TOKENS, 6, 10, "t")
        first = reserve(store, hold(strict, loose))
        assert pending(store, "t") == 6
        assert refuse(store, hold(strict, loose)).quota == 1
        store.settle(first, actual(tokens=4), NOW)
        assert (posted(store, "t"), pending(store, "t")) == (4, 0)

    def test_a_full_gauge_gives_a_guess(self, store: Store) -> None:
        """A72."""
        reserve(store, hold(charge(Meter.IN_FLIGHT, 1, 1)))
        assert refuse(store, hold(charge(Meter.IN_FLIGHT, 1, 1))).retry_after_s == GAUGE_RETRY_NS / NS

    @pytest.mark.parametrize("amount", [-1, MAX_AMOUNT + 1])
    def test_absurd_amounts_are_refused(self, store: Store, amount: int) -> None:
        """A75."""
        kept = reserve(store, hold(charge(TOKENS, 1, 10)))
        with pytest.raises(ValueError, match=f"an amount of {amount} tokens, expected 0 to"):
            store.reserve(hold(charge(TOKENS, amount, 10), on=terms()), NOW)
        with pytest.raises(ValueError, match=f"an amount of {amount} spend"):
            store.reserve(hold(charge(TOKENS, 1, 10), on=terms(spend=amount)), NOW)
        with pytest.raises(ValueError, match=f"an amount of {amount} tokens"):
            store.settle(kept, actual(tokens=amount), NOW)
        with pytest.raises(ValueError, match=f"an amount of {amount}"):
            store.settle(kept, actual(Usage(1, amount), tokens=1), NOW)
        with pytest.raises(ValueError, match="a hold of 0 ns"):
            store.reserve(Hold("x", (), terms(), 0), NOW)
        assert store.balances() == {"tokens": {MINUTE.bucket(NOW): (0, 1)}}

    def test_many_in_one_transaction_are_each_their_own(self, store: Store) -> None:
        wanted = [hold(charge(TOKENS, 4, 10)) for _ in range(4)]
        answers = store.reserve_many(wanted, NOW)
        assert [type(answer) for answer in answers] == [Held, Held, Full, Full]
        assert [answer.states[0].used for answer in answers] == [0, 4, 8, 8]
        assert store.balances() == store.replay()

    def test_nothing_at_all_is_answered_with_nothing(self, store: Store) -> None:
        assert store.reserve_many([], NOW) == ()

    def test_hostile_names_are_only_names(self, store: Store) -> None:
        """A45, A56."""
        for name in ("'; DROP TABLE counters; --", '"', "\\", "{}", "ключ", "%s", "a\nb"):
            wanted = hold(charge(TOKENS, 1, 1, name), id=name, request_id=name)
            assert reserve(store, wanted) == name
            found = store.find_by_request(name)
            assert found is not None
            assert found.id == name
            assert pending(store, name) == 1


class TestRepeats:
    def test_an_id_is_used_once(self, store: Store) -> None:
        wanted = hold(charge(TOKENS, 6, 20), id="same")
        assert reserve(store, wanted) == reserve(store, wanted) == "same"
        with pytest.raises(ValueError, match="id is already used"):
            store.reserve(hold(charge(TOKENS, 7, 20), id="same"), NOW)
        store.settle("same", actual(tokens=1), NOW)
        with pytest.raises(ValueError, match="id is already used"):
            store.reserve(wanted, NOW)
        assert (posted(store, "tokens"), pending(store, "tokens")) == (1, 0)

    def test_found_by_request_only_when_there_is_no_doubt(self, store: Store) -> None:
        first = reserve(store, hold(charge(TOKENS, 1, 20), request_id="x"))
        found = store.find_by_request("x")
        assert found is not None
        assert found.id == first
        second = reserve(store, hold(charge(TOKENS, 2, 20), request_id="x"))
        assert store.find_by_request("x") is None
        store.void(first, NOW)
        found = store.find_by_request("x")
        assert found is not None
        assert found.id == second
        reserve(store, hold(charge(TOKENS, 1, 20)))
        assert store.find_by_request("") is store.find_by_request("y") is None
        store.expire(NOW + TTL_NS, 10)
        assert store.find_by_request("x") is not None  # a late report may still correct it
        store.settle(second, actual(tokens=1), NOW)
        assert store.find_by_request("x") is None


class TestEnds:
    def test_settling_posts_what_was_used_in_full(self, store: Store) -> None:
        """A69: above what was reserved, above the limit; the next request feels it."""
        first = reserve(store, hold(charge(SPEND, 40, 100), charge(TOKENS, 9, 10), charge(Meter.IN_FLIGHT, 1, 1)))
        change = store.settle(first, actual(Usage(3, 2), spend=120, tokens=5), NOW)
        assert change == Change(changed=True, state=State.SETTLED)
        assert [posted(store, name) for name in ("spend", "tokens", "in_flight")] == [120, 5, 0]
        assert [pending(store, name) for name in ("spend", "tokens", "in_flight")] == [0, 0, 0]
        full = refuse(store, hold(charge(SPEND, 0, 100)))
        assert (full.states[0].used, full.states[0].remaining) == (120, 0)

    def test_what_is_not_known_is_posted_at_its_bound(self, store: Store) -> None:
        """A70: a settlement without a meter's amount, and an expiry."""
        bound = terms(spend=50, tokens=400)
        charges = (charge(SPEND, 5, 1_000), charge(TOKENS, 30, 1_000), charge(Meter.REQUESTS, 1, 10))
        store.settle(reserve(store, hold(*charges, on=bound)), actual(tokens=7), NOW)
        assert [posted(store, name) for name in ("spend", "tokens", "requests")] == [50, 7, 1]
        reserve(store, hold(*charges, on=bound))
        store.expire(NOW + TTL_NS, 10)
        assert [posted(store, name) for name in ("spend", "tokens", "requests")] == [100, 407, 2]

    def test_voiding_gives_everything_back(self, store: Store) -> None:
        """A72."""
        first = reserve(store, hold(charge(SPEND, 40, 100), charge(Meter.IN_FLIGHT, 1, 1)))
        assert store.void(first, NOW) == Change(changed=True, state=State.VOIDED)
        assert store.balances() == store.replay() == {}
        reserve(store, hold(charge(SPEND, 100, 100), charge(Meter.IN_FLIGHT, 1, 1)))

    def test_expiry_posts_the_estimate_and_one_late_settlement_corrects_it(self, store: Store) -> None:
        """A66, A67."""
        first = reserve(store, hold(charge(SPEND, 40, 100), charge(Meter.IN_FLIGHT, 1, 1)))
        assert store.expire(NOW + TTL_NS - 1, 10) == ()
        assert store.expire(NOW + TTL_NS, 10) == (Change(changed=True, state=State.EXPIRED),)
        assert (posted(store, "spend"), pending(store, "in_flight")) == (40, 0)
        assert store.settle(first, actual(spend=12), NOW) == Change(changed=True, state=State.CORRECTED)
        assert store.settle(first, actual(spend=99), NOW) == Change(changed=False, state=State.CORRECTED)
        assert store.balances() == store.replay() == {"spend": {MONTH.bucket(NOW): (12, 0)}}

    def test_a_late_void_takes_the_estimate_back(self, store: Store) -> None:
        first = reserve(store, hold(charge(SPEND, 40, 100)))
        store.expire(NOW + TTL_NS, 10)
        assert store.void(first, NOW).state is State.CORRECTED
        assert posted(store, "spend") == 0
        (row,) = store.usage("2026-01-01", "2026-01-01")
        assert (row.requests, row.estimated_nanousd, row.cost_nanousd) == (0, 0, 0)

    def test_every_event_in_every_state(self, store: Store) -> None:
        """A68: the table and nothing else."""
        leads: dict[State, list[Event]] = {
            State.PENDING: [],
            State.SETTLED: [Event.SETTLE],
            State.VOIDED: [Event.VOID],
            State.EXPIRED: [Event.EXPIRE],
            State.CORRECTED: [Event.EXPIRE, Event.SETTLE],
        }

        def fire(reservation: str, event: Event) -> Change:
            if event is Event.SETTLE:
                return store.settle(reservation, actual(tokens=3), NOW)
            if event is Event.VOID:
                return store.void(reservation, NOW)
            return (*store.expire(NOW + TTL_NS, 100), Change(changed=False, state=None))[0]

        for state, events in leads.items():
            for event in Event:
                reservation = reserve(store, hold(charge(TOKENS, 5, 1_000)))
                for lead in events:
                    assert fire(reservation, lead).changed
                before = store.balances()
                change = fire(reservation, event)
                expected = TRANSITIONS.get((state, event))
                found = store.find(reservation)
                assert found is not None
                assert (change.changed, found.state) == (expected is not None, expected or state)
                if expected is None:
                    assert store.balances() == before
                store.void(reservation, NOW)
        assert store.balances() == store.replay()

    def test_unknown_reservations_are_ignored(self, store: Store) -> None:
        """A3."""
        nothing = Change(changed=False, state=None)
        assert store.settle("guess", actual(tokens=1), NOW) == store.void("guess", NOW) == nothing
        assert store.balances() == {}

    def test_very_many_at_once(self, store: Store) -> None:
        """More than one statement takes parameters for."""
        ids = [f"many-{number}" for number in range(600)]
        store.reserve_many([hold(charge(TOKENS, 2, 10_000, f"c{id}"), id=id) for id in ids], NOW)
        assert [found and found.id for found in store.find_many(ids)] == ids
        changes = store.end_many([Ending(id, actual(tokens=1)) for id in ids[:300]], NOW)
        assert {change.state for change in changes} == {State.SETTLED}
        assert len(store.expire(NOW + 2 * TTL_NS, 1_000)) == 300
        states = [found and found.state for found in store.find_many(ids)]
        assert states == [State.SETTLED] * 300 + [State.EXPIRED] * 300
        assert store.balances() == store.replay()

    def test_the_sweeper_takes_what_it_is_given_the_oldest_first(self, store: Store) -> None:
        names = [reserve(store, hold(charge(TOKENS, 1, 100)), NOW + step) for step in range(5)]
        assert len(store.expire(NOW + 2 * TTL_NS, 2)) == 2
        states = [found.state for found in map(store.find, names) if found is not None]
        assert states == [State.EXPIRED] * 2 + [State.PENDING] * 3
        assert len(store.expire(NOW + 2 * TTL_NS, 10)) == 3

    def test_a_hold_across_a_reset_stays_in_its_window(self, store: Store) -> None:
        """A82: reserved in January, settled in February."""
        january, february = NOW, NOW + 31 * 86_400 * NS
        first = reserve(store, hold(charge(SPEND, 40, 100)), february - NS)
        reserve(store, hold(charge(SPEND, 100, 100)), february)
        store.settle(first, actual(spend=70), february + NS)
        assert store.balances()["spend"] == {MONTH.bucket(january): (70, 0), MONTH.bucket(february): (0, 100)}
        assert store.balances() == store.replay()

    def test_a_correction_of_what_counts_no_more_changes_no_balance(self, store: Store) -> None:
        first = reserve(store, hold(charge(TOKENS, 5, 10)))
        reserve(store, hold(charge(TOKENS, 5, 10)), NOW + 3_600 * NS)
        before = store.balances()
        assert store.settle(first, actual(tokens=9), NOW + 3_600 * NS).changed
        assert store.balances() == store.replay() == before

    def test_a_clock_behind_the_others_gets_nothing_extra(self, store: Store) -> None:
        """A73, A74."""
        ahead = NOW + 120 * NS
        taken = 0
        for step in range(40):
            now_ns = (NOW, ahead)[step % 2] + step * NS // 100
            taken += isinstance(store.reserve(hold(charge(TOKENS, 1, 10)), now_ns), Held)
        assert taken <= 11  # one of them came before the clock that is ahead was seen


class TestAlerts:
    def test_each_threshold_once(self, place: Place) -> None:
        store = place.open()
        budget = charge(SPEND, 30, 1_000, alerts=(100, 250, 400))

        def settle(amount: int, now_ns: int = NOW) -> list[int]:
            return [
                alert.threshold
                for alert in store.settle(reserve(store, hold(budget), now_ns), actual(spend=amount), now_ns).alerts
            ]

        assert settle(99) == []
        assert settle(1) == [100]
        assert settle(0) == []
        assert settle(350) == [250, 400]
        store = place.open()  # another process, or this one after a restart
        assert settle(50) == []
        assert settle(120, NOW + 40 * 86_400 * NS) == [100]

    def test_says_what_was_reached(self, store: Store) -> None:
        change = store.settle(reserve(store, hold(charge(SPEND, 1, 500, alerts=(100,)))), actual(spend=130), NOW)
        (alert,) = change.alerts
        assert (alert.quota, alert.scope, alert.meter, alert.window) == ("q-spend", 'Key::"spend"', SPEND, "month")
        assert (alert.threshold, alert.limit, alert.posted) == (100, 500, 130)

    def test_pending_amounts_reach_nothing_and_a_correction_does_not_repeat(self, store: Store) -> None:
        first = reserve(store, hold(charge(SPEND, 200, 500, alerts=(100,))))
        (change,) = store.expire(NOW + TTL_NS, 1)
        assert [alert.threshold for alert in change.alerts] == [100]
        assert store.settle(first, actual(spend=10), NOW).alerts == ()
        second = reserve(store, hold(charge(SPEND, 200, 500, alerts=(100,))))
        assert store.settle(second, actual(spend=200), NOW).alerts == ()

    def test_a_threshold_added_later_is_told_at_the_next_posting(self, store: Store) -> None:
        store.settle(reserve(store, hold(charge(SPEND, 1, 500))), actual(spend=300), NOW)
        change = store.settle(reserve(store, hold(charge(SPEND, 1, 500, alerts=(200,)))), actual(spend=1), NOW)
        assert [alert.threshold for alert in change.alerts] == [200]


class TestUsage:
    def test_settled_and_pending_apart(self, store: Store) -> None:
        for name in ("a", "b", "a"):
            wanted = hold(charge(SPEND, 10, 1_000), on=terms(name, spend=10))
            store.settle(reserve(store, wanted), actual(Usage(100, 20, 30), spend=4), NOW)
        reserve(store, hold(charge(SPEND, 10, 1_000), on=terms("b", spend=15)))
        reserve(store, hold(charge(SPEND, 10, 1_000), on=terms("b", "2026-01-02", spend=15)))
        store.void(reserve(store, hold(charge(SPEND, 10, 1_000), on=terms("c", spend=15))), NOW)
        a, b = store.usage("2026-01-01", "2026-01-01")
        assert (a.day, a.organisation, a.team, a.user, a.key, a.model) == ("2026-01-01", "acme", "chat", "", "a", "llama")
        assert (a.requests, a.input_tokens, a.cached_tokens, a.output_tokens, a.cost_nanousd) == (2, 200, 60, 40, 8)
        assert (a.estimated_nanousd, b.estimated_nanousd) == (20, 10)
        assert (a.pending_requests, a.pending_nanousd) == (0, 0)
        assert (b.key, b.requests, b.cost_nanousd, b.pending_requests, b.pending_nanousd) == ("b", 1, 4, 1, 15)
        assert [row.day for row in store.usage("2026-01-01", "2026-01-09")] == ["2026-01-01", "2026-01-01", "2026-01-02"]
        assert store.usage("2026-01-03", "2026-01-09") == ()

    def test_an_expiry_counts_its_bound_until_it_is_corrected(self, store: Store) -> None:
        first = reserve(store, hold(charge(SPEND, 10, 1_000)))
        store.expire(NOW + TTL_NS, 1)
        (row,) = store.usage("2026-01-01", "2026-01-01")
        assert (row.requests, row.cost_nanousd, row.output_tokens) == (1, 10, 0)
        assert row.estimated_nanousd == 10
        store.settle(first, actual(Usage(5, 7), spend=3), NOW)
        (row,) = store.usage("2026-01-01", "2026-01-01")
        assert (row.requests, row.cost_nanousd, row.output_tokens) == (1, 3, 7)
        assert row.estimated_nanousd == 10


class TestPrune:
    def test_forgets_what_is_old_and_keeps_balances_and_reports(self, store: Store) -> None:
        day = 86_400 * NS
        for step in range(6):
            now_ns = NOW + step * day
            wanted = hold(charge(SPEND, 10, 1_000, alerts=(15,)), charge(TOKENS, 5, 10, f"t{step}"))
            store.settle(reserve(store, wanted, now_ns), actual(spend=10, tokens=5), now_ns)
        held = reserve(store, hold(charge(TOKENS, 5, 10, "old")), NOW)
        now_ns = NOW + 5 * day
        usage, spent = store.usage("2026-01-01", "2026-01-09"), store.balances()["spend"]
        for _ in range(20):
            store.prune(now_ns, 2 * day, 3)
        assert store.prune(now_ns, 2 * day, 3) == 0
        assert sorted(store.balances()) == ["old", "spend", "t3", "t4", "t5"]
        assert store.balances() == store.replay()
        assert store.balances()["spend"] == spent
        assert store.usage("2026-01-01", "2026-01-09") == usage
        found = store.find(held)
        assert found is not None
        assert found.state is State.PENDING
        assert store.settle(held, actual(tokens=1), now_ns).changed
        again = reserve(store, hold(charge(SPEND, 10, 1_000, alerts=(15,))), now_ns)
        assert store.settle(again, actual(spend=1), now_ns).alerts == ()

    def test_a_counter_of_every_window_goes_in_the_end(self, store: Store) -> None:
        windows = (sliding(1), sliding(2_592_000), calendar(Period.DAY), MONTH)
        for number, window in enumerate(windows):
            wanted = hold(charge(TOKENS, 5, 10, f"w{number}", window=window), charge(Meter.IN_FLIGHT, 1, 5))
            store.settle(reserve(store, wanted), actual(tokens=5), NOW)
        later = NOW + 70 * 86_400 * NS
        while store.prune(later, 86_400 * NS, 100):
            pass
        assert store.balances() == store.replay() == {}
        assert store.find("r0") is None
