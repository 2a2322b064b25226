"""What is known of a request while it is decided, and the record that is made of it."""

from __future__ import annotations

from msgspec import Struct

from authz.bundle import Bundle
from authz.errors import redacted
from authz.identity.authentication import told_roles
from authz.identity.upstream import UpstreamKey
from authz.inference.pricebook import ModelSpec
from authz.model import Ask, DecisionRecord, Estimate, Principal, QuotaState, Request
from authz.policy import Verdict
from authz.reasons import Reason
from authz.telemetry.records import timestamp
from authz.telemetry.traces import Draft

_MAX_NAME = 80


class Trace(Struct):
    """What is known of a request so far: filled phase by phase, read once for the record. Lives for one decision."""

    decision_id: str
    started_ns: int
    request: Request
    bundle: Bundle
    upstream_key: UpstreamKey | None = None
    narrowed: Principal | None = None
    key_expires_ns: int = 0
    principal: Principal | None = None
    ask: Ask | None = None
    model: ModelSpec | None = None
    verdict: Verdict | None = None
    estimate: Estimate | None = None
    states: tuple[QuotaState, ...] = ()
    refused_by: str | None = None
    span: Draft | None = None


def recorded(
    trace: Trace,
    now_ns: int,
    effect: str,
    status: int,
    *,
    reservation_id: str = "",
    reason: Reason | None = None,
    message: str = "",
) -> DecisionRecord:
    """The record of a decision that is made at `now_ns`."""
    principal, ask, verdict, request = trace.principal, trace.ask, trace.verdict, trace.request
    return DecisionRecord(
        decision_id=trace.decision_id,
        time=timestamp(trace.started_ns),
        duration_us=(now_ns - trace.started_ns) // 1000,
        reservation_id=reservation_id,
        trace_id=trace.span.trace_id if trace.span else "",
        span_id=trace.span.span_id if trace.span else "",
        request_id=request.request_id,
        bundle=trace.bundle.digest,
        effect=effect,
        status=status,
        reason=reason,
        message=redacted(message),
        principal=str(principal.uid) if principal else None,
        team=principal.team.id if principal else None,
        organisation=principal.organisation.id if principal else None,
        user=principal.user.id if principal and principal.user else None,
        roles=told_roles(principal, trace.narrowed),
        # A client's own text is kept only where the table of endpoints vouches for it.
        method=request.method if ask else "",
        path=redacted(request.path) if ask else "",
        action=ask.action if ask else None,
        models=tuple([printable(name) for name in ask.models]) if ask else (),
        model=trace.model.id if trace.model else None,
        endpoint=ask.endpoint if ask else "",
        stream=ask.stream if ask else False,
        service_tier=ask.service_tier if ask else "",
        tools=ask.tools if ask else False,
        source_ip=request.source_ip,
        policies=verdict.policies if verdict else (),
        policy_errors=verdict.errors if verdict else (),
        shadow_policies=verdict.shadow if verdict else (),
        quotas=trace.states,
        quota=trace.refused_by,
        estimate=trace.estimate,
    )


def printable(name: str) -> str:
    """A name that a client gave, short, without anything that a log or a terminal would obey, and not a key in its place."""
    text = redacted(name[:_MAX_NAME])
    return text if text.isprintable() else "".join(char if char.isprintable() else "?" for char in text)
