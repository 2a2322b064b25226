"""Why a request is answered as it is, and what would be allowed in its place."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from authz.bundle import Bundle
from authz.model import Ask, Asked, DecisionRecord, Meter, QuotaState, Uid, Usage
from authz.policy import Policy
from authz.quota.definitions import parse_uid
from authz.quota.ledger import Ledger
from authz.reasons import Reason
from authz.review.bench import Bench, priced, tokens_of
from authz.review.suite import principal_of

_HOUR_NS: Final = 3600 * 10**9
_HOURS_AHEAD: Final = 8 * 24
_OF_A_MODEL: Final = frozenset(
    {
        Reason.MODEL_NOT_AVAILABLE,
        Reason.POLICY_DENIED,
        Reason.MODEL_NOT_FOUND,
        Reason.MODEL_DECOMMISSIONED,
        Reason.MODEL_NOT_PRICED,
    }
)


class Described(Struct, frozen=True):
    """A request in words. principal  `Key::"x"`, `User::"x"`, or the name of a key · team  that a user acts in"""

    principal: str
    model: str
    team: str = ""
    action: str = "chat"
    input_tokens: int = 100
    max_output_tokens: int = 100
    stream: bool = False
    tools: bool = False
    service_tier: str = "on_demand"
    source_ip: str = ""


def asked_of(bundle: Bundle, described: Described, now_ns: int) -> Asked:
    """Raises `ValueError` where there is nobody of that name in force."""
    tokens = Usage(described.input_tokens, described.max_output_tokens)
    principal = principal_of(bundle, named(described.principal), described.team, now_ns)
    ask = Ask(
        endpoint="chat.completions",
        action=described.action,
        models=(described.model,),
        stream=described.stream,
        input_bytes=tokens.input_tokens,
        max_output_tokens=tokens.output_tokens,
        service_tier=described.service_tier,
        tools=described.tools,
    )
    return Asked(principal, ask, now_ns, described.source_ip, estimate=priced(bundle, described.model, tokens, tokens))


def named(principal: str) -> Uid:
    """As `Described` names it. Raises `ValueError`."""
    return parse_uid(principal) if "::" in principal else Uid("Key", principal)


class PolicyShown(Struct, frozen=True):
    """part  `decides`, `would decide` (in shadow) or `does not apply`: its scope matches, its conditions do not hold"""

    id: str
    effect: str
    part: str
    file: str
    line: int
    text: str


class QuotaShown(Struct, frozen=True):
    """`left` and `requested` in the meter's unit, `left` before this request; `refuses` where it does not fit."""

    state: QuotaState
    left: int
    refuses: bool


class Explanation(Struct, frozen=True):
    """instead  requests that would be allowed now or then, in words"""

    effect: str
    reason: Reason | None
    message: str
    principal: str
    action: str
    model: str
    estimate: dict[Meter, int]
    policies: tuple[PolicyShown, ...]
    quotas: tuple[QuotaShown, ...]
    instead: tuple[str, ...]
    bundle: str


class Explainer:
    """`ledger` tells how full the quotas are; None for empty ones. Nothing is charged."""

    def __init__(self, bundle: Bundle, ledger: Ledger | None) -> None:
        self._bundle, self._ledger = bundle, ledger

    def explain(self, asked: Asked) -> Explanation:
        record, states = self._decide(asked)
        shadow = record.shadow_policies if isinstance(record.shadow_policies, tuple) else ()
        would = {name.partition(":")[2] for name in shadow}
        return Explanation(
            effect=record.effect,
            reason=record.reason,
            message=record.message,
            principal=str(asked.principal.uid),
            action=asked.ask.action,
            model=record.model or asked.ask.models[0],
            estimate=record.estimate.at_most if record.estimate else {},
            policies=tuple(_shown(policy, record.policies, would) for policy in self._in_reach(asked, record.model)),
            quotas=tuple(_quota(state, record.quota) for state in states),
            instead=tuple(self._instead(asked, record.reason)) if record.effect == "deny" else (),
            bundle=self._bundle.digest,
        )

    def _decide(self, asked: Asked) -> tuple[DecisionRecord, tuple[QuotaState, ...]]:
        """On a ledger that holds what the real one holds, which itself is only looked at."""
        with Bench(self._bundle) as bench:
            charges = bench.charges(asked)
            states = self._ledger.look(charges, asked.now_ns) if self._ledger is not None else ()
            standing = {charge.counter: (charge, state) for charge, state in zip(charges, states, strict=False)}
            for charge, state in standing.values():  # two quotas over one counter are one
                if by_hand := state.limit - charge.limit:
                    bench.store.raise_limit(charge.counter, charge, by_hand, "", "", asked.now_ns)
                bench.fill(asked, charge, state.used)
            states = states or bench.store.look(charges, asked.now_ns)
            return bench.decide(asked).record, states

    def _allows(self, asked: Asked) -> bool:
        return self._decide(asked)[0].effect == "allow"

    def _in_reach(self, asked: Asked, model: str | None) -> tuple[Policy, ...]:
        if model is None:
            return ()
        return self._bundle.policy.in_reach(asked.principal, asked.ask.action, Uid("Model", model))

    def _instead(self, asked: Asked, reason: Reason | None) -> Iterator[str]:
        """Each was tried: the same request with one thing changed."""
        if asked.estimate is not None:
            yield from self._smaller(asked)
        if asked.ask.tools and self._allows(replace(asked, ask=replace(asked.ask, tools=False))):
            yield "the same without tools"
        if asked.ask.stream and self._allows(replace(asked, ask=replace(asked.ask, stream=False))):
            yield "the same without streaming"
        if reason in _OF_A_MODEL:
            models = [name for name in self._bundle.prices.models if self._allows(self._on(asked, name))]
            if models:
                yield f"the same on {', '.join(f'`{name}`' for name in models)}"
        if (later_ns := self._later(asked)) is not None:
            moment = datetime.fromtimestamp(later_ns // 10**9, self._bundle.time_zone)
            yield f"the same from {moment.isoformat(timespec='minutes')} on"

    def _smaller(self, asked: Asked) -> Iterator[str]:
        """The longest answer that would be allowed; where none is, the longest input."""
        assert asked.estimate is not None  # INVARIANT: `_instead` looked
        most = tokens_of(asked.estimate.at_most)
        longest = _largest(most.output_tokens, lambda tokens: self._allows(self._sized(asked, most.input_tokens, tokens)))
        if longest:
            yield f"the same with an answer of at most {longest:,} tokens"
            return
        longest = _largest(most.input_tokens, lambda tokens: self._allows(self._sized(asked, tokens, most.output_tokens)))
        if longest:
            yield f"the same with an input of at most {longest:,} tokens"

    def _sized(self, asked: Asked, input_tokens: int, output_tokens: int) -> Asked:
        assert asked.estimate is not None
        expected = tokens_of(asked.estimate.expected)
        least = Usage(min(input_tokens, expected.input_tokens), min(output_tokens, expected.output_tokens))
        ask = replace(asked.ask, max_output_tokens=output_tokens)
        estimate = priced(self._bundle, ask.models[0], Usage(input_tokens, output_tokens), least)
        return replace(asked, ask=ask, estimate=estimate)

    def _on(self, asked: Asked, model: str) -> Asked:
        known = asked.estimate
        sizes = (tokens_of(known.at_most), tokens_of(known.expected)) if known else (Usage(0, 0), Usage(0, 0))
        return replace(asked, ask=replace(asked.ask, models=(model,)), estimate=priced(self._bundle, model, *sizes))

    def _later(self, asked: Asked) -> int | None:
        """The first full hour of the coming days at which policies and quotas would let it pass, if nothing else is charged."""
        first = asked.now_ns // _HOUR_NS * _HOUR_NS
        hours = (first + hour * _HOUR_NS for hour in range(1, _HOURS_AHEAD + 1))
        return next((hour for hour in hours if self._allows(replace(asked, now_ns=hour))), None)


def _largest(below: int, allowed: Callable[[int], bool]) -> int:
    """The largest number below `below` that is allowed, by halving; 0 where not even 1 is."""
    low, high = 0, below - 1
    if high < 1 or not allowed(1):
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if allowed(middle) else (low, middle - 1)
    return low


def _shown(policy: Policy, deciding: tuple[str, ...], would: set[str]) -> PolicyShown:
    part = "decides" if policy.id in deciding else "would decide" if policy.id in would else "does not apply"
    return PolicyShown(policy.id, policy.effect.value, part, policy.file, policy.line, policy.text)


def _quota(state: QuotaState, refuses: str | None) -> QuotaShown:
    return QuotaShown(state, max(0, state.limit - state.used), state.quota == refuses)
