"""The two-phase ledger: what a store must do, and the one state machine that every store follows.

A request's charges are held together or not at all (`reserve`). Afterwards the hold reaches exactly one end:

    PENDING ── settle ──▶ SETTLED      what it really used replaces the estimate
       │
       ├────── void ────▶ VOIDED       the upstream owes nothing for it: every charge is given back
       │
       └────── expire ──▶ EXPIRED      nobody reported in time: the estimate is posted
                             │
                             └─ settle or void, once ──▶ CORRECTED

Every other event changes nothing (`TRANSITIONS` has no row for it), so an event that comes twice, late or out of order has one
effect. A charge is corrected in the bucket in which it was reserved, whatever the clock says by then.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from enum import StrEnum
from typing import Final, Protocol

from msgspec import Struct

from authz.model import MAX_AMOUNT, Meter, Price, QuotaState, Usage, Work
from authz.quota.calibration import Lesson
from authz.quota.windows import NS, Kind, Window

DELIVER_WITHIN_NS: Final = 7 * 86_400 * NS
"""How long an alert is offered for delivery after it was reached."""


class State(StrEnum):
    PENDING = "pending"
    SETTLED = "settled"
    VOIDED = "voided"
    EXPIRED = "expired"
    CORRECTED = "corrected"


class Event(StrEnum):
    SETTLE = "settle"
    VOID = "void"
    EXPIRE = "expire"


TRANSITIONS: Final[dict[tuple[State, Event], State]] = {
    (State.PENDING, Event.SETTLE): State.SETTLED,
    (State.PENDING, Event.VOID): State.VOIDED,
    (State.PENDING, Event.EXPIRE): State.EXPIRED,
    (State.EXPIRED, Event.SETTLE): State.CORRECTED,
    (State.EXPIRED, Event.VOID): State.CORRECTED,
}


class OnStoreError(StrEnum):
    """What a quota declares for the time in which the store does not answer."""

    DENY = "deny"  # nobody passes
    ALLOW = "allow"  # it is passed over, and that is counted
    SHARE = "share"  # each replica admits its share of the limit by its own count


class Charge(Struct, frozen=True, array_like=True):
    """An amount against one quota of one scope. Stores keep it by the order of its fields: append, never reorder.

    counter     canonical name of the counter. Requests that charge one name add up, whatever the quota's id or limit is. Two
                charges of one hold with one name (an enforced limit and a stricter shadow) count once, the larger amount,
                each against its own limit
    scope       who shares the counter, for people: `Key::"chatbot-prod"`
    amount      in the meter's unit; > 0, or 0 where the quota is only looked at
    limit       in the meter's unit, as the quota has it: what was raised by hand comes on top
    enforced    False: counted and reported, never refused
    alerts_at   posted amounts at which an alert is due, ascending, in the meter's unit
    """

    quota: str
    scope: str
    counter: str
    window: Window
    meter: Meter
    amount: int
    limit: int
    enforced: bool = True
    alerts_at: tuple[int, ...] = ()
    on_store_error: OnStoreError = OnStoreError.DENY


class Terms(Struct, frozen=True, array_like=True):
    """What settlement and the usage report need to know of a reservation, fixed when it was made. Kept as `Charge` is.

    day          of the usage report, `YYYY-MM-DD` in the organisation's time zone: the day it was reserved on
    price        None where the endpoint has none by token
    at_most      the bound by meter that the estimate gave: what is posted where no usage is ever known. A meter that it does
                 not name is posted as it was reserved
    expected_tokens, input_bytes  what was expected, and of how large a text: settlement learns from how it came out; 0 where
                 there is nothing to learn
    work         of a batch, which has a price, or of the upload that it is to be made from, which has none
    """

    day: str
    organisation: str
    team: str
    user: str
    key: str
    model: str
    action: str
    price: Price | None
    at_most: dict[Meter, int]
    expected_tokens: int = 0
    input_bytes: int = 0
    work: Work | None = None


class Hold(Struct, frozen=True):
    """What to reserve.

    id          our own random id: unguessable, the name under which the access log reports
    ttl_ns      after it the sweeper posts the estimate
    request_id  the enforcement point's id of the request, for `find_by_request`; "" for none
    """

    id: str
    charges: tuple[Charge, ...]
    terms: Terms
    ttl_ns: int
    request_id: str = ""


class Alert(Struct, frozen=True):
    """A threshold of a quota that posted amounts have just reached: told once for each scope, threshold and period.

    limit  in force in that period, raises included
    """

    quota: str
    scope: str
    meter: Meter
    window: str
    threshold: int
    limit: int
    posted: int
    organisation: str = ""


class Delivery(Struct, frozen=True):
    """An alert that a target has not been told of yet.

    id              of the alert (`alert_id`): the same at every attempt and for every target, so a receiver can drop repeats
    period_start_s  first second of the period it was reached in: the bucket
    at_ns           when it was reached
    attempts        with this one, 1 or more
    """

    id: str
    alert: Alert
    period_start_s: int
    at_ns: int
    attempts: int


class Raise(Struct, frozen=True):
    """A budget that somebody changed by hand, for one period. Recorded, and never edited.

    period_start_s  first second of the period that it holds for: the bucket
    by              in the meter's unit; negative where it was taken back
    """

    id: str
    quota: str
    scope: str
    counter: str
    period_start_s: int
    by: int
    who: str
    why: str
    at_ns: int


class Held(Struct, frozen=True):
    """Reserved. `states` are in the order of the charges, and `used` is without this request.

    degraded  set where it was not the store that answered, but what the quotas declare for when it does not
    """

    reservation_id: str
    states: tuple[QuotaState, ...]
    degraded: OnStoreError | None = None


class Full(Struct, frozen=True):
    """Refused, and nothing was charged.

    quota            index of the charge that has no room: the one that must wait longest, or that never fits
    retry_after_s    seconds until it fits, if nothing else is charged; None where the amount is above the limit itself
    """

    states: tuple[QuotaState, ...]
    quota: int
    retry_after_s: float | None


class Actual(Struct, frozen=True):
    """What a request really used: amounts by meter, and the tokens behind them for the usage report.

    A meter that `amounts` does not name is posted as at expiry: at its bound.
    """

    amounts: dict[Meter, int]
    usage: Usage | None


class Ending(Struct, frozen=True):
    """How a reservation is to end: with what was used, or, where that is None, with everything given back."""

    reservation_id: str
    actual: Actual | None

    @property
    def event(self) -> Event:
        return Event.VOID if self.actual is None else Event.SETTLE


class Reservation(Struct, frozen=True):
    id: str
    state: State
    created_ns: int
    deadline_ns: int
    charges: tuple[Charge, ...]
    terms: Terms


class Change(Struct, frozen=True):
    """What an event did. `changed` is False where the machine has no row for it; then nothing was written."""

    changed: bool
    state: State | None
    alerts: tuple[Alert, ...] = ()


class UsageRow(Struct, frozen=True):
    """Use of one key on one model on one day (in the organisation's time zone), settled and pending kept apart.

    estimated_nanousd  the bounds of what has ended, as they were reserved: what `cost_nanousd` was posted for
    cost_nanousd       posted; pending_nanousd is held for requests that have not been settled
    """

    day: str
    organisation: str
    team: str
    user: str
    key: str
    model: str
    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    estimated_nanousd: int
    cost_nanousd: int
    pending_requests: int
    pending_nanousd: int


def reservation_id(now_ns: int, unguessable: str) -> str:
    """The name of a new reservation. The time stands in front for the store's sake: what is made together stands together in an
    index, and a chunk of decisions writes a page of it or two instead of one for each."""
    return f"{now_ns // 1_000_000:012x}{unguessable}"


def check_raise(charge: Charge, by: int) -> None:
    """Raises `ValueError` for a raise that no store takes."""
    if charge.window.kind is not Kind.CALENDAR:
        raise ValueError(f"a raise of `{charge.quota}`, which counts by {charge.window.name}, expected a budget")
    if by == 0 or abs(by) > MAX_AMOUNT:
        raise ValueError(f"a raise by {by}, expected 1 to {MAX_AMOUNT}, or as much below 0")


def in_force(limit: int, raised: int) -> int:
    """The limit of a period in which it was raised by `raised` in all."""
    return min(MAX_AMOUNT, max(0, limit + raised))


def alert_id(counter: str, bucket: int, threshold: int) -> str:
    """The name of an alert: 32 hex digits, the same wherever and however often it is worked out."""
    return hashlib.sha256(f"{counter}\n{bucket}\n{threshold}".encode()).hexdigest()[:32]


class Ledger(Protocol):
    """The contract of a store. Every method raises `StoreUnavailable` where it cannot answer; nothing is then half done.

    An amount that is negative or above `MAX_AMOUNT` is a `ValueError`, and then nothing is done either.
    """

    def reserve(self, hold: Hold, now_ns: int) -> Held | Full:
        """All charges or none. An id that is pending with the same charges and terms is answered again; any other use of an id
        that exists is a `ValueError`."""
        ...

    def reserve_many(self, holds: Sequence[Hold], now_ns: int) -> tuple[Held | Full, ...]:
        """Each as by `reserve`, in order, all in one: what arrived together shares its cost."""
        ...

    def look(self, charges: tuple[Charge, ...], now_ns: int) -> tuple[QuotaState, ...]:
        """How each quota stands, in the order of the charges; nothing is charged."""
        ...

    def find(self, reservation_id: str) -> Reservation | None: ...

    def find_many(self, reservation_ids: Sequence[str]) -> tuple[Reservation | None, ...]:
        """Each as by `find`, in order, all in one."""
        ...

    def find_by_request(self, request_id: str) -> Reservation | None:
        """The one reservation that is pending or expired under this request id; None where there are several: a client may
        have chosen the id, and an event must not reach a reservation that it was not meant for."""
        ...

    def settle(self, reservation_id: str, actual: Actual, now_ns: int) -> Change:
        """Posts what was used, in full, even above what was reserved or above the limit."""
        ...

    def void(self, reservation_id: str, now_ns: int) -> Change: ...

    def end_many(self, endings: Sequence[Ending], now_ns: int) -> tuple[Change, ...]:
        """Each as by `settle` or `void`, in order, all in one: what was reported together shares its cost."""
        ...

    def expire(self, now_ns: int, at_most: int) -> tuple[Change, ...]:
        """Posts the estimate of up to `at_most` reservations whose deadline has passed."""
        ...

    def usage(self, first_day: str, last_day: str) -> tuple[UsageRow, ...]:
        """Rows by day, both days included."""
        ...

    def prune(self, now_ns: int, keep_ns: int, at_most: int) -> int:
        """Forgets up to `at_most` ended reservations, journal entries and counters older than `keep_ns`; answers how many.

        Balances, pending reservations and the usage report stay. Called now and then.
        """
        ...

    def checkpoint(self) -> None:
        """What keeps the store quick and is no part of any decision: called at every tick."""
        ...

    # Budgets by hand

    def raise_limit(self, raise_id: str, charge: Charge, by: int, who: str, why: str, now_ns: int) -> QuotaState:
        """Adds `by` to the limit of the charge's counter for the period that the counter is in, and answers how it stands then.

        From then on `reserve` and `look` measure every charge of this counter by `in_force(charge.limit, what the period's
        raises add up to)`, which is also `QuotaState.limit`; the next period starts without. A raise opens the counter's
        period, as a charge of 0 would. An id that is known changes nothing and is answered as the counter stands. `ValueError`
        where the window is no calendar, where `by` is 0 or beyond ±MAX_AMOUNT, or the sum for the period would be.
        """
        ...

    def raises(self, since_ns: int) -> tuple[Raise, ...]:
        """Every raise made at `since_ns` or later, in order. They are kept for ever: they are the record."""
        ...

    # Alerts, at least once to each target

    def claim_alerts(self, target: str, now_ns: int, lease_ns: int, at_most: int) -> tuple[Delivery, ...]:
        """Up to `at_most` alerts that `target` has to be told of, the oldest first. For `lease_ns` they are the caller's:
        nobody else is given them, and afterwards, unless `delivered` or `retry_alert` came, somebody is.

        An alert is in the store from the settlement on that reached it, and offered for `DELIVER_WITHIN_NS` after it. A target
        is known by what it is called and not declared: a new one is told of what is not too old yet.
        """
        ...

    def delivered(self, target: str, alert: str, now_ns: int) -> None:
        """`target` has it; idempotent. Unknown names are ignored."""
        ...

    def retry_alert(self, target: str, alert: str, next_ns: int) -> None:
        """Offered again from `next_ns` on, unless it is delivered. Unknown names are ignored."""
        ...

    # Learned estimates

    def learn(self, lessons: tuple[Lesson, ...], now_ns: int) -> None:
        """Adds counts to what is known of each key and model, by `calibration.added`, all of them or none. A row that nobody
        adds to is forgotten by `prune` like everything else."""
        ...

    def learned_since(self, sequence: int, at_most: int) -> tuple[Lesson, ...]:
        """Up to `at_most` rows changed after `sequence`, in its order. A number is never used twice, also after a `prune`."""
        ...
