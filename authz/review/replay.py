"""Recorded decisions, decided again by another bundle, and what would change.

The records are events in the order in which they happened: a decision reserves, a settlement ends its reservation. Both are
done again on a ledger of the candidate's own, at the time of the record, so that windows and budgets fill as they did, and a
budget that is lowered refuses from the request on at which it would have been reached. A counter that the candidate shares with
the bundle of the records begins with what it held when it first appears in them.

A budget has the candidate's limit: what somebody raised it by for that period is not part of a bundle. What had been denied
has no settlement: where the candidate allows it, it is taken to use what was expected of it. A repeated prompt, a longer
answer, a client that would have stopped: of these a replay knows nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from datetime import datetime
from typing import Final

from msgspec import UNSET, Struct

from authz.bundle import Bundle
from authz.identity.authentication import narrowed
from authz.inference import estimate
from authz.model import (
    Allow,
    Ask,
    Asked,
    Decision,
    DecisionRecord,
    Estimate,
    Meter,
    Outcome,
    Principal,
    Record,
    SettlementRecord,
    Usage,
)
from authz.quota.definitions import parse_uid
from authz.quota.ledger import Actual
from authz.reasons import Reason
from authz.review.bench import Bench, price_of, priced, tokens_of

MAX_EXAMPLES: Final = 5
_NOTHING_READ: Final = frozenset(
    {
        Reason.INVALID_API_KEY,
        Reason.UNKNOWN_URL,
        Reason.UNSUPPORTED_MEDIA_TYPE,
        Reason.INVALID_REQUEST,
        Reason.REQUEST_TOO_LARGE,
    }
)
"""Refused before a bundle had a say: no bundle changes that."""
_NOT_THE_BUNDLES: Final = frozenset({Reason.STORE_UNAVAILABLE, Reason.UPSTREAM_KEY_UNAVAILABLE, Reason.OVERLOADED})


class Change(Struct, frozen=True):
    """A group of decisions that would come out otherwise, alike in all of these.

    before, after  `allow`, or the reason of a denial
    by             the policies or the quota that make the new answer; what is missing where a permit is gone
    """

    team: str
    model: str
    before: str
    after: str
    by: tuple[str, ...]


class Spend(Struct):
    """Of a team, in nano-dollars: what the records say was posted, and what the candidate would have posted."""

    before_nanousd: int = 0
    after_nanousd: int = 0


class Outcomes(Struct):
    """decisions  all in the records · judged  those that a bundle decides · changes  by group, with ids of some decisions"""

    changed: Counter[Change]
    examples: dict[Change, list[str]]
    spend: dict[str, Spend]
    decisions: int = 0
    judged: int = 0


class _Open(Struct):
    """A reservation under way. `mine` is None where the candidate denied it; `theirs`, `price` are the two prices."""

    mine: str | None
    model: str
    team: str
    recorded: DecisionRecord


class Replay:
    """Feed it the records in the order of their time; then read `outcomes`."""

    def __init__(self, bundle: Bundle) -> None:
        self.outcomes = Outcomes(changed=Counter(), examples={}, spend={})
        self._bundle = bundle
        self._bench = Bench(bundle)
        self._open: dict[str, _Open] = {}
        self._seeded: set[str] = set()

    def close(self) -> None:
        self._bench.close()

    def feed(self, record: Record) -> None:
        if isinstance(record, SettlementRecord):
            self._settle(record)
            return
        self.outcomes.decisions += 1
        if record.reason in _NOTHING_READ or record.principal is None or record.action is None:
            return
        now_ns = time_ns(record.time)
        principal = principal_of(self._bundle, record, now_ns)
        if principal is None:
            self._judged(record, Reason.INVALID_API_KEY.value, (record.principal,))
            return
        asked = asked_of(self._bundle, record, principal, now_ns)
        self._seed(asked, record)
        decision = self._bench.decide(asked)
        if record.reason not in _NOT_THE_BUNDLES:
            self._judged(record, _answer(decision.record), _by(decision.record))
        self._reserved(record, decision, asked)

    def _judged(self, record: DecisionRecord, after: str, by: tuple[str, ...]) -> None:
        self.outcomes.judged += 1
        before = _answer(record)
        if before != after:
            change = Change(record.team or "", record.model or next(iter(record.models), ""), before, after, by)
            self.outcomes.changed[change] += 1
            examples = self.outcomes.examples.setdefault(change, [])
            if len(examples) < MAX_EXAMPLES:
                examples.append(record.decision_id)

    def _reserved(self, record: DecisionRecord, decision: Decision, asked: Asked) -> None:
        mine = decision.reservation_id if isinstance(decision, Allow) else None
        if record.reservation_id:
            self._open[record.reservation_id] = _Open(mine, decision.record.model or "", record.team or "", record)
        elif mine is not None and asked.estimate is not None:
            expected = asked.estimate.expected
            self._bench.store.settle(mine, Actual(amounts=expected, usage=None), asked.now_ns)
            self._spend(record.team or "").after_nanousd += expected.get(Meter.SPEND, 0)

    def _settle(self, record: SettlementRecord) -> None:
        opened = self._open.pop(record.reservation_id, None)
        if opened is None:
            return
        spend = self._spend(opened.team)
        spend.before_nanousd += record.amounts.get(Meter.SPEND, 0)
        if opened.mine is None:
            return
        now_ns = time_ns(record.time)
        if record.outcome in (Outcome.UPSTREAM_ERROR, Outcome.NOT_SENT):
            self._bench.store.void(opened.mine, now_ns)
            return
        price = price_of(self._bundle, opened.model, opened.recorded.action or "")
        actual = Actual(amounts={}, usage=None)  # a meter that is not named is posted at its bound
        if record.usage is not None and price is not None:
            requests = {Meter.REQUESTS: record.amounts.get(Meter.REQUESTS, 1)}  # a batch is many
            actual = Actual(amounts=estimate.amounts(record.usage, price) | requests, usage=record.usage)
        self._bench.store.settle(opened.mine, actual, now_ns)
        spend.after_nanousd += actual.amounts.get(Meter.SPEND, record.amounts.get(Meter.SPEND, 0))

    def _seed(self, asked: Asked, record: DecisionRecord) -> None:
        """A counter begins with what it held when the records first show it."""
        if not record.quotas:
            return
        known = {(state.quota, state.scope, state.meter, state.window): state.used for state in record.quotas}
        for charge in self._bench.charges(asked):
            used = known.get((charge.quota, charge.scope, charge.meter, charge.window.name))
            if used is not None and charge.counter not in self._seeded:
                self._bench.fill(asked, charge, used)
                self._seeded.add(charge.counter)

    def _spend(self, team: str) -> Spend:
        return self.outcomes.spend.setdefault(team, Spend())


def run(bundle: Bundle, records: Iterable[Record]) -> Outcomes:
    """All of `records`, in the order of their time."""
    replay = Replay(bundle)
    try:
        for record in records:
            replay.feed(record)
    finally:
        replay.close()
    return replay.outcomes


def time_ns(text: str) -> int:
    """A record's moment. Raises `ValueError`."""
    return round(datetime.fromisoformat(text).timestamp() * 1000) * 1_000_000


def principal_of(bundle: Bundle, record: DecisionRecord, now_ns: int) -> Principal | None:
    """Who asked, as the bundle knows them; a user whom only their token's groups brought, with the roles that it gave."""
    if record.principal is None:
        return None
    uid, directory = parse_uid(record.principal), bundle.directory
    if uid.type == "User":
        team, roles = record.team or "", record.roles if record.roles is not UNSET else ()
        return directory.user(uid.id, team, now_ns) or directory.guest(uid.id, team, roles)
    return directory.principal(uid.id, now_ns)


def asked_of(bundle: Bundle, record: DecisionRecord, principal: Principal, now_ns: int) -> Asked:
    """The recorded request, at this bundle's prices."""
    model = next(iter(record.models), record.model or "")
    known = record.estimate
    at_most = tokens_of(known.at_most) if known else Usage(0, 0)
    expected = tokens_of(known.expected) if known else Usage(0, 0)
    return Asked(
        principal=principal,
        ask=Ask(
            endpoint=record.endpoint,
            action=record.action or "",
            models=record.models or (model,),
            stream=record.stream,
            service_tier=record.service_tier,
            tools=record.tools,
        ),
        now_ns=now_ns,
        source_ip=record.source_ip,
        request_id=record.request_id,
        estimate=_as_many(known, priced(bundle, model, at_most, expected, record.action or "")),
        narrowed=narrowed(principal, record.roles) if record.roles is not UNSET and principal.uid.type == "Key" else None,
    )


def _as_many(known: Estimate | None, now: Estimate | None) -> Estimate | None:
    """A batch is as many requests as it was, and none under way."""
    if known is None or now is None:
        return now
    count = {meter: known.at_most.get(meter, 1) for meter in (Meter.REQUESTS, Meter.IN_FLIGHT)}
    return Estimate(now.at_most | count, now.expected | count)


def _answer(record: DecisionRecord) -> str:
    return record.reason.value if record.reason is not None else record.effect


def _by(record: DecisionRecord) -> tuple[str, ...]:
    return (record.quota,) if record.quota is not None else record.policies
