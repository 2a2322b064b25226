"""Any order of events, against a plain dictionary, with the invariants I1 to I8 checked after every step.

`AUTHZ_TEST_PROFILE=long` runs it for as long as 2,000 runs of 100 steps take.
"""

from __future__ import annotations

import os
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from authz.model import Meter, Usage
from authz.quota.ledger import TRANSITIONS, Change, Charge, Ending, Event, Full, Held, Hold, State
from authz.quota.windows import GAUGE, NS, Kind, Period, Window, calendar, sliding
from authz.store.housekeeping import Balances
from tests.store.builders import NOW, TTL_NS, actual, charge, terms
from tests.store.places import FilePlace, HastyRedisPlace, MemoryPlace, RedisPlace

LONG = os.environ.get("AUTHZ_TEST_PROFILE") == "long"
DAY_NS = 86_400 * NS
EVER = ("0000-01-01", "9999-12-31")

QUOTAS: tuple[tuple[str, Meter, Window, int, bool, tuple[int, ...]], ...] = (
    ("requests", Meter.REQUESTS, sliding(60), 4, True, ()),
    ("tokens", Meter.TOKENS, sliding(3_600), 1_000, True, ()),
    ("day", Meter.SPEND, calendar(Period.DAY, "Europe/Berlin"), 1_500, True, (500, 1_000)),
    ("month", Meter.SPEND, calendar(Period.MONTH), 3_000, True, (1_000, 2_900)),
    ("month", Meter.SPEND, calendar(Period.MONTH), 500, False, (400,)),
    ("under-way", Meter.IN_FLIGHT, GAUGE, 3, True, ()),
    ("shadow", Meter.TOKENS, sliding(60), 10, False, ()),
)


class Entry:
    """One reservation in one counter, as the model sees it."""

    def __init__(self, counter: str, meter: Meter, window: Window, bucket: int, reserved: int) -> None:
        self.counter, self.meter, self.window, self.bucket, self.reserved = counter, meter, window, bucket, reserved
        self.pending, self.posted, self.rose = reserved, 0, False


class Made:
    def __init__(self, hold: Hold, entries: list[Entry], deadline_ns: int) -> None:
        self.hold, self.entries, self.deadline_ns, self.state = hold, entries, deadline_ns, State.PENDING


class LedgerMachine(RuleBasedStateMachine):
    place_type: ClassVar[type[FilePlace | MemoryPlace | RedisPlace]]

    @initialize()
    def begin(self) -> None:
        self.place = self.place_type()
        self.store = self.place.open()
        self.now_ns = NOW
        self.serial = 0
        self.made: dict[str, Made] = {}
        self.entries: list[Entry] = []  # of counters that exist
        self.buckets: dict[str, list[int]] = {}  # the buckets that a counter keeps
        self.saved_ns: dict[str, int] = {}
        self.told: set[tuple[str, int, int]] = set()

    def teardown(self) -> None:
        if hasattr(self, "place"):
            self.place.close()

    # What can happen

    @rule(
        picks=st.sets(st.integers(0, len(QUOTAS) - 1), min_size=1),
        tokens=st.integers(0, 1_100),
        spend=st.integers(0, 900) | st.just(3_001),
        request=st.sampled_from(["", "e", "f"]),
    )
    def reserve(self, picks: set[int], tokens: int, spend: int, request: str) -> None:
        amounts = {Meter.TOKENS: tokens, Meter.SPEND: spend, Meter.REQUESTS: 1, Meter.IN_FLIGHT: 1}
        charges = tuple(
            charge(meter, amounts[meter], limit, name, alerts=alerts, enforced=enforced, window=window)
            for name, meter, window, limit, enforced, alerts in (QUOTAS[pick] for pick in sorted(picks))
        )
        bounds = terms(spend=spend + 10, tokens=tokens)
        self.submit(Hold(self.new_id(), charges, bounds, TTL_NS, request))

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def repeat_a_hold(self, data: Any) -> None:
        made = self.pick(data)
        if made.state is State.PENDING:
            old = made.hold
            self.submit(Hold(old.id, old.charges, old.terms, old.ttl_ns))

    @precondition(lambda self: self.made)
    @rule(data=st.data(), share=st.sampled_from([0, 50, 100, 300]), known=st.booleans())
    def settle(self, data: Any, share: int, known: bool) -> None:
        made = self.pick(data)
        bounds = made.hold.terms.at_most
        amounts = {meter.value: bound * share // 100 for meter, bound in bounds.items()} if known else {}
        usage = Usage(10, 5, 2) if known else None
        change = self.store.settle(made.hold.id, actual(usage, **amounts), self.now_ns)
        self.expect(made, Event.SETTLE, change, {Meter(name): amount for name, amount in amounts.items()})

    @precondition(lambda self: self.made)
    @rule(data=st.data())
    def void(self, data: Any) -> None:
        made = self.pick(data)
        self.expect(made, Event.VOID, self.store.void(made.hold.id, self.now_ns), {})

    @precondition(lambda self: self.made)
    @rule(data=st.data(), shares=st.lists(st.sampled_from([None, 0, 100, 300]), min_size=1, max_size=5))
    def end_together(self, data: Any, shares: list[int | None]) -> None:
        """In one call, in order: one reservation may stand in it twice, and another may be unknown."""
        reported = [(self.pick(data), share) for share in shares]
        endings = [Ending("unknown", None)]
        for made, share in reported:
            bounds = made.hold.terms.at_most.items()
            amounts = {meter.value: bound * share // 100 for meter, bound in bounds} if share is not None else {}
            endings.append(Ending(made.hold.id, actual(None, **amounts) if share is not None else None))
        unknown, *changes = self.store.end_many(endings, self.now_ns)
        assert unknown == Change(changed=False, state=None)
        for (made, _), ending, change in zip(reported, endings[1:], changes, strict=True):
            self.expect_end(made, ending.event, change, ending.actual.amounts if ending.actual is not None else {})
        ids = ["unknown", *(made.hold.id for made, _ in reported)]
        assert self.store.find_many(ids) == tuple(self.store.find(each) for each in ids)

    @rule()
    def report_on_nothing(self) -> None:
        before = self.dump()
        assert not self.store.void("unknown", self.now_ns).changed
        assert not self.store.settle("unknown", actual(), self.now_ns).changed
        assert self.dump() == before

    @rule(seconds=st.sampled_from([0.01, 0.9, 1, 20, 61, 600, 3_700, 86_400, 31 * 86_400, -1, -120, -3_600]))
    def tick(self, seconds: float) -> None:
        self.now_ns = max(NOW, self.now_ns + int(seconds * NS))

    @rule(at_most=st.integers(1, 3))
    def sweep_some(self, at_most: int) -> None:
        overdue = sorted((m for m in self.pending() if m.deadline_ns <= self.now_ns), key=lambda m: m.deadline_ns)
        changes = self.store.expire(self.now_ns, at_most)
        assert len(changes) == min(at_most, len(overdue))
        swept = [made for made in overdue if (found := self.store.find(made.hold.id)) and found.state is State.EXPIRED]
        assert len(swept) == len(changes)
        for made, change in zip(swept, changes, strict=True):
            self.end(made, Event.EXPIRE, {})
            self.expect_alerts(made, change)

    @rule()
    def sweep_all(self) -> None:
        self.sweep_some(10_000)
        assert not [made for made in self.pending() if made.deadline_ns <= self.now_ns]  # I8

    @rule()
    def reopen(self) -> None:
        if self.place.reopens:
            self.store.close()
        self.store = self.place.open()

    @rule()
    def crash(self) -> None:
        self.place.crash()
        self.store = self.place.open()

    @rule(keep_days=st.sampled_from([1, 40]))
    def prune(self, keep_days: int) -> None:
        usage = self.store.usage(*EVER)
        before_ns = self.now_ns - keep_days * DAY_NS
        while self.store.prune(self.now_ns, keep_days * DAY_NS, 1_000):
            pass
        assert self.store.usage(*EVER) == usage
        for name, made in list(self.made.items()):
            if made.state is not State.PENDING and made.deadline_ns < before_ns:
                assert self.store.find(name) is None
                del self.made[name]
        for name, _, window, *_ in QUOTAS:
            kept = self.buckets.get(name)
            if kept and not any(pending for _, pending in self.balance(name).values()):
                ends_ns = window.ends_ns(kept[-1])
                if (self.saved_ns[name] if ends_ns is None else ends_ns) < before_ns:
                    del self.buckets[name]
                    self.entries = [entry for entry in self.entries if entry.counter != name]
                    self.told = {key for key in self.told if key[0] != name}

    # What must hold after each

    @invariant()
    def books_agree(self) -> None:
        if not hasattr(self, "store"):
            return
        balances = self.store.balances()
        assert balances == self.store.replay()  # I3
        model = {name: self.balance(name) for name in self.buckets}
        assert balances == {name: cells for name, cells in model.items() if cells}
        assert all(posted >= 0 and pending >= 0 for cells in balances.values() for posted, pending in cells.values())  # I4
        for name, made in self.made.items():
            found = self.store.find(name)
            assert found is not None  # I7
            assert (found.state, found.charges) == (made.state, made.hold.charges)  # I2
        waiting = self.pending()
        rows = self.store.usage(*EVER)
        for row in rows:
            assert (
                min(
                    row.requests,
                    row.input_tokens,
                    row.estimated_nanousd,
                    row.cost_nanousd,
                    row.pending_requests,
                    row.pending_nanousd,
                )
                >= 0
            )
        assert sum(row.pending_requests for row in rows) == len(waiting)
        assert sum(row.pending_nanousd for row in rows) == sum(made.hold.terms.at_most[Meter.SPEND] for made in waiting)

    # The model

    def submit(self, hold: Hold) -> None:
        before = self.dump()
        answer = self.store.reserve(hold, self.now_ns)
        twin = next((made for made in self.pending() if self.is_twin(made.hold, hold)), None)
        if twin is not None:
            assert isinstance(answer, Held)
            assert self.is_twin(self.made[answer.reservation_id].hold, hold)
            assert self.dump() == before
            return
        fits = [not each.enforced or self.used(each) + self.amount(hold, each) <= each.limit for each in hold.charges]
        assert [state.used for state in answer.states] == [self.used(each) for each in hold.charges]
        if not all(fits):
            assert isinstance(answer, Full)  # I1
            assert not fits[answer.quota]
            assert self.dump() == before  # I5
            return
        assert isinstance(answer, Held)
        entries = []
        for name in dict.fromkeys(each.counter for each in hold.charges):
            first = next(each for each in hold.charges if each.counter == name)
            bucket = self.current(first)
            kept = self.buckets.setdefault(name, [])
            if bucket not in kept:
                kept.append(bucket)
            if first.window.kind is Kind.SLIDING:
                kept[:] = [each for each in kept if each >= bucket - 60]
            self.buckets[name] = kept[-2:] if first.window.kind is Kind.CALENDAR else kept
            self.saved_ns[name] = self.now_ns
            entries.append(Entry(name, first.meter, first.window, bucket, self.amount(hold, first)))
        self.entries += entries
        self.made[hold.id] = Made(hold, entries, self.now_ns + hold.ttl_ns)

    def expect(self, made: Made, event: Event, change: Change, amounts: dict[Meter, int]) -> None:
        self.expect_end(made, event, change, amounts)
        dump = self.dump()
        assert self.store.void(made.hold.id, self.now_ns) == Change(changed=False, state=made.state)  # I6
        assert self.store.settle(made.hold.id, actual(spend=7), self.now_ns) == Change(changed=False, state=made.state)
        assert self.dump() == dump

    def expect_end(self, made: Made, event: Event, change: Change, amounts: dict[Meter, int]) -> None:
        before_state, after = made.state, TRANSITIONS.get((made.state, event))
        assert (change.changed, change.state) == (after is not None, after or before_state)
        self.end(made, event, amounts)
        self.expect_alerts(made, change)

    def expect_alerts(self, made: Made, change: Change) -> None:
        due = set()
        for entry in made.entries:
            if entry.rose and entry in self.entries and entry.bucket in self.buckets[entry.counter]:
                posted = self.balance(entry.counter).get(entry.bucket, (0, 0))[0]
                thresholds = {at for each in made.hold.charges if each.counter == entry.counter for at in each.alerts_at}
                due |= {(entry.counter, entry.bucket, at) for at in thresholds if posted >= at}
        told = [(alert.quota.removeprefix("q-"), alert.threshold) for alert in change.alerts]
        assert sorted(told) == sorted((counter, at) for counter, _, at in due - self.told)
        self.told |= due

    def end(self, made: Made, event: Event, amounts: dict[Meter, int]) -> None:
        after = TRANSITIONS.get((made.state, event))
        if after is None:
            for entry in made.entries:
                entry.rose = False
            return
        made.state = after
        for entry in made.entries:
            bound = made.hold.terms.at_most.get(entry.meter, entry.reserved)
            owed = 0 if event is Event.VOID or entry.meter is Meter.IN_FLIGHT else amounts.get(entry.meter, bound)
            entry.rose = owed > entry.posted
            entry.pending, entry.posted = 0, owed

    def new_id(self) -> str:
        self.serial += 1
        return f"r{self.serial}"

    def pick(self, data: Any) -> Made:
        return self.made[data.draw(st.sampled_from(sorted(self.made)))]

    def pending(self) -> list[Made]:
        return [made for made in self.made.values() if made.state is State.PENDING]

    @staticmethod
    def is_twin(old: Hold, new: Hold) -> bool:
        return old.id == new.id and (old.charges, old.terms) == (new.charges, new.terms)

    @staticmethod
    def amount(hold: Hold, wanted: Charge) -> int:
        return max(each.amount for each in hold.charges if each.counter == wanted.counter)

    def current(self, wanted: Charge) -> int:
        return max(wanted.window.bucket(self.now_ns), *self.buckets.get(wanted.counter, []), -1)

    def used(self, wanted: Charge) -> int:
        oldest = wanted.window.oldest_live(self.current(wanted))
        return sum(sum(cell) for bucket, cell in self.balance(wanted.counter).items() if bucket >= oldest)

    def balance(self, counter: str) -> dict[int, tuple[int, int]]:
        cells: dict[int, tuple[int, int]] = {}
        for entry in self.entries:
            if entry.counter == counter and entry.bucket in self.buckets.get(counter, []):
                posted, pending = cells.get(entry.bucket, (0, 0))
                cells[entry.bucket] = (posted + entry.posted, pending + entry.pending)
        return {bucket: cell for bucket, cell in cells.items() if cell != (0, 0)}

    def dump(self) -> tuple[Balances, Balances, object]:
        return self.store.balances(), self.store.replay(), self.store.usage(*EVER)


LENGTH = settings(
    max_examples=2_000 if LONG else 500,
    stateful_step_count=100 if LONG else 50,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)


class MemoryMachine(LedgerMachine):
    place_type = MemoryPlace


class FileMachine(LedgerMachine):
    place_type = FilePlace


class RedisMachine(LedgerMachine):
    place_type = HastyRedisPlace


TestMemory = MemoryMachine.TestCase
TestFile = FileMachine.TestCase
TestRedis = RedisMachine.TestCase
for case in (TestMemory, TestFile, TestRedis):
    case.settings = LENGTH
    setattr(case, "pytestmark", [pytest.mark.timeout(10_000 if LONG else 600)])  # noqa: B010  # what pytest looks for
del case  # else it would be collected once more
