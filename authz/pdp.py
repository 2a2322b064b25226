"""The decision, phase by phase. Read `prepare`, `conclude` and `settle`: they are the specification.

`conclude` is pure, and `prepare` reads of the store only how full the quotas are, where a policy asks. The one act is the
reservation between them.
Allow is constructed in `conclude` and nowhere else; every other way out is a `Deny` with a `Reason`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Protocol, assert_never
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from authz.answers import Answer, limit_headers, quota_refusal, refusal
from authz.bundle import Bundle
from authz.clock import Clock
from authz.errors import Refused, StoreUnavailable
from authz.identity.credentials import KeyRing, bearer, invalid
from authz.identity.keys import digest
from authz.inference import endpoints, estimate
from authz.inference.pricebook import Decommissioned, ModelSpec
from authz.model import (
    Allow,
    Ask,
    Decision,
    DecisionRecord,
    Deny,
    Estimate,
    Meter,
    Outcome,
    Principal,
    QuotaState,
    Receipt,
    Request,
    Secret,
    Uid,
)
from authz.policy import Context, Percents, Verdict
from authz.quota.ledger import Actual, Change, Full, Held, Hold, Ledger, Reservation, Terms
from authz.reasons import Reason

_log = logging.getLogger(__name__)


class Parts(Protocol):
    """What the PDP is composed of, from the composition root."""

    @property
    def bundle(self) -> Bundle: ...

    @property
    def upstream_key(self) -> Secret | None: ...


class Trace(Struct):
    """What is known of a request so far: filled phase by phase, read once for the record. Lives for one decision."""

    decision_id: str
    started_ns: int
    request: Request
    bundle: Bundle
    upstream_key: Secret | None
    principal: Principal | None = None
    ask: Ask | None = None
    model: ModelSpec | None = None
    verdict: Verdict | None = None
    estimate: Estimate | None = None
    states: tuple[QuotaState, ...] = ()


class Pdp:
    """Decides and settles. Safe in threads: a decision's state is its own `Trace`.

    new_id  an unguessable id of 128 bits or more; also the name under which a reservation is reported on
    record  takes the decision record; must not block
    """

    def __init__(
        self,
        parts: Parts,
        ring: KeyRing,
        store: Ledger,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        record: Callable[[DecisionRecord], None],
        ttl_ns: int,
    ) -> None:
        self._parts, self._ring, self._store = parts, ring, store
        self._clock, self._new_id, self._record, self._ttl_ns = clock, new_id, record, ttl_ns

    def decide(self, request: Request) -> Decision:
        """Allow or Deny. Never raises for what a caller sent or for a store that is gone."""
        trace = Trace(self._new_id(), self._clock(), request, self._parts.bundle, self._parts.upstream_key)
        try:
            hold = self.prepare(trace)
            decision = self.conclude(trace, self._store.reserve(hold, trace.started_ns))
        except Refused as refused:
            decision = self._deny(trace, refusal(refused))
        except StoreUnavailable as error:
            _log.error("the store did not answer", extra={"error": str(error), "decision_id": trace.decision_id})
            unavailable = Refused(Reason.STORE_UNAVAILABLE, "The quota store is unavailable, retry shortly.")
            decision = self._deny(trace, refusal(unavailable))
        self._record(decision.record)
        return decision

    def reject(self, refused: Refused) -> Deny:
        """The answer to what could not even be read as a request; recorded like any other."""
        nothing = Request("", "", (), None)
        trace = Trace(self._new_id(), self._clock(), nothing, self._parts.bundle, self._parts.upstream_key)
        denied = self._deny(trace, refusal(refused))
        self._record(denied.record)
        return denied

    def prepare(self, trace: Trace) -> Hold:
        """Everything that can be said before anything is charged. Raises `Refused`, `StoreUnavailable`."""
        request, bundle = trace.request, trace.bundle

        # 1 identity: who is asking
        secret_digest = digest(bearer(request))
        key = self._ring.find(secret_digest, trace.started_ns) or bundle.directory.key_of_digest(secret_digest)
        trace.principal = principal = bundle.directory.principal(key, trace.started_ns) if key else None
        if principal is None:
            raise invalid()

        # 2 inference: what is asked, of which model, at what most
        trace.ask = ask = endpoints.read(request)
        trace.model = model = _model(bundle, ask)
        price = model.price
        if price is None or ask.action not in model.actions:
            raise Refused(Reason.MODEL_NOT_PRICED, f"The model `{model.id}` has no price for this use.", param="model")
        trace.estimate = estimate.bound(
            ask,
            price,
            context_tokens=model.context_tokens,
            max_output_tokens=model.max_output_tokens,
            overhead_tokens=model.prompt_overhead_tokens,
            expected_output_tokens=model.expected_output_tokens,
        )

        # 3 quota: what has to fit, and how full it is where a policy asks
        charges = bundle.quotas.charges(principal, model.id, model.groups, trace.estimate)
        asked = Uid("Model", model.id)
        reads = bundle.policy.reads_quotas(principal, ask.action, asked)
        fill = self._store.look(charges, trace.started_ns) if reads else ()

        # 4 policy: may they
        context = _context(trace, ask, trace.estimate, principal, fill)
        trace.verdict = verdict = bundle.policy.decide(principal, ask.action, (asked,), context)
        if not verdict.allowed:
            raise _policy_refusal(verdict, principal, ask, model)

        # 5 upstream: is there a key to go with
        if trace.upstream_key is None:
            raise Refused(Reason.UPSTREAM_KEY_UNAVAILABLE, "No upstream key is available, retry shortly.")

        return Hold(
            id=self._new_id(),
            retry_key=f"{principal.uid}/{request.request_id}" if request.request_id else "",
            request_id=request.request_id,
            charges=charges,
            terms=Terms(
                day=_day(trace.started_ns, bundle.time_zone),
                organisation=principal.organisation.id,
                team=principal.team.id,
                user=principal.user.id if principal.user else "",
                key=principal.uid.id,
                model=model.id,
                action=ask.action,
                price=price,
                at_most=trace.estimate.at_most,
            ),
            ttl_ns=self._ttl_ns,
        )

    def conclude(self, trace: Trace, outcome: Held | Full) -> Decision:
        """The answer, once the store has spoken."""
        trace.states = outcome.states
        match outcome:
            case Held():
                assert trace.upstream_key is not None  # INVARIANT: phase 5 refuses without one
                record = self._recorded(trace, "allow", 200, reservation_id=outcome.reservation_id)
                return Allow(outcome.reservation_id, trace.upstream_key, limit_headers(outcome.states, held=True), record)
            case Full():
                assert trace.model is not None  # INVARIANT: phase 2 set it
                return self._deny(trace, quota_refusal(outcome, trace.model.id, trace.started_ns))
            case _:
                assert_never(outcome)

    def settle(self, receipt: Receipt) -> Change:
        """What the request really used takes the place of its estimate. Idempotent. Raises `StoreUnavailable`."""
        # 1 which reservation: by our own id; by the request's where our answer was never applied
        reservation = (
            self._store.find(receipt.reservation_id)
            if receipt.reservation_id
            else self._store.find_by_request(receipt.request_id)
        )
        if reservation is None:
            return Change(changed=False, state=None)

        # 2 what it owes
        now_ns = self._clock()
        match receipt.outcome:
            case Outcome.UPSTREAM_ERROR | Outcome.NOT_SENT:
                change = self._store.void(reservation.id, now_ns)
            case Outcome.ANSWERED | Outcome.ABANDONED:
                change = self._store.settle(reservation.id, _actual(reservation, receipt), now_ns)
            case _:
                assert_never(receipt.outcome)

        # 3 who has to know
        _tell(change)
        return change

    def expire(self, at_most: int) -> int:
        """Posts the estimates of up to `at_most` reservations that nobody reported on in time. Raises `StoreUnavailable`."""
        changes = self._store.expire(self._clock(), at_most)
        for change in changes:
            _tell(change)
        return len(changes)

    def void(self, reservation_id: str) -> Change:
        """Gives everything back: the request never left. Idempotent. Raises `StoreUnavailable`."""
        return self._store.void(reservation_id, self._clock())

    def _deny(self, trace: Trace, answer: Answer) -> Deny:
        record = self._recorded(trace, "deny", answer.status, reason=answer.reason, message=answer.message)
        return Deny(answer.reason, answer.status, answer.type, answer.message, answer.param, answer.headers, record)

    def _recorded(
        self,
        trace: Trace,
        effect: str,
        status: int,
        *,
        reservation_id: str = "",
        reason: Reason | None = None,
        message: str = "",
    ) -> DecisionRecord:
        principal, ask, verdict, request = trace.principal, trace.ask, trace.verdict, trace.request
        return DecisionRecord(
            decision_id=trace.decision_id,
            time=datetime.fromtimestamp(trace.started_ns / 1e9, UTC).isoformat(timespec="milliseconds"),
            duration_us=(self._clock() - trace.started_ns) // 1000,
            reservation_id=reservation_id,
            request_id=request.request_id,
            bundle=trace.bundle.digest,
            effect=effect,
            status=status,
            reason=reason,
            message=message,
            principal=str(principal.uid) if principal else None,
            team=principal.team.id if principal else None,
            organisation=principal.organisation.id if principal else None,
            user=principal.user.id if principal and principal.user else None,
            # A client's own text is kept only where the table of endpoints vouches for it.
            method=request.method if ask else "",
            path=request.path if ask else "",
            action=ask.action if ask else None,
            model=trace.model.id if trace.model else None,
            stream=ask.stream if ask else None,
            policies=verdict.policies if verdict else (),
            policy_errors=verdict.errors if verdict else (),
            shadow_policies=verdict.shadow if verdict else (),
            quotas=trace.states,
            estimate=trace.estimate.at_most if trace.estimate else {},
        )


def _tell(change: Change) -> None:
    for alert in change.alerts:
        _log.warning("a threshold of a quota is reached", extra={"alert": msgspec.to_builtins(alert)})


def _model(bundle: Bundle, ask: Ask) -> ModelSpec:
    """The exact name and nothing like it."""
    name = ask.models[0]
    found = bundle.prices.find(name)
    match found:
        case ModelSpec():
            return found
        case Decommissioned():
            instead = f" Use `{found.replacement}` instead." if found.replacement else ""
            raise Refused(Reason.MODEL_DECOMMISSIONED, f"The model `{name}` has been decommissioned.{instead}", param="model")
        case None:
            shown = "".join(char if char.isprintable() else "?" for char in name[:80])
            raise Refused(Reason.MODEL_NOT_FOUND, f"The model `{shown}` does not exist.", param="model")
        case _:
            assert_never(found)


def _context(trace: Trace, ask: Ask, bound: Estimate, principal: Principal, fill: tuple[QuotaState, ...]) -> Context:
    return Context(
        input_tokens=bound.at_most[Meter.INPUT_TOKENS],
        max_output_tokens=bound.at_most[Meter.OUTPUT_TOKENS],
        stream=ask.stream,
        endpoint=ask.endpoint,
        service_tier=ask.service_tier,
        tools=ask.tools,
        source_ip=trace.request.source_ip,
        now_ns=trace.started_ns,
        spend=_fullest(principal, (state for state in fill if state.meter is Meter.SPEND)),
        window=_fullest(principal, (state for state in fill if state.meter is not Meter.SPEND)),
    )


def _fullest(principal: Principal, states: Iterable[QuotaState]) -> Percents:
    """How full the fullest of these quotas is at each scope above a request, in whole per cent, rounded down; 0 without one."""
    full: dict[str, int] = {}
    for state in states:
        full[state.scope] = max(full.get(state.scope, 0), state.used * 100 // state.limit)
    if not full:
        return Percents()

    def at(uid: Uid | None) -> int:
        return full.get(str(uid), 0) if uid is not None else 0

    own = principal.uid if principal.uid.type == "Key" else None
    return Percents(org=at(principal.organisation), team=at(principal.team), user=at(principal.user), key=at(own))


def _policy_refusal(verdict: Verdict, principal: Principal, ask: Ask, model: ModelSpec) -> Refused:
    if verdict.errors:
        return Refused(
            Reason.POLICY_ERROR, "A policy could not be evaluated, so the request is denied. Tell your administrator."
        )
    if verdict.forbidden:
        names = ", ".join(f"`{policy}`" for policy in verdict.policies)
        return Refused(Reason.POLICY_DENIED, f"Denied by policy {names}.", param="model")
    return Refused(
        Reason.MODEL_NOT_AVAILABLE,
        f"The model `{model.id}` is not available to {principal.uid} for `{ask.action}`.",
        param="model",
    )


def _actual(reservation: Reservation, receipt: Receipt) -> Actual:
    """Without a count that can be believed the bound stands: nobody is let off by leaving early."""
    terms = reservation.terms
    if receipt.usage is None or terms.price is None:
        return Actual(amounts=terms.at_most, usage=None)
    return Actual(amounts=estimate.amounts(receipt.usage, terms.price), usage=receipt.usage)


def _day(now_ns: int, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(now_ns // 1_000_000_000, zone).date().isoformat()
