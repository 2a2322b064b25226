"""The decision, phase by phase. Read `prepare`, `_weigh` and `conclude`: they are the specification.

`conclude` is pure, and `prepare` reads of the store only how full the quotas are, where a policy asks. The one act is the
reservation between them.
Allow is constructed in `conclude` and nowhere else; every other way out is a `Deny` with a `Reason`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from functools import cache, lru_cache, partial
from typing import Final, ParamSpec, Protocol, TypeVar, assert_never
from zoneinfo import ZoneInfo

from authz import batching
from authz.answers import Answer, crowded, limit_headers, quota_refusal, refusal
from authz.bundle import Bundle
from authz.clock import Clock
from authz.errors import Refused, StoreUnavailable
from authz.identity.authentication import Authenticator
from authz.identity.upstream import UpstreamKey
from authz.inference import catalogue, endpoints, estimate
from authz.inference.batch import at_line
from authz.inference.estimate import Metered
from authz.inference.pricebook import BATCH, Decommissioned, ModelSpec
from authz.model import (
    Allow,
    Ask,
    Asked,
    Decision,
    Deny,
    Estimate,
    Meter,
    Price,
    Principal,
    QuotaState,
    Record,
    Reply,
    Request,
    Uid,
    Work,
)
from authz.policy import Verdict
from authz.quota.belongings import Belonging
from authz.quota.calibration import Expectation
from authz.quota.headroom import Headroom
from authz.quota.ledger import Charge, Full, Held, Hold, Terms, reservation_id
from authz.quota.windows import NS
from authz.reasons import Reason
from authz.recording import Trace, printable, recorded
from authz.telemetry.metrics import Metrics
from authz.telemetry.records import moment
from authz.telemetry.traces import Phase, Tracer
from authz.verdicts import context_of, names_of, policy_refusal

DEGRADED_HEADER: Final = "x-authz-degraded"
"""Says of an answer that it was given without the store, and which declaration let it: `allow` or `share`."""

KEY_EXPIRES_HEADER: Final = "x-authz-key-expires"
"""Says of a secret that another has replaced it, and when it stops working: RFC 3339."""

# By names of our own: a member of an enum is looked up through its class each time, and a decision does that ten times.
_IDENTITY, _INFERENCE, _PRICE, _QUOTA = Phase.IDENTITY, Phase.INFERENCE, Phase.PRICE, Phase.QUOTA
_POLICY, _UPSTREAM, _RESERVE = Phase.POLICY, Phase.UPSTREAM, Phase.RESERVE
_TOKENS: Final = Meter.TOKENS
_NOTHING: Final = Metered.NOTHING

_MINUTE_NS: Final = 60_000_000_000
_log = logging.getLogger(__name__)

P = ParamSpec("P")
T = TypeVar("T")


class Parts(Protocol):
    """What the PDP is composed of, from the composition root."""

    @property
    def bundle(self) -> Bundle: ...

    def upstream_key(self, team: str, now_ns: int) -> UpstreamKey | None: ...


class Reserver(Protocol):
    """As much of a `Ledger` as a decision needs."""

    def reserve(self, hold: Hold, now_ns: int) -> Held | Full: ...

    def reserve_many(self, holds: Sequence[Hold], now_ns: int) -> Sequence[Held | Full | StoreUnavailable]: ...

    def look(self, charges: tuple[Charge, ...], now_ns: int) -> tuple[QuotaState, ...]: ...

    def belonging(self, identity: str) -> Belonging | None: ...


class Pdp:
    """Decides. Safe in threads: a decision's state is its own `Trace`.

    new_id  an unguessable id of 128 bits or more; what a reservation is reported on under ends with one
    record  takes the decision record; must not block
    expect  what a key is known to use on a model; None for no more than the price book says
    headroom  what is left of the upstream's own limits; by default nothing is known of them, and nobody is held back
    tracer  None where nothing is traced
    """

    def __init__(
        self,
        parts: Parts,
        who: Authenticator,
        store: Reserver,
        *,
        clock: Clock,
        new_id: Callable[[], str],
        record: Callable[[Record], None],
        metrics: Metrics,
        ttl_ns: int,
        expect: Callable[[str, str], Expectation | None] = lambda key, model: None,
        headroom: Headroom | None = None,
        tracer: Tracer | None = None,
    ) -> None:
        self._parts, self._who, self._store = parts, who, store
        self._clock, self._new_id, self._record, self._metrics, self._ttl_ns = clock, new_id, record, metrics, ttl_ns
        self._expect, self._headroom, self._tracer = expect, headroom or Headroom(), tracer

    def decide(self, request: Request) -> Decision:
        """Allow or Deny. Never raises for what a caller sent or for a store that is gone."""
        trace = self._trace(request)
        return self._decided(trace, _attempted(self.prepare, trace))

    def decide_many(self, requests: Sequence[Request]) -> tuple[Decision, ...]:
        """Each as by `decide`, in order, with one call of the store for all of them. One denial touches no other request."""
        traces = [self._trace(request) for request in requests]
        found = [_attempted(self.prepare, trace) for trace in traces]
        holds = []
        for trace, each in zip(traces, found, strict=True):
            if isinstance(each, Hold):
                self._enter(trace, _RESERVE)
                holds.append(each)
        outcomes = iter(self._store.reserve_many(holds, traces[-1].started_ns) if holds else ())
        return tuple(
            self._answered(trace, next(outcomes) if isinstance(each, Hold) else each)
            for trace, each in zip(traces, found, strict=True)
        )

    def judge(self, asked: Asked) -> Decision:
        """The same for a request that is not there as bytes: a test case, or one that was recorded."""
        trace = self._trace(Request("", "", (), None, asked.request_id, asked.source_ip))
        trace.started_ns, trace.principal, trace.ask, trace.estimate = asked.now_ns, asked.principal, asked.ask, asked.estimate
        trace.narrowed = asked.narrowed
        return self._decided(trace, _attempted(self._sized, trace, asked.principal, asked.ask))

    def reject(self, refused: Refused, request: Request | None = None) -> Deny:
        """The answer to what is not decided: it could not be read as a request, or there is no time for this one. Recorded like
        any other."""
        trace = self._trace(request or Request("", "", (), None))
        denied = self._deny(trace, refusal(refused))
        self._tell_of(trace, denied)
        return denied

    def prepare(self, trace: Trace) -> Hold | Reply:
        """Everything that can be said before anything is charged. Raises `Refused`, `StoreUnavailable`."""
        request, bundle = trace.request, trace.bundle

        # 1 identity: who is asking
        self._enter(trace, _IDENTITY)
        identity = self._who.identify(request, bundle.directory, trace.started_ns)
        trace.principal = principal = identity.principal
        trace.narrowed, trace.key_expires_ns = identity.narrowed, identity.expires_ns

        # 2 inference: what is asked
        self._enter(trace, _INFERENCE)
        trace.ask = ask = endpoints.read(request)
        return self._sized(trace, principal, ask)

    def _sized(self, trace: Trace, principal: Principal, ask: Ask) -> Hold | Reply:
        if estimate.METERED.get(ask.action) is _NOTHING:
            self._enter(trace, _POLICY)
            return self._list(trace, principal, ask)
        ask, work = batching.resolved(ask, principal, self._store.belonging)
        trace.ask = ask
        return self._weigh(trace, principal, ask, work)

    def _weigh(self, trace: Trace, principal: Principal, ask: Ask, work: Work | None) -> Hold:
        bundle = trace.bundle

        # 3 price: of which model, and what it costs at most
        self._enter(trace, _PRICE)
        trace.model = model = _model(bundle, ask)
        weighed = self._weighed(principal, ask, work, model, trace.estimate)
        trace.estimate = bound = weighed.bound

        # 4 quota: what has to fit
        self._enter(trace, _QUOTA)
        charges = bundle.quotas.charges(principal, model.id, model.groups, bound)

        # 5 policy: may they
        self._enter(trace, _POLICY)
        look: Callable[[], tuple[QuotaState, ...]] = partial(self._store.look, charges, trace.started_ns)
        if len(weighed.questions) > 1:
            look = cache(look)
        for asked in weighed.questions:
            named = names_of(asked.ask, model)
            trace.verdict = verdict = self._judged(trace, principal, asked.ask, asked.ask.action, named, asked.estimate, look)
            if not verdict.allowed:
                refused = policy_refusal(verdict, principal, asked.ask, model)
                raise at_line(asked.line, refused) if asked.line else refused

        # 6 upstream: is there a key to go with
        self._enter(trace, _UPSTREAM)
        trace.upstream_key = self._parts.upstream_key(principal.team.id, trace.started_ns)
        if trace.upstream_key is None:
            raise Refused(Reason.UPSTREAM_KEY_UNAVAILABLE, "No upstream key is available, retry shortly.")

        # 7 head-room: has this team had its share of what little the upstream has left
        expected_tokens = bound.expected.get(_TOKENS, 0)
        runs_later = ask.action == BATCH  # the upstream has limits of its own for those
        team, upstream = principal.team.id, trace.upstream_key.name
        full = None if runs_later else self._headroom.look(upstream, model.id, team, expected_tokens, trace.started_ns)
        if full is not None:
            raise crowded(full, model.id, team)

        return Hold(
            id=reservation_id(trace.started_ns, self._new_id()),
            request_id=trace.request.request_id,
            charges=charges,
            terms=Terms(
                day=_day(trace.started_ns // _MINUTE_NS, bundle.time_zone),
                organisation=principal.organisation.id,
                team=principal.team.id,
                user=principal.user.id if principal.user else "",
                key=principal.uid.id,
                model=model.id,
                action=ask.action,
                price=weighed.price,
                at_most=bound.at_most,
                expected_tokens=expected_tokens,
                input_bytes=ask.input_bytes,
                work=weighed.work,
            ),
            ttl_ns=self._ttl_ns if not ask.window_s else (ask.window_s + batching.MARGIN_S) * NS,
        )

    def conclude(self, trace: Trace, outcome: Held | Full) -> Decision:
        """The answer, once the store has spoken."""
        trace.states = outcome.states
        match outcome:
            case Held():
                assert trace.upstream_key is not None  # INVARIANT: phase 5 refuses without one
                record = recorded(trace, self._clock(), "allow", 200, reservation_id=outcome.reservation_id)
                headers = limit_headers(outcome.states, held=True)
                if outcome.degraded is not None:
                    headers = (*headers, (DEGRADED_HEADER, outcome.degraded.value))
                if trace.key_expires_ns:
                    headers = (*headers, (KEY_EXPIRES_HEADER, moment(trace.key_expires_ns)))
                    self._metrics.used_replaced_key()
                upstream = trace.upstream_key
                self._take(trace, upstream)
                return Allow(outcome.reservation_id, upstream.secret, headers, record, upstream.id)
            case Full():
                assert trace.model is not None  # INVARIANT: phase 2 set it
                trace.refused_by = outcome.states[outcome.quota].quota
                return self._deny(trace, quota_refusal(outcome, trace.model.id, trace.started_ns))
            case _:
                assert_never(outcome)

    def _take(self, trace: Trace, upstream: UpstreamKey) -> None:
        """Counts an allowed request off what is left at the upstream."""
        principal, model, bound = trace.principal, trace.model, trace.estimate
        assert principal is not None  # INVARIANT: what is held has been through every phase
        assert model is not None
        assert bound is not None
        assert trace.ask is not None
        if trace.ask.action == BATCH:
            return
        tokens = bound.expected.get(_TOKENS, 0)
        self._headroom.take(upstream.name, model.id, principal.team.id, tokens, trace.started_ns)

    def _judged(
        self,
        trace: Trace,
        principal: Principal,
        ask: Ask,
        action: str,
        named: tuple[Uid, ...],
        bound: Estimate,
        look: Callable[[], tuple[QuotaState, ...]],
    ) -> Verdict:
        """Cedar's answer on every name; how full the quotas are is found out only where a policy asks."""
        policy = trace.bundle.policy
        reads = any(policy.reads_quotas(principal, action, name) for name in named)
        fill = look() if reads else ()
        context = context_of(trace, ask, bound, principal, fill)
        verdict = policy.decide(principal, action, named, context, self._metrics.judged)
        if verdict.allowed and trace.narrowed is not None:
            verdict = policy.decide(trace.narrowed, action, named, context, self._metrics.judged)
        return verdict

    def _list(self, trace: Trace, principal: Principal, ask: Ask) -> Reply:
        """The models that a request could name now: a policy permits some use of them, and that they are listed."""

        def may(action: str, model: ModelSpec) -> bool:
            charges = trace.bundle.quotas.charges(principal, model.id, model.groups, estimate.ANYTHING)
            look = partial(self._store.look, charges, trace.started_ns)
            verdict = self._judged(trace, principal, ask, action, names_of(ask, model), estimate.ANYTHING, look)
            if verdict.errors:
                trace.verdict = verdict
            return verdict.allowed

        def may_use(model: ModelSpec) -> bool:
            return may(ask.action, model) and any(may(action, model) for action in model.actions)

        if not ask.models:
            body = catalogue.several(model for model in trace.bundle.prices.models.values() if may_use(model))
        else:
            trace.model = model = _model(trace.bundle, ask)
            if not may_use(model):
                raise policy_refusal(Verdict(False), principal, ask, model)
            body = catalogue.one(model)
        return Reply(body, (), recorded(trace, self._clock(), "allow", 200))

    def _weighed(
        self, principal: Principal, ask: Ask, work: Work | None, model: ModelSpec, known: Estimate | None
    ) -> batching.Weighed:
        if ask.action == BATCH:
            return batching.weighed(ask, work, model, known)
        found, price = estimate.of(ask, model)
        bound = known or self._expected(principal, ask, model, found, price)
        return batching.Weighed(bound, price, None, (batching.Question(ask, bound),))

    def _expected(self, principal: Principal, ask: Ask, model: ModelSpec, found: Estimate, price: Price | None) -> Estimate:
        """The bound is the price book's; what is expected below it is what the key has used, once that is known."""
        learned = self._expect(principal.uid.id, model.id) if price is not None else None
        if learned is None or price is None:
            return found
        likely = learned.input_tokens(ask.input_bytes), learned.output_tokens
        return estimate.expecting(found, price, *likely)

    def _trace(self, request: Request) -> Trace:
        trace = Trace(self._new_id(), self._clock(), request, self._parts.bundle)
        if self._tracer is not None:
            trace.span = self._tracer.begin(request.traceparent, trace.started_ns)
        return trace

    def _enter(self, trace: Trace, phase: Phase) -> None:
        """Where the decision is traced: this phase begins, and the one before it is over."""
        if trace.span is not None:
            trace.span.phases.append((phase, self._clock()))

    def _decided(self, trace: Trace, found: Hold | Reply | Refused | StoreUnavailable) -> Decision:
        if not isinstance(found, Hold):
            return self._answered(trace, found)
        self._enter(trace, _RESERVE)
        return self._answered(trace, _attempted(self._store.reserve, found, trace.started_ns))

    def _answered(self, trace: Trace, outcome: Held | Full | Reply | Refused | StoreUnavailable) -> Decision:
        decision: Decision
        match outcome:
            case Held() | Full():
                decision = self.conclude(trace, outcome)
            case Reply():
                decision = outcome
            case Refused():
                decision = self._deny(trace, refusal(outcome))
            case StoreUnavailable():
                _log.error("the store did not answer", extra={"error": str(outcome), "decision_id": trace.decision_id})
                unavailable = Refused(Reason.STORE_UNAVAILABLE, "The quota store is unavailable, retry shortly.")
                decision = self._deny(trace, refusal(unavailable))
            case _:
                assert_never(outcome)
        self._tell_of(trace, decision)
        return decision

    def _tell_of(self, trace: Trace, decision: Decision) -> None:
        record = decision.record
        if self._tracer is not None and trace.span is not None:
            self._tracer.decided(trace.span, record, self._clock())
        self._record(record)
        self._metrics.decided(record)
        if record.policy_errors:
            # A forbid that errs protects nobody until it is mended, so this is an alert and not a statistic.
            _log.error(
                "a policy could not be evaluated",
                extra={"alert": "policy_error", "errors": record.policy_errors, "decision_id": record.decision_id},
            )

    def _deny(self, trace: Trace, answer: Answer) -> Deny:
        record = recorded(trace, self._clock(), "deny", answer.status, reason=answer.reason, message=answer.recorded)
        return Deny(answer.reason, answer.status, answer.type, answer.message, answer.param, answer.headers, record)


def _attempted(step: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | Refused | StoreUnavailable:
    """A step's result, or why there is none."""
    try:
        return step(*args, **kwargs)
    except (Refused, StoreUnavailable) as error:
        return error


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
            raise Refused(Reason.MODEL_NOT_FOUND, f"The model `{printable(name)}` does not exist.", param="model")
        case _:
            assert_never(found)


@lru_cache(maxsize=16)
def _day(epoch_minutes: int, zone: ZoneInfo) -> str:
    """No zone changes its date within a minute."""
    return datetime.fromtimestamp(epoch_minutes * 60, zone).date().isoformat()
