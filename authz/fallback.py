"""What happens while the store does not answer: what the quotas declare, and nothing else.

`Fallback` stands before the store and is a ledger like it. As long as the store answers it only passes on. When it does not, a
request is admitted where every enforced quota on its path declares that it may be:

deny   the default, and what a request without an enforced quota gets: refused, nothing is known
share  counted in this process, against the limit divided by the number of replicas (rounded down)
allow  counted in this process, refused by nothing

What was admitted is kept and goes into the store's books when it answers again, once and whatever their limits say by then:
from there on it is a reservation like any other, under its own id. What its settlement said in the meantime follows it. Memory
is bounded: when `max_backlog` requests wait for the books, the next one is refused.

A share is counted from nothing when a process starts, and what the store had counted before it went away is not part of it. So
during an outage a limit can be passed by as much again, once; a budget that must never be passed stays with `deny`. A request
whose policies ask how full the quotas are is denied in any case: nobody knows.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Final, ParamSpec, Protocol, TypeVar

from msgspec import Struct, structs

from authz.errors import StoreUnavailable
from authz.model import QuotaState
from authz.quota.belongings import Belonging, Belongings
from authz.quota.ledger import Actual, Change, Charge, Ending, Event, Full, Held, Hold, Ledger, OnStoreError, Reservation, State

P = ParamSpec("P")
T = TypeVar("T")

MAX_BACKLOG: Final = 50_000
_MAX_DOUBTS: Final = 10_000
_PAUSE_NS: Final = 1_000_000_000
"""After a failure, how long requests that may pass do not wait for the store first: each would wait out its deadline."""

_log = logging.getLogger(__name__)


class Books(Ledger, Belongings, Protocol):
    """What is out of reach now and then."""


class Admitted(Struct):
    """A request that passed without the store.

    posted  it stands in the store's books
    ended   how it ended, as far as somebody has said
    """

    hold: Hold
    at_ns: int
    posted: bool = False
    ended: Event | None = None
    actual: Actual | None = None
    ended_ns: int = 0


class Fallback:
    """Safe in threads.

    local     a ledger in this process's own memory
    admitted  is called for each request that passes without the store, with what let it: for the metric
    """

    def __init__(
        self,
        store: Books,
        local: Ledger,
        *,
        replicas: int,
        admitted: Callable[[OnStoreError], None],
        max_backlog: int = MAX_BACKLOG,
    ) -> None:
        if replicas < 1:
            raise ValueError(f"found {replicas} replicas, expected 1 or more")
        self._store, self._local, self._replicas = store, local, replicas
        self._on_admitted, self._max_backlog = admitted, max_backlog
        self._lock = threading.Lock()
        self._one_at_a_time = threading.Lock()  # held over I/O, and therefore not the lock that decisions take
        self._backlog: dict[str, Admitted] = {}
        self._doubts: deque[str] = deque(maxlen=_MAX_DOUBTS)
        self._ask_again_ns = 0

    # A ledger, as far as decisions and settlements need one

    def reserve(self, hold: Hold, now_ns: int) -> Held | Full:
        declared = declaration(hold.charges)
        if declared is not _DENY and now_ns < self._ask_again_ns:
            return self._admit(hold, declared, now_ns)
        try:
            return self._store.reserve(hold, now_ns)
        except StoreUnavailable:
            self._ask_again_ns = now_ns + _PAUSE_NS
            if declared is OnStoreError.DENY:
                self._doubts.append(hold.id)  # it may have been written although nobody said so
                raise
            return self._admit(hold, declared, now_ns)

    def reserve_many(self, holds: Sequence[Hold], now_ns: int) -> tuple[Held | Full | StoreUnavailable, ...]:
        """Each as by `reserve`, in order. Where the store is silent each goes by what its own quotas declare, and one that may
        not pass is answered with the error, which touches no other."""
        declared = [declaration(hold.charges) for hold in holds]
        paused = now_ns < self._ask_again_ns
        asked = [at for at, each in enumerate(declared) if each is OnStoreError.DENY or not paused]
        found: dict[int, Held | Full | StoreUnavailable] = {}
        try:
            if asked:
                outcomes = self._store.reserve_many([holds[at] for at in asked], now_ns)
                found.update(zip(asked, outcomes, strict=True))
        except StoreUnavailable as error:
            self._ask_again_ns = now_ns + _PAUSE_NS
            unheard = [at for at in asked if at not in found]
            denied = [at for at in unheard if declared[at] is OnStoreError.DENY]
            self._doubts.extend(holds[at].id for at in denied)
            found.update(dict.fromkeys(denied, error))
        return tuple(
            found[at] if at in found else _or_why_not(self._admit, hold, declared[at], now_ns) for at, hold in enumerate(holds)
        )

    def look(self, charges: tuple[Charge, ...], now_ns: int) -> tuple[QuotaState, ...]:
        return self._store.look(charges, now_ns)

    def belonging(self, identity: str) -> Belonging | None:
        return self._store.belonging(identity)

    def keep(self, belonging: Belonging) -> None:
        self._store.keep(belonging)

    def find(self, reservation_id: str) -> Reservation | None:
        entry = self._backlog.get(reservation_id)
        return self._store.find(reservation_id) if entry is None or entry.posted else _reservation(entry)

    def find_many(self, reservation_ids: Sequence[str]) -> tuple[Reservation | StoreUnavailable | None, ...]:
        """Each as by `find`, in order. Where the store is silent, each that only it knows is answered with the error."""
        if any(each in self._backlog for each in reservation_ids):
            return tuple(_or_why_not(self.find, each) for each in reservation_ids)
        try:
            return self._store.find_many(reservation_ids)
        except StoreUnavailable as error:
            return (error,) * len(reservation_ids)

    def find_by_request(self, request_id: str) -> Reservation | None:
        with self._lock:
            waiting = [each for each in self._backlog.values() if not each.posted and each.hold.request_id == request_id != ""]
        if not waiting:
            return self._store.find_by_request(request_id)
        return _reservation(waiting[0]) if len(waiting) == 1 and waiting[0].ended is None else None

    def settle(self, reservation_id: str, actual: Actual, now_ns: int) -> Change:
        return self._end(reservation_id, Event.SETTLE, actual, now_ns)

    def void(self, reservation_id: str, now_ns: int) -> Change:
        return self._end(reservation_id, Event.VOID, None, now_ns)

    def end_many(self, endings: Sequence[Ending], now_ns: int) -> tuple[Change | StoreUnavailable, ...]:
        """Each as by `settle` or `void`, in order. Where the store is silent, each that needs it is answered with the error."""
        if any(each.reservation_id in self._backlog for each in endings):
            return tuple(_or_why_not(self._end, each.reservation_id, each.event, each.actual, now_ns) for each in endings)
        try:
            return self._store.end_many(endings, now_ns)
        except StoreUnavailable as error:
            return (error,) * len(endings)

    def expire(self, now_ns: int, at_most: int) -> tuple[Change, ...]:
        return self._store.expire(now_ns, at_most)

    # What the ticks do

    def catch_up(self, now_ns: int, at_most: int) -> tuple[Change, ...]:
        """Brings up to `at_most` admitted requests into the store's books and ends those that have ended; answers what that
        changed, alerts included. Raises `StoreUnavailable`; the next call goes on where this one stopped."""
        changes: list[Change] = []
        with self._one_at_a_time:
            try:
                self._catch_up(now_ns, at_most, changes)
            except StoreUnavailable:
                if not changes:
                    raise
        return tuple(changes)

    def tidy(self, now_ns: int, at_most: int) -> None:
        """Forgets what this process's own memory no longer needs."""
        self._local.expire(now_ns, at_most)
        self._local.prune(now_ns, 0, at_most)
        with self._lock:
            over = [name for name, each in self._backlog.items() if each.posted and each.at_ns + each.hold.ttl_ns <= now_ns]
            for name in over:
                del self._backlog[name]

    # How

    def _catch_up(self, now_ns: int, at_most: int, changes: list[Change]) -> None:
        while self._doubts and len(changes) < at_most:
            changes.append(self._store.void(self._doubts[0], now_ns))
            self._doubts.popleft()
        with self._lock:
            waiting = [each for each in self._backlog.values() if not each.posted or each.ended][: at_most - len(changes)]
        for entry in waiting:
            self._post(entry)
            if (change := self._finish(entry)) is not None:
                changes.append(change)
        if waiting:
            _log.warning("what was admitted without the store is in its books", extra={"requests": len(waiting)})

    def _admit(self, hold: Hold, declared: OnStoreError, now_ns: int) -> Held | Full:
        if len(self._backlog) >= self._max_backlog:
            raise StoreUnavailable(f"{self._max_backlog} requests wait for the store already")
        own = structs.replace(hold, charges=tuple(self._own(charge) for charge in hold.charges))
        outcome = self._local.reserve(own, now_ns)
        if isinstance(outcome, Full):
            return outcome
        with self._lock:
            self._backlog.setdefault(outcome.reservation_id, Admitted(hold, now_ns))
        self._on_admitted(declared)
        return structs.replace(outcome, degraded=declared)

    def _own(self, charge: Charge) -> Charge:
        """What a charge comes to in this process alone."""
        if charge.on_store_error is OnStoreError.SHARE:
            return structs.replace(charge, limit=charge.limit // self._replicas, alerts_at=())
        return structs.replace(charge, enforced=False, alerts_at=())

    def _end(self, reservation_id: str, event: Event, actual: Actual | None, now_ns: int) -> Change:
        with self._lock:
            entry = self._backlog.get(reservation_id)
            waits = entry is not None and not entry.posted
            if entry is not None and waits:
                if entry.ended is not None:
                    return Change(changed=False, state=_STATES[entry.ended])
                entry.ended, entry.actual, entry.ended_ns = event, actual, now_ns
        if entry is not None:  # its share is free again at once
            _fire(self._local, reservation_id, actual, now_ns)
        if waits:
            return Change(changed=True, state=_STATES[event])
        change = _fire(self._store, reservation_id, actual, now_ns)
        if entry is not None:
            self._forget(entry)
        return change

    def _post(self, entry: Admitted) -> None:
        if entry.posted:
            return
        # Nothing is refused any more: it has happened. The store may know it from before it went silent.
        charges = tuple(structs.replace(charge, enforced=False) for charge in entry.hold.charges)
        hold = structs.replace(entry.hold, charges=charges)
        if self._store.find(hold.id) is None:
            self._store.reserve(hold, entry.at_ns)
        with self._lock:
            entry.posted = True

    def _finish(self, entry: Admitted) -> Change | None:
        if entry.ended is None:
            return None  # whoever reports on it from now on meets it in the store
        change = _fire(self._store, entry.hold.id, entry.actual, entry.ended_ns)
        self._forget(entry)
        return change

    def _forget(self, entry: Admitted) -> None:
        with self._lock:
            self._backlog.pop(entry.hold.id, None)


def _or_why_not(act: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | StoreUnavailable:
    try:
        return act(*args, **kwargs)
    except StoreUnavailable as error:
        return error


def declaration(charges: tuple[Charge, ...]) -> OnStoreError:
    """What the enforced quotas declare together: the strictest refuses, and of the others the loosest names how it passed."""
    found: OnStoreError | None = None
    for charge in charges:
        if charge.enforced:
            declared = charge.on_store_error
            if declared is _DENY:
                return declared
            if found is not _ALLOW:
                found = declared
    return found or _DENY


_DENY: Final = OnStoreError.DENY
_ALLOW: Final = OnStoreError.ALLOW


_STATES: Final = {Event.SETTLE: State.SETTLED, Event.VOID: State.VOIDED}


def _fire(ledger: Ledger, reservation_id: str, actual: Actual | None, now_ns: int) -> Change:
    """None is a void."""
    return ledger.void(reservation_id, now_ns) if actual is None else ledger.settle(reservation_id, actual, now_ns)


def _reservation(entry: Admitted) -> Reservation:
    hold = entry.hold
    state = State.PENDING if entry.ended is None else _STATES[entry.ended]
    return Reservation(hold.id, state, entry.at_ns, entry.at_ns + hold.ttl_ns, hold.charges, hold.terms)
