"""Who waits, whose turn it is, and who has to go when there is no room: every case without a clock."""

from __future__ import annotations

from collections import Counter

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from authz.envoy.queue import FIRST, PLACE_BYTES, FairQueue, Lane, Ticket, places


def filled(room: int, **lanes: int) -> FairQueue[str]:
    """So many in each lane, named `a0`, `a1` and so on."""
    queue: FairQueue[str] = FairQueue(room)
    for lane, count in lanes.items():
        for number in range(count):
            assert queue.put(f"{lane}{number}", lane)[1] == []
    return queue


def test_turns_go_round_the_lanes() -> None:
    queue = filled(100, a=5, b=2, c=1)
    assert queue.take(8) == ["a0", "b0", "c0", "a1", "b1", "a2", "a3", "a4"]
    assert len(queue) == 0
    assert queue.take(8) == []


def test_a_newcomer_is_in_the_next_chunk_however_long_the_flood() -> None:
    queue = filled(1_000, flood=900)
    queue.take(8)
    assert queue.ahead("other") == 1
    queue.put("other", "other")
    assert "other" in queue.take(8)


def test_each_of_many_tenants_gets_its_share() -> None:
    queue = filled(1_000, a=300, b=300, c=300)
    taken = Counter(item[0] for _ in range(30) for item in queue.take(8))
    assert set(taken.values()) == {80}


def test_a_flood_sheds_itself_and_makes_room_for_others() -> None:
    queue = filled(10, flood=9, other=1)
    assert queue.put("more", "flood") == (None, [])
    ticket, gone = queue.put("third", "third")
    assert ticket is not None
    assert gone == ["flood8"], "the newest of the longest lane"
    assert len(queue) == 10
    while len(queue) > 0:
        queue.take(8)


def test_where_all_are_alike_the_newcomer_has_to_go() -> None:
    queue = filled(4, a=1, b=1, c=1, d=1)
    assert queue.put("e", "e") == (None, [])


def test_the_first_are_served_before_anybody_is_told_apart() -> None:
    queue: FairQueue[int] = FairQueue(100)
    for number in range(20):
        assert queue.is_short(8) == (number < 8)
        queue.put(number, FIRST if queue.is_short(8) else "flood")
    assert queue.take(8) == [*range(8)]
    assert not queue.is_short(8), "a flood is waiting"
    queue.put(99, "other")
    assert queue.take(3) == [8, 99, 9]


def test_large_bodies_take_more_room_and_fewer_fit_into_a_chunk() -> None:
    assert [places(0), places(PLACE_BYTES - 1), places(PLACE_BYTES), places(25 * 1024 * 1024)] == [1, 1, 2, 401]
    queue: FairQueue[str] = FairQueue(10)
    queue.put("small", "a")
    queue.put("large", "a", 8)
    queue.put("other", "b")
    assert queue.put("again", "a", 2) == (None, [])
    assert queue.take(8) == ["small", "other"]
    assert queue.take(8) == ["large"]


def test_what_is_larger_than_all_the_room_waits_alone() -> None:
    queue: FairQueue[str] = FairQueue(10)
    ticket, gone = queue.put("huge", "a", 50)
    assert (ticket is not None, gone) == (True, [])
    ticket, gone = queue.put("small", "b")
    assert (ticket is not None, gone) == (True, ["huge"])


def test_who_leaves_makes_room() -> None:
    queue: FairQueue[str] = FairQueue(2)
    first, _ = queue.put("first", "a")
    queue.put("second", "a")
    assert first is not None
    queue.leave(first)
    queue.leave(first)
    assert queue.put("third", "a")[0] is not None
    assert queue.take(8) == ["second", "third"]
    queue.leave(first)
    assert len(queue) == 0


def test_a_queue_has_room() -> None:
    with pytest.raises(ValueError, match="expected 1 or more"):
        FairQueue(0)


class Machine(RuleBasedStateMachine):
    """Any order of everything, against what a list would say."""

    def __init__(self) -> None:
        super().__init__()
        self.queue: FairQueue[int] = FairQueue(12)
        self.waiting: dict[int, tuple[Lane, int, Ticket]] = {}
        self.number = 0

    @rule(named=st.sampled_from("abcd"), size=st.integers(1, 5))
    def put(self, named: str, size: int) -> None:
        self.number += 1
        lane = FIRST if self.queue.is_short(3) else named
        ahead = self.queue.ahead(lane)
        ticket, gone = self.queue.put(self.number, lane, size)
        for item in gone:
            assert self.waiting.pop(item)[0] != lane
        if ticket is not None:
            self.waiting[self.number] = (lane, size, ticket)
            assert ahead <= len(self.waiting) + len(gone)

    @precondition(lambda self: self.waiting)
    @rule(data=st.data())
    def leave(self, data: st.DataObject) -> None:
        item = data.draw(st.sampled_from(sorted(self.waiting)))
        self.queue.leave(self.waiting.pop(item)[2])

    @rule(most=st.integers(1, 8))
    def take(self, most: int) -> None:
        taken = self.queue.take(most)
        assert bool(taken) == bool(self.waiting)
        sizes = [self.waiting[item][1] for item in taken]
        assert len(taken) == 1 or sum(sizes) <= most
        for item in taken:
            lane = self.waiting[item][0]
            assert item == min(other for other, found in self.waiting.items() if found[0] == lane), "in order within a lane"
            del self.waiting[item]

    @invariant()
    def is_bounded(self) -> None:
        held = sum(size for _, size, _ in self.waiting.values())
        assert held <= 12
        assert held == self.queue._held
        assert len(self.queue) == len(self.waiting)
        assert len(self.queue._lanes) == len({lane for lane, _, _ in self.waiting.values()})


TestMachine = Machine.TestCase
TestMachine.settings = settings(max_examples=30, stateful_step_count=40, deadline=None)


@given(st.integers(0, 8), st.integers(0, 30), st.integers(0, 30))
def test_what_is_said_to_be_ahead_is_not_less_than_what_is(first: int, flood: int, own: int) -> None:
    queue: FairQueue[str] = FairQueue(1_000)
    for lane, count in ((FIRST, first), ("flood", flood), ("own", own)):
        for _ in range(count):
            queue.put("other", lane)
    ahead = queue.ahead("own")
    queue.put("me", "own")
    order: list[str] = []
    while len(queue):
        order += queue.take(1)
    assert order.index("me") <= ahead
