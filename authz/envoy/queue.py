"""Who waits for a decision, and whose turn it is. Bounded, and fair among tenants: no I/O and no clock.

Requests wait in lanes, one for each tenant, and turns go round the lanes. However much one tenant sends, another's request has
at most as many before it as there are tenants who wait, for each of its own. The first few are not told apart (`FIRST`): their
turn comes at once, and finding out whose they are would cost more than it is worth.

What there is room for is counted in places, one for each 64 KiB of body begun. When all are taken, the lane that holds most of
them gives up its newest: a flood sheds itself.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

PLACE_BYTES: Final = 64 * 1024
FIRST: Final = None
"""The lane of those who find hardly anybody waiting. It is served before every other, and nobody joins it beside another."""

Lane = str | None

T = TypeVar("T")


def places(body_bytes: int) -> int:
    """What a request with such a body takes of a queue's room."""
    return body_bytes // PLACE_BYTES + 1


class _Waiting(Generic[T]):
    __slots__ = ("held", "waiting")

    def __init__(self) -> None:
        self.waiting: dict[int, tuple[T, int]] = {}
        self.held = 0  # places


class Ticket:
    """A place in a queue."""

    __slots__ = ("lane", "number")

    def __init__(self, lane: Lane, number: int) -> None:
        self.lane, self.number = lane, number


class FairQueue(Generic[T]):
    """room  how many places there are, 1 or more"""

    def __init__(self, room: int) -> None:
        if room < 1:
            raise ValueError(f"found room for {room}, expected 1 or more")
        self._room = room
        self._lanes: dict[Lane, _Waiting[T]] = {}  # in the order of their turns
        self._held = self._waiting = self._numbers = 0

    def __len__(self) -> int:
        return self._waiting

    def is_short(self, most: int) -> bool:
        """Whether one more may join the first, of whom there are fewer than `most`."""
        return self._waiting < most and (not self._lanes or (FIRST in self._lanes and len(self._lanes) == 1))

    def ahead(self, lane: Lane) -> int:
        """At most how many have their turn before one that came to this lane now."""
        own, first = self._lanes.get(lane), self._lanes.get(FIRST)
        rounds = len(own.waiting) + 1 if own is not None else 1
        return min(self._waiting, rounds * len(self._lanes) + (len(first.waiting) if first is not None else 0))

    def put(self, item: T, lane: Lane, size: int = 1) -> tuple[Ticket | None, list[T]]:
        """The item's ticket, None where there is no room for it; and who has to go in its stead.

        size  in places; one that is larger than all the room waits where nobody else does
        """
        gone: list[T] = []
        while self._held + size > self._room and self._waiting:
            fullest = max(self._lanes, key=lambda name: self._lanes[name].held)
            own = self._lanes.get(lane)
            if fullest == lane or self._lanes[fullest].held <= (own.held if own is not None else 0) + size:
                return None, gone
            gone.append(self._newest(fullest))
        self._numbers += 1
        found = self._lanes.get(lane)
        if found is None:
            found = self._lanes[lane] = _Waiting()
        found.waiting[self._numbers] = (item, size)
        found.held += size
        self._held += size
        self._waiting += 1
        return Ticket(lane, self._numbers), gone

    def leave(self, ticket: Ticket) -> None:
        """Gives a place up; nothing where its turn has been."""
        lane = self._lanes.get(ticket.lane)
        if lane is not None and ticket.number in lane.waiting:
            self._take(ticket.lane, lane, ticket.number)

    def take(self, most: int) -> list[T]:
        """Whose turn it is: up to `most` places, and at least one request where any waits."""
        taken: list[T] = []
        while self._waiting and most > 0:
            name = next(iter(self._lanes))
            lane = self._lanes[name]
            number = next(iter(lane.waiting))
            size = lane.waiting[number][1]
            if taken and size > most:
                break
            taken.append(self._take(name, lane, number))
            most -= size
            if lane.waiting and name is not FIRST:
                self._lanes[name] = self._lanes.pop(name)  # its next turn is after everybody else's
        return taken

    def _newest(self, name: Lane) -> T:
        lane = self._lanes[name]
        return self._take(name, lane, next(reversed(lane.waiting)))

    def _take(self, name: Lane, lane: _Waiting[T], number: int) -> T:
        item, size = lane.waiting.pop(number)
        lane.held -= size
        self._held -= size
        self._waiting -= 1
        if not lane.waiting:
            del self._lanes[name]
        return item
