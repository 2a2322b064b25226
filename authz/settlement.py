"""How a request ends in the ledger: what it really used takes the place of its estimate, or everything is given back."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Sequence
from enum import StrEnum
from typing import Final, Protocol, assert_never

import msgspec

from authz import batching
from authz.clock import Clock
from authz.errors import StoreUnavailable
from authz.inference import estimate
from authz.model import Meter, Outcome, Receipt, Record, SettlementRecord, UpstreamLimit, Usage
from authz.quota.belongings import Belonging
from authz.quota.calibration import Observed
from authz.quota.ledger import Actual, Alert, Change, Ending, Reservation, Terms
from authz.telemetry.records import timestamp

_NOTHING: Final = Actual(amounts={}, usage=None)
_UNKNOWN: Final = Terms("", "", "", "", "", "", "", None, {})
_log = logging.getLogger(__name__)


class Doubt(StrEnum):
    """What is odd about the count of a request that the upstream has answered."""

    MISSING = "missing"  # none, or none that can be believed: the bound stands
    ABOVE_BOUND = "above_bound"  # posted in full, and somebody has to mend the bound or ask the upstream


class Ender(Protocol):
    """As much of a `Ledger` as the end of a reservation needs."""

    def find(self, reservation_id: str) -> Reservation | None: ...

    def find_many(self, reservation_ids: Sequence[str]) -> Sequence[Reservation | StoreUnavailable | None]: ...

    def find_by_request(self, request_id: str) -> Reservation | None: ...

    def settle(self, reservation_id: str, actual: Actual, now_ns: int) -> Change: ...

    def void(self, reservation_id: str, now_ns: int) -> Change: ...

    def end_many(self, endings: Sequence[Ending], now_ns: int) -> Sequence[Change | StoreUnavailable]: ...

    def expire(self, now_ns: int, at_most: int) -> tuple[Change, ...]: ...

    def keep(self, belonging: Belonging) -> None: ...


class Settler:
    """Ends reservations. Safe in threads; every event is idempotent, and raises `StoreUnavailable`.

    record   takes the settlement's record; must not block
    observe  learns from what a request really used
    alerted  counts an alert
    doubted  counts an answer whose usage is odd
    refused  counts an answer in which the upstream refused, by status
    limited  learns what the upstream says of its own limits: the key's id, the model
    unknown  counts a report on a reservation that nobody made: forged, or of one that was forgotten long ago
    """

    def __init__(
        self,
        store: Ender,
        *,
        clock: Clock,
        record: Callable[[Record], None],
        observe: Callable[[Observed], None],
        alerted: Callable[[Alert], None],
        doubted: Callable[[Doubt], None] = lambda doubt: None,
        refused: Callable[[int], None] = lambda status: None,
        limited: Callable[[str, str, tuple[UpstreamLimit, ...]], None] = lambda upstream, model, limits: None,
        unknown: Callable[[], None] = lambda: None,
    ) -> None:
        self._store, self._clock, self._record = store, clock, record
        self._observe, self._alerted, self._doubted = observe, alerted, doubted
        self._refused, self._limited, self._unknown = refused, limited, unknown

    def settle(self, receipt: Receipt) -> Change:
        """What the enforcement point reports of a request, in amounts."""
        (change,) = self.settle_many((receipt,))
        if isinstance(change, StoreUnavailable):
            raise change
        return change

    def settle_many(self, receipts: Sequence[Receipt]) -> tuple[Change | StoreUnavailable, ...]:
        """Each as by `settle`, in order, with one call of the store for all of them; the error is the answer to one that it did
        not take."""
        found = self._found(receipts)
        now_ns = self._clock()
        owed = [self._owed(receipt, each, now_ns) for receipt, each in zip(receipts, found, strict=True)]
        endings = [each for each in owed if isinstance(each, Ending)]
        changes = iter(self._store.end_many(endings, now_ns) if endings else ())
        answers: list[Change | StoreUnavailable] = []
        for receipt, reservation, each in zip(receipts, found, owed, strict=True):
            answer = next(changes) if isinstance(each, Ending) else each
            if isinstance(each, Ending) and isinstance(answer, Change) and isinstance(reservation, Reservation):
                self._ended(receipt, reservation, each.actual or _NOTHING, answer, now_ns)
            answers.append(answer)
        return tuple(answers)

    def _found(self, receipts: Sequence[Receipt]) -> list[Reservation | StoreUnavailable | None]:
        """1 which reservation: by our own id; by the request's where our answer was never applied."""
        ids = [receipt.reservation_id for receipt in receipts if receipt.reservation_id]
        known = iter(self._store.find_many(ids) if ids else ())
        return [next(known) if receipt.reservation_id else self._by_request(receipt.request_id) for receipt in receipts]

    def _by_request(self, request_id: str) -> Reservation | StoreUnavailable | None:
        try:
            return self._store.find_by_request(request_id)
        except StoreUnavailable as error:
            return error

    def _owed(
        self, receipt: Receipt, reservation: Reservation | StoreUnavailable | None, now_ns: int
    ) -> Ending | Change | StoreUnavailable:
        """How the reservation is to end; an answer where nothing ends now."""
        if isinstance(reservation, StoreUnavailable):
            return reservation
        if reservation is None:
            if receipt.reservation_id:  # without one it is of a request that was denied
                self._unknown()
            return Change(changed=False, state=None)

        # 2 what the answer names is the team's; a batch that it names is settled when that has ended
        if receipt.named is not None and receipt.outcome is Outcome.ANSWERED:
            try:
                for belonging in batching.learned(receipt.named, reservation, now_ns):
                    self._store.keep(belonging)
                    if belonging.reservation:
                        return Change(changed=False, state=reservation.state)
            except StoreUnavailable as error:
                return error

        # 3 what it owes
        match receipt.outcome:
            case Outcome.UPSTREAM_ERROR | Outcome.NOT_SENT:
                return Ending(reservation.id, None)
            case Outcome.ANSWERED | Outcome.ABANDONED:
                return Ending(reservation.id, _actual(reservation, receipt))
            case _:
                assert_never(receipt.outcome)

    def _ended(self, receipt: Receipt, reservation: Reservation, actual: Actual, change: Change, now_ns: int) -> None:
        """4 who has to know."""
        self._tell(change, reservation.id, receipt.outcome, actual, now_ns, reservation.terms)
        if receipt.limits:
            self._limited(receipt.upstream, reservation.terms.model, receipt.limits)
        if change.changed and receipt.outcome is Outcome.UPSTREAM_ERROR:
            self._refused(receipt.status)
        if change.changed and receipt.outcome is Outcome.ANSWERED:
            if actual.usage is not None and reservation.terms.work is None:
                self._observe(_observed(reservation, actual.usage))
            if (doubt := _doubt(reservation, receipt.usage)) is not None:
                self._doubted(doubt)

    def settle_batch(self, reservation_id: str, usage: Usage | None, answered: int) -> Change:
        """What a batch has used that has ended: of its lines so many were answered, and used this together; None where that
        cannot be told, and the bound stands."""
        reservation = self._store.find(reservation_id)
        if reservation is None:
            return Change(changed=False, state=None)
        now_ns, terms = self._clock(), reservation.terms
        outcome, actual = Outcome.ANSWERED, Actual(amounts=terms.at_most, usage=None)
        if not answered:
            outcome, actual = Outcome.UPSTREAM_ERROR, _NOTHING
            change = self._store.void(reservation.id, now_ns)
        else:
            if usage is not None and terms.price is not None:
                requests = {Meter.REQUESTS: terms.at_most.get(Meter.REQUESTS, answered)}
                actual = Actual(amounts=estimate.amounts(usage, terms.price) | requests, usage=usage)
            change = self._store.settle(reservation.id, actual, now_ns)
        self._tell(change, reservation.id, outcome, actual, now_ns, terms)
        if change.changed and answered and (doubt := _doubt(reservation, usage)) is not None:
            self._doubted(doubt)
        return change

    def void(self, reservation_id: str) -> Change:
        """Gives everything back: the request never left."""
        now_ns = self._clock()
        change = self._store.void(reservation_id, now_ns)
        self._tell(change, reservation_id, Outcome.NOT_SENT, _NOTHING, now_ns)
        return change

    def expire(self, at_most: int) -> int:
        """Posts the estimates of up to `at_most` reservations that nobody reported on in time; answers how many."""
        changes = self._store.expire(self._clock(), at_most)
        self.tell(changes)
        return len(changes)

    def tell(self, changes: Iterable[Change]) -> None:
        """Says which thresholds were reached; each of them once, because the store says so once."""
        for change in changes:
            for alert in change.alerts:
                _log.warning("a threshold of a quota is reached", extra={"alert": msgspec.to_builtins(alert)})
                self._alerted(alert)

    def _tell(
        self, change: Change, reservation_id: str, outcome: Outcome, actual: Actual, now_ns: int, terms: Terms = _UNKNOWN
    ) -> None:
        if change.changed and change.state is not None:
            self._record(
                SettlementRecord(
                    time=timestamp(now_ns),
                    reservation_id=reservation_id,
                    outcome=outcome,
                    state=change.state.value,
                    team=terms.team,
                    user=terms.user,
                    key=terms.key,
                    model=terms.model,
                    action=terms.action,
                    amounts=actual.amounts,
                    usage=actual.usage,
                )
            )
        self.tell((change,))


def _observed(reservation: Reservation, usage: Usage) -> Observed:
    terms = reservation.terms
    return Observed(
        key=terms.key,
        model=terms.model,
        input_bytes=terms.input_bytes,
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        reserved_tokens=terms.expected_tokens,
    )


def _doubt(reservation: Reservation, usage: Usage | None) -> Doubt | None:
    terms = reservation.terms
    if terms.price is None:
        return None  # the request itself said what it costs
    if usage is None:
        return Doubt.MISSING
    most = terms.at_most.get(Meter.INPUT_TOKENS, 0), terms.at_most.get(Meter.OUTPUT_TOKENS, 0)
    return Doubt.ABOVE_BOUND if usage.input_tokens > most[0] or usage.output_tokens > most[1] else None


def _actual(reservation: Reservation, receipt: Receipt) -> Actual:
    """Without a count that can be believed the bound stands: nobody is let off by leaving early.

    Without a price by token the request itself said what it costs, and the bound is exact: whatever count came is not ours.
    """
    terms = reservation.terms
    if receipt.usage is None or terms.price is None:
        return Actual(amounts=terms.at_most, usage=None)
    return Actual(amounts=estimate.amounts(receipt.usage, terms.price), usage=receipt.usage)
