"""What somebody sees: everything that the page and the JSON API show, of those things that the policies let them read."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import Final, TypeVar

from msgspec import Struct

from authz.administration import READ, Administrator, BudgetDesk, KeyDesk, SecretRow
from authz.answers import usd
from authz.api.admin.recent import Recent, Recorded
from authz.bundle import Bundle
from authz.compose import Engine
from authz.identity.issuing import Issuing, shown
from authz.model import NANOS_PER_USD, DecisionRecord, Meter, Principal, QuotaState, SettlementRecord, Uid
from authz.policy import Policy
from authz.quota.definitions import parse_uid
from authz.reporting import usage as reporting
from authz.reporting.budgets import BudgetRow, counters
from authz.reporting.usage import By, KeyUsage, UsageReport
from authz.review import access, matrix
from authz.review.explain import Explainer
from authz.review.replay import asked_of
from authz.review.suite import principal_of

MOST_QUOTAS: Final = 500
Done = TypeVar("Done")
_MOST_MATRICES: Final = 16
_CENT: Final = NANOS_PER_USD // 100


class QuotaRow(Struct, frozen=True):
    """A quota's counter as it stands. Amounts in the meter's unit; of `spend` also as decimal text in USD.

    marks   thresholds of alerts, in per cent of the limit in force · resets_s: until the whole limit is there again
    """

    quota: str
    scope: str
    meter: Meter
    window: str
    limit: int
    used: int
    left: int
    percent: float | None
    limit_shown: str
    used_shown: str
    enforced: bool
    resets_s: float
    marks: tuple[float, ...] = ()


class BundleState(Struct, frozen=True):
    """refused  why what the folder holds now is not in force; empty where it is"""

    digest: str
    since: str
    refused: str
    refused_at: str
    policies: int
    forbids: int
    shadow: int
    quotas: int
    models: int
    cases: int
    prices: str
    time_zone: str
    watched: bool


class Decided(Struct, frozen=True):
    """One decision in a line. cost_usd  what was posted, or the bound while it is not known; empty for a denial"""

    decision_id: str
    time: str
    effect: str
    reason: str
    status: int
    principal: str
    team: str
    action: str
    model: str
    message: str
    duration_us: int
    state: str
    cost_usd: str


class PolicyText(Struct, frozen=True):
    id: str
    effect: str
    part: str
    place: str
    text: str


class Explained(Struct, frozen=True):
    """instead  what would be allowed now or then, in words; of a denial only"""

    decided: Decided
    record: DecisionRecord
    settlement: SettlementRecord | None
    policies: tuple[PolicyText, ...]
    quotas: tuple[QuotaRow, ...]
    instead: tuple[str, ...]
    same_bundle: bool


class Matrices:
    """The last ones made, by bundle and by who was asked about: one takes a while."""

    def __init__(self) -> None:
        self._kept: OrderedDict[object, matrix.Matrix] = OrderedDict()
        self._making = threading.Lock()

    def find(self, bundle: Bundle, wanted: matrix.Wanted) -> matrix.Matrix:
        key = (bundle.digest, wanted)
        with self._making:
            if (found := self._kept.get(key)) is None:
                found = self._kept[key] = matrix.make(access.Survey(access.Side(bundle)), wanted)
                if len(self._kept) > _MOST_MATRICES:
                    self._kept.popitem(last=False)
            self._kept.move_to_end(key)
            return found


class Shared(Struct, frozen=True):
    """What all who look share. `issuing` is used under its lock."""

    engine: Engine
    recent: Recent
    matrices: Matrices
    issuing: Issuing
    issuing_lock: threading.Lock
    new_id: Callable[[], str]
    login: str
    watched: bool


class Facts:
    """Made for one request, by the bundle that is in force then."""

    def __init__(self, shared: Shared, administrator: Administrator) -> None:
        self._shared, self.administrator = shared, administrator
        self.bundle = shared.engine.bundle
        self._now_ns = administrator.now_ns
        self._seen: dict[tuple[str, str], bool] = {}

    def sees(self, key: str, team: str) -> bool:
        if (key, team) not in self._seen:
            self._seen[key, team] = self.administrator.sees(key, team)
        return self._seen[key, team]

    def reads(self, resource: Uid) -> bool:
        return self.administrator.may(READ, resource)

    @cached_property
    def sees_all(self) -> bool:
        return self.reads(self.bundle.directory.organisation)

    # Usage

    def usage_today(self) -> tuple[str, list[KeyUsage]]:
        day = reporting.today(self._now_ns, self.bundle.time_zone)
        rows = [row for row in self._shared.engine.store.usage(day, day) if self.sees(row.key, row.team)]
        return day, reporting.usage_by_key(rows)

    def usage(self, by: str, first_day: str, last_day: str) -> UsageReport:
        """Raises `ValueError`."""
        if by not in tuple(By):
            raise ValueError(f"by: found `{by}`, expected one of {', '.join(By)}")
        asked = reporting.query(By(by), first_day, last_day, self._now_ns, self.bundle.time_zone)
        store = self._shared.engine.store
        return reporting.gather(self.bundle, store, asked, self._now_ns, sees=self.sees, reads=self.reads)

    # Quotas and budgets

    @cached_property
    def budget_desk(self) -> BudgetDesk:
        shared = self._shared
        return BudgetDesk(self.bundle, shared.engine.store, self.administrator, new_id=shared.new_id, login=shared.login)

    def budgets(self) -> list[BudgetRow]:
        return self.budget_desk.rows()

    def quotas(self) -> list[QuotaRow]:
        """Those with something in them before the others; of a quota by key, user or team only those; a bounded number."""
        rows = []
        for applied, state in self.budget_desk.stood(counters(self.bundle, None)):
            if applied.quota.per is None or state.used:
                rows.append(quota_row(state, applied.quota.alerts_at))
        return rows[:MOST_QUOTAS]

    # Keys

    def keys(self, *, every: bool) -> list[SecretRow]:
        with self._shared.issuing_lock:
            return self._key_desk().rows(every=every)

    def with_keys(self, do: Callable[[KeyDesk], Done]) -> Done:
        """One change at a time, which is then in force in this process at once."""
        with self._shared.issuing_lock:
            return do(self._key_desk())

    def _key_desk(self) -> KeyDesk:
        shared = self._shared
        uses = shared.engine.store.key_uses()
        return KeyDesk(self.bundle, shared.issuing, self.administrator, uses, login=shared.login)

    def creatable(self) -> list[str]:
        """The keys for which they may make a secret."""
        found = []
        teams: dict[Uid, bool] = {}
        for name in self.bundle.directory.keys:
            principal = self.bundle.directory.principal(name, self._now_ns)
            if principal is None:
                continue
            if principal.team not in teams:
                teams[principal.team] = self.administrator.may("key.create", principal.team)
            if teams[principal.team]:
                found.append(name)
        return found

    # Access

    def matrix(self, *, administration: bool) -> matrix.Matrix:
        """Of all, or each of those for themselves whom they may see."""
        if self.sees_all:
            return self._shared.matrices.find(self.bundle, matrix.Wanted(administration=administration))
        teams = tuple(sorted(team.id for team in self.bundle.directory.teams if self.reads(team)))
        if not teams:
            return matrix.Matrix(self.bundle.digest, (), ())
        return self._shared.matrices.find(self.bundle, matrix.Wanted(teams=teams, administration=administration, apart=True))

    # The bundle

    def bundle_state(self) -> BundleState:
        status, bundle = self._shared.engine.source.status, self.bundle
        enforced = [policy for policy in bundle.policies if policy.mode.value == "enforce"]
        return BundleState(
            digest=status.digest,
            since=shown(status.since_ns),
            # The reason quotes files of the whole organisation: it is for who may see that.
            refused=status.refused if self.sees_all or not status.refused else "ask who may see the whole organisation",
            refused_at=shown(status.refused_ns),
            policies=len(bundle.policies),
            forbids=sum(policy.effect.value == "forbid" for policy in enforced),
            shadow=len(bundle.policies) - len(enforced),
            quotas=len(bundle.quotas.quotas),
            models=len(bundle.prices.models),
            cases=len(bundle.cases),
            prices=bundle.prices.version,
            time_zone=bundle.time_zone.key,
            watched=self._shared.watched,
        )

    # Decisions

    def sees_record(self, record: DecisionRecord) -> bool:
        if record.principal is None:
            return self.sees_all
        uid = parse_uid(record.principal)
        return self.sees(uid.id if uid.type == "Key" else "", record.team or "")

    def decisions(self, *, effect: str = "", team: str = "", at_most: int = 100) -> list[Decided]:
        return [decided(each) for each in self._chosen(effect, team, at_most)]

    def _chosen(self, effect: str, team: str, at_most: int) -> Iterator[Recorded]:
        for each in self._shared.recent.newest():
            record = each.decision
            if at_most <= 0:
                return
            if effect in ("", record.effect) and team in ("", record.team) and self.sees_record(record):
                at_most -= 1
                yield each

    def explained(self, decision_id: str) -> Explained | None:
        """None where it is not among the last ones, or not theirs to see."""
        found = self._shared.recent.find(decision_id)
        if found is None or not self.sees_record(found.decision):
            return None
        record = found.decision
        return Explained(
            decided=decided(found),
            record=record,
            settlement=found.settlement,
            policies=tuple(self._policies(record)),
            quotas=tuple(quota_row(state, ()) for state in record.quotas),
            instead=self._instead(record) if record.effect == "deny" else (),
            same_bundle=record.bundle == self.bundle.digest,
        )

    def _policies(self, record: DecisionRecord) -> Iterator[PolicyText]:
        known: dict[str, Policy] = {policy.id: policy for policy in self.bundle.policies}
        shadow = record.shadow_policies if isinstance(record.shadow_policies, tuple) else ()
        named = [(name, "decided") for name in record.policies]
        for said in shadow:
            effect, _, name = said.partition(":")
            if effect == "error":
                yield PolicyText("", "", "in shadow, could not be evaluated", "", name)
            else:
                named.append((name, f"in shadow, would {effect}"))
        for name, part in named:
            policy = known.get(name)
            if policy is None:
                yield PolicyText(name, "", part, "no longer in the bundle in force", "")
            else:
                yield PolicyText(name, policy.effect.value, part, f"{Path(policy.file).name}:{policy.line}", policy.text)

    def _instead(self, record: DecisionRecord) -> tuple[str, ...]:
        if record.principal is None or record.action is None or not record.models:
            return ()
        try:
            principal: Principal = principal_of(self.bundle, parse_uid(record.principal), record.team, self._now_ns)
        except ValueError:
            return ()  # gone since
        asked = asked_of(self.bundle, record, principal, self._now_ns)
        return Explainer(self.bundle, self._shared.engine.store).explain(asked).instead


def decided(recorded: Recorded) -> Decided:
    record, ended = recorded.decision, recorded.settlement
    cost = ""
    if record.effect == "allow":
        bound = record.estimate.at_most.get(Meter.SPEND, 0) if record.estimate else 0
        cost = usd(ended.amounts.get(Meter.SPEND, 0) if ended is not None else bound)
    return Decided(
        decision_id=record.decision_id,
        time=record.time,
        effect=record.effect,
        reason=record.reason.value if record.reason else "",
        status=record.status,
        principal=record.principal or "",
        team=record.team or "",
        action=record.action or "",
        model=record.model or next(iter(record.models), ""),
        message=record.message,
        duration_us=record.duration_us,
        state=ended.state if ended is not None else "pending" if record.reservation_id else "",
        cost_usd=cost,
    )


def _to_the_cent(nanos: int) -> int:
    """Where there is a dollar, what is below a cent is noise to the eye; `limit` and `used` have it all."""
    return round(nanos / _CENT) * _CENT if nanos >= NANOS_PER_USD else nanos


def quota_row(state: QuotaState, alerts_at: tuple[int, ...]) -> QuotaRow:
    spend = state.meter is Meter.SPEND
    limit_shown, used_shown = (
        f"{usd(_to_the_cent(n))} USD" if spend else f"{n:,} {state.meter.value.replace('_', ' ')}"
        for n in (state.limit, state.used)
    )
    return QuotaRow(
        quota=state.quota,
        scope=state.scope,
        meter=state.meter,
        window=state.window,
        limit=state.limit,
        used=state.used,
        left=max(0, state.limit - state.used),
        percent=round(state.used * 100 / state.limit, 1) if state.limit else None,
        limit_shown=limit_shown,
        used_shown=used_shown,
        enforced=state.enforced,
        resets_s=state.reset_s,
        marks=tuple(round(at * 100 / state.limit, 1) for at in alerts_at if state.limit and at <= state.limit),
    )
