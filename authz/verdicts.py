"""What Cedar is asked about a request, and how its no is put to the caller."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from authz.errors import Refused
from authz.inference.pricebook import ModelSpec
from authz.model import Ask, Estimate, Meter, Principal, QuotaState, Uid
from authz.policy import Context, Percents, Verdict
from authz.reasons import Reason
from authz.recording import Trace

_NOTHING: Final = Percents()
_INPUT_TOKENS: Final = Meter.INPUT_TOKENS
_OUTPUT_TOKENS: Final = Meter.OUTPUT_TOKENS


def names_of(ask: Ask, model: ModelSpec) -> tuple[Uid, ...]:
    """What has to be allowed: the model, and the alias that the request names it by."""
    resolved = Uid("Model", model.id)
    if not ask.models or ask.models[0] == model.id:
        return (resolved,)
    return Uid("Model", ask.models[0]), resolved


def context_of(trace: Trace, ask: Ask, bound: Estimate, principal: Principal, fill: tuple[QuotaState, ...]) -> Context:
    return Context(
        input_tokens=bound.at_most.get(_INPUT_TOKENS, 0),
        max_output_tokens=bound.at_most.get(_OUTPUT_TOKENS, 0),
        stream=ask.stream,
        endpoint=ask.endpoint,
        service_tier=ask.service_tier,
        tools=ask.tools,
        source_ip=trace.request.source_ip,
        now_ns=trace.started_ns,
        spend=_fullest(principal, [state for state in fill if state.meter is Meter.SPEND]) if fill else _NOTHING,
        window=_fullest(principal, [state for state in fill if state.meter is not Meter.SPEND]) if fill else _NOTHING,
    )


def _fullest(principal: Principal, states: Iterable[QuotaState]) -> Percents:
    """How full the fullest of these quotas is at each scope above a request, in whole per cent, rounded down; 0 without one."""
    full: dict[str, int] = {}
    for state in states:
        percent = state.used * 100 // state.limit if state.limit else 100  # a budget may be taken back to nothing
        full[state.scope] = max(full.get(state.scope, 0), percent)
    if not full:
        return Percents()

    def at(uid: Uid | None) -> int:
        return full.get(str(uid), 0) if uid is not None else 0

    own = principal.uid if principal.uid.type == "Key" else None
    return Percents(org=at(principal.organisation), team=at(principal.team), user=at(principal.user), key=at(own))


def policy_refusal(verdict: Verdict, principal: Principal, ask: Ask, model: ModelSpec) -> Refused:
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
