"""Spans: one for each decision with one below it for each phase, and one for its settlement, in the trace that Envoy began.

A phase costs the path one look at the clock. Its span is made when the decision is over, and only of a decision that is
sampled: one that is not leaves a span that records nothing.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Final

from msgspec import Struct
from opentelemetry.trace import NonRecordingSpan as Known
from opentelemetry.trace import (
    Span,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TracerProvider,
    get_current_span,
    set_span_in_context,
)
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue

from authz.model import NANOS_PER_USD, DecisionRecord, Meter, SettlementRecord

DECISION: Final = "authz.decision"
SETTLEMENT: Final = "authz.settlement"
PROVIDER: Final = "groq"

_OPERATIONS: Final = {"chat": "chat", "respond": "chat", "embed": "embeddings"}
"""Our actions by their names in the GenAI conventions; the others have none there and keep their own."""

_DECLINED: Final = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f][02468ace]")
"""A W3C `traceparent` that says: not sampled. Reading it costs a tenth of having the SDK come to the same."""

_MAX_OPEN: Final = 50_000
_SERVER_ERROR: Final = 500
_context_of: Final = TraceContextTextMapPropagator().extract


class Phase(StrEnum):
    """Of a decision, in their order; the span of one is `authz.` and its name."""

    IDENTITY = "identity"
    INFERENCE = "inference"
    PRICE = "price"
    QUOTA = "quota"
    POLICY = "policy"
    UPSTREAM = "upstream"
    RESERVE = "reserve"


class Draft(Struct):
    """A decision under way that is traced. `phases` began at these moments, and each ends where the next begins."""

    span: Span
    phases: list[tuple[Phase, int]]

    @property
    def trace_id(self) -> str:
        return f"{self.span.get_span_context().trace_id:032x}"

    @property
    def span_id(self) -> str:
        return f"{self.span.get_span_context().span_id:016x}"


class _Open(Struct, frozen=True):
    """A reservation whose settlement will be a span too."""

    context: SpanContext
    decided_ns: int


class Tracer:
    """Safe in threads. `provider` says what is sampled; `kind` is that of a decision's span.

    sampled  for a provider of our own, which samples what nobody declines: whether to trace a decision on which nobody before
             us has decided. None leaves everything to the provider, as of a host, whose sampler may be any
    """

    def __init__(
        self, provider: TracerProvider, kind: SpanKind = SpanKind.INTERNAL, *, sampled: Callable[[], bool] | None = None
    ) -> None:
        self._tracer, self._kind, self._sampled = provider.get_tracer("authz"), kind, sampled
        self._lock = threading.Lock()
        self._open: dict[str, _Open] = {}

    def begin(self, traceparent: str, now_ns: int) -> Draft | None:
        """None where this decision is not sampled. Without a W3C `traceparent` it joins what is under way in this thread."""
        context = None
        if self._sampled is None:
            context = _context_of({"traceparent": traceparent}) if traceparent else None
        elif not traceparent:
            if not self._sampled():
                return None
        elif _DECLINED.fullmatch(traceparent):
            return None
        else:
            context = _context_of({"traceparent": traceparent})
            if not get_current_span(context).get_span_context().is_valid and not self._sampled():
                return None  # it says nothing: as if it were not there
        span = self._tracer.start_span(DECISION, context, self._kind, start_time=now_ns)
        return Draft(span, []) if span.is_recording() else None

    def decided(self, draft: Draft, record: DecisionRecord, now_ns: int) -> None:
        span, phases = draft.span, draft.phases
        if record.reservation_id:
            self._remember(record.reservation_id, _Open(span.get_span_context(), now_ns))
        inside = set_span_in_context(span)
        ends = [at_ns for _, at_ns in phases[1:]] + [now_ns]
        for (phase, began_ns), ended_ns in zip(phases, ends, strict=False):
            self._tracer.start_span(f"authz.{phase.value}", inside, start_time=began_ns).end(ended_ns)
        span.set_attributes(_of_decision(record))
        if phases and record.reason is not None:
            span.set_attribute("authz.refused_in", phases[-1][0].value)
        if record.status >= _SERVER_ERROR or record.policy_errors:
            span.set_status(Status(StatusCode.ERROR))
        span.end(now_ns)

    def settled(self, record: SettlementRecord, now_ns: int) -> None:
        """From the decision to its settlement: as long as the reservation was open. Nothing where the decision was not traced
        by this process."""
        with self._lock:
            opened = self._open.pop(record.reservation_id, None)
        if opened is None:
            return
        inside = set_span_in_context(Known(opened.context))
        span = self._tracer.start_span(SETTLEMENT, inside, attributes=_of_settlement(record), start_time=opened.decided_ns)
        span.end(max(now_ns, opened.decided_ns))

    def _remember(self, reservation_id: str, opened: _Open) -> None:
        """The oldest goes where nobody reports."""
        with self._lock:
            if len(self._open) >= _MAX_OPEN:
                del self._open[next(iter(self._open))]
            self._open[reservation_id] = opened


def _of_decision(record: DecisionRecord) -> dict[str, AttributeValue]:
    """Names of ours and numbers only: no text that a client chose."""
    found: dict[str, AttributeValue] = {
        "authz.decision_id": record.decision_id,
        "authz.effect": record.effect,
        "authz.bundle": record.bundle,
        "http.response.status_code": record.status,
    }
    if record.reason is not None:
        found["authz.reason"] = record.reason.value
    if record.principal is not None and record.team is not None:
        found["authz.principal"], found["authz.team"] = record.principal, record.team
    if record.policies:
        found["authz.policies"] = record.policies
    if record.quota is not None:
        found["authz.quota"] = record.quota
    if record.action is not None and record.model is not None:
        found |= _of_model(record.action, record.model)
        found["gen_ai.request.stream"] = record.stream
    return found


def _of_settlement(record: SettlementRecord) -> dict[str, AttributeValue]:
    found: dict[str, AttributeValue] = {"authz.outcome": record.outcome.value, "authz.state": record.state}
    if record.model:
        found |= _of_model(record.action, record.model)
    if record.usage is not None:
        found["gen_ai.usage.input_tokens"] = record.usage.input_tokens
        found["gen_ai.usage.output_tokens"] = record.usage.output_tokens
        found["gen_ai.usage.cache_read.input_tokens"] = record.usage.cached_tokens
    if cost := record.amounts.get(Meter.SPEND, 0):
        found["authz.cost.usd"] = cost / NANOS_PER_USD
    return found


def _of_model(action: str, model: str) -> dict[str, AttributeValue]:
    return {
        "gen_ai.provider.name": PROVIDER,
        "gen_ai.operation.name": _OPERATIONS.get(action, action),
        "gen_ai.request.model": model,
    }
