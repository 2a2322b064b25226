"""Our own values as messages of `authz.v1`, and back."""

from __future__ import annotations

from typing import Any, Final, assert_never

import msgspec

from authz.answers import body
from authz.api.wire import decisions_pb2 as wire
from authz.model import (
    Allow,
    Decision,
    DecisionRecord,
    Deny,
    Outcome,
    QuotaState,
    Receipt,
    Reply,
    Request,
    SettlementRecord,
    Usage,
)
from authz.quota.ledger import UsageRow
from authz.review.explain import Explanation

_JSON: Final = ("content-type", "application/json")
_OUTCOMES: Final = {
    wire.OUTCOME_UNSPECIFIED: Outcome.ANSWERED,
    wire.OUTCOME_ANSWERED: Outcome.ANSWERED,
    wire.OUTCOME_ABANDONED: Outcome.ABANDONED,
    wire.OUTCOME_UPSTREAM_ERROR: Outcome.UPSTREAM_ERROR,
    wire.OUTCOME_NOT_SENT: Outcome.NOT_SENT,
}


def request_of(said: wire.InferenceRequest) -> Request:
    return Request(
        method=said.method,
        path=said.path,
        headers=tuple((header.name.lower(), header.value) for header in said.headers),
        body=None if said.body_left_out else said.body,
        request_id=said.request_id,
        source_ip=said.source_ip,
        peer=said.peer,
    )


def receipt_of(said: wire.SettleRequest) -> Receipt:
    """Raises `ValueError` for an outcome that has no name."""
    if said.outcome not in _OUTCOMES:
        raise ValueError(f"found the outcome {said.outcome}, expected one of Outcome")
    usage = said.usage
    counts = Usage(usage.input_tokens, usage.output_tokens, usage.cached_tokens) if said.HasField("usage") else None
    return Receipt(said.reservation_id, "", _OUTCOMES[said.outcome], said.status, counts, said.upstream)


def decision(decided: Decision, *, with_key: bool) -> wire.DecideResponse:
    record = decision_record(decided.record)
    match decided:
        case Allow():
            allowed = wire.Allowed(
                reservation_id=decided.reservation_id,
                headers=_headers(decided.headers),
                upstream_key=decided.upstream_key.reveal() if with_key else "",
                upstream=decided.upstream,
            )
            return wire.DecideResponse(allowed=allowed, record=record)
        case Deny():
            denied = wire.Denied(
                reason=decided.reason.value,
                status=decided.status,
                headers=_headers((*decided.headers, _JSON)),
                body=body(decided),
                message=decided.message,
            )
            return wire.DecideResponse(denied=denied, record=record)
        case Reply():
            replied = wire.Replied(headers=_headers((*decided.headers, _JSON)), body=decided.body)
            return wire.DecideResponse(replied=replied, record=record)
        case _:
            assert_never(decided)


def decision_record(record: DecisionRecord) -> wire.DecisionRecord:
    fields: dict[str, Any] = msgspec.to_builtins(record) | {"quotas": [quota_state(state) for state in record.quotas]}
    del fields["kind"]
    return wire.DecisionRecord(**fields)


def settlement_record(record: SettlementRecord) -> wire.SettlementRecord:
    fields: dict[str, Any] = msgspec.to_builtins(record)
    del fields["kind"]
    return wire.SettlementRecord(**fields)


def quota_state(state: QuotaState) -> wire.QuotaState:
    return wire.QuotaState(**msgspec.structs.asdict(state))


def usage_row(row: UsageRow) -> wire.UsageRow:
    return wire.UsageRow(**msgspec.structs.asdict(row))


def explanation(found: Explanation) -> wire.ExplainResponse:
    return wire.ExplainResponse(
        effect=found.effect,
        reason=found.reason.value if found.reason else "",
        message=found.message,
        principal=found.principal,
        action=found.action,
        model=found.model,
        estimate={meter.value: amount for meter, amount in found.estimate.items()},
        policies=[wire.PolicyShown(**msgspec.structs.asdict(policy)) for policy in found.policies],
        quotas=[
            wire.QuotaShown(state=quota_state(shown.state), left=shown.left, refuses=shown.refuses) for shown in found.quotas
        ],
        instead=found.instead,
        bundle=found.bundle,
    )


def _headers(pairs: tuple[tuple[str, str], ...]) -> list[wire.Header]:
    return [wire.Header(name=name, value=value) for name, value in pairs]
