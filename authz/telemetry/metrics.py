"""What is counted, as OpenTelemetry instruments; docs/observability.md lists them. Every attribute is one of ours: a client's
text never becomes one, a team and a model are names that the bundle knows, and of these so many as the settings say.

Without a reader nothing is counted: a decision then costs one look at whether there is one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, NoOpMeterProvider, Observation

from authz.model import NANOS_PER_USD, DecisionRecord, Meter, QuotaState, Record, SettlementRecord
from authz.reasons import Reason
from authz.telemetry.counts import OTHER, Counts, Later, Names

SCOPE: Final = "authz"
MAX_NAMES: Final = 100

_BOUNDS_S: Final = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0)


class Metrics:
    """The counters of one process. `bundle` gives the digest in force and whether the folder holds one that was refused.

    names  how many teams, and how many models, stand for themselves; the others are `other`
    """

    def __init__(self, provider: MeterProvider, bundle: Callable[[], tuple[str, bool]], *, names: int = MAX_NAMES) -> None:
        meter = provider.get_meter(SCOPE)
        self._live = not isinstance(provider, NoOpMeterProvider)
        self._teams, self._models = Names(names), Names(names)
        self._bundle = bundle
        self._later = Later(self._count)
        # Asked before all others, it has what waits counted for them.
        meter.create_observable_gauge(
            "authz.bundle.info", [self._info], description="1 for the bundle in force, named by its digest."
        )
        meter.create_observable_gauge(
            "authz.bundle.refused", [self._refused], description="1 while the folder holds a bundle that was refused, else 0."
        )
        whose = ("team", "model")
        self._decisions = Counts(
            meter, "authz.decisions", ("effect", "reason", "action", *whose), "Decisions, by effect and reason."
        )
        self._durations = meter.create_histogram(
            "authz.decision.duration",
            unit="s",
            description="How long decisions took, from the request's arrival to its record.",
            explicit_bucket_boundaries_advisory=_BOUNDS_S,
        )
        self._reserved_tokens = Counts(
            meter, "authz.reserved.tokens", whose, "Tokens that reservations expected.", unit="{token}"
        )
        self._reserved_cost = Counts(
            meter, "authz.reserved.cost.usd", whose, "What reservations hold at most, in USD.", scale=NANOS_PER_USD
        )
        self._settlements = Counts(
            meter,
            "authz.settlements",
            ("outcome", "state"),
            "Reservations that ended, by what was reported and their state since.",
        )
        self._tokens = Counts(
            meter,
            "authz.tokens",
            ("type", *whose),
            "Tokens used, as the upstream counted them; `cached` is part of `input`.",
            unit="{token}",
        )
        self._cost = Counts(meter, "authz.cost.usd", whose, "What settlements posted, in USD.", scale=NANOS_PER_USD)
        self._answers = Counts(
            meter, "authz.policy.answers", ("source",), "Answers to what policies were asked, from Cedar or remembered."
        )
        self._policy_errors = Counts(
            meter, "authz.policy.errors", (), "Decisions denied because a policy could not be evaluated."
        )
        self._store_errors = Counts(
            meter, "authz.store.errors", ("during",), "Operations that the store did not answer, by what they were part of."
        )
        self._records = Counts(meter, "authz.records", ("sink", "outcome"), "Records, by sink, written or lost and why.")
        self._learned = Counts(meter, "authz.calibration.samples", (), "Settled requests that estimates were learned from.")
        self._reloads = Counts(meter, "authz.bundle.reloads", ("outcome",), "Reloads of the bundle, by outcome.")
        self._degraded = Counts(
            meter,
            "authz.degraded",
            ("declared",),
            "Requests admitted while the store did not answer, by what their quotas declare.",
        )
        self._alerts = Counts(meter, "authz.alerts", ("quota",), "Thresholds of budgets that were reached, by quota.")
        self._deliveries = Counts(
            meter, "authz.alerts.deliveries", ("outcome",), "Attempts to post an alert to a webhook, by outcome."
        )
        self._replaced_keys = Counts(
            meter, "authz.keys.replaced.uses", (), "Requests with a secret that another has replaced and that still works."
        )
        self._refused_upstreams = Counts(
            meter,
            "authz.upstream.keys.refused",
            ("upstream",),
            "Upstream keys that Groq has refused, by their names in the settings.",
        )
        self._invalid_credentials = Counts(
            meter, "authz.credentials.excess", (), "Invalid credentials beyond what one source may try in a minute."
        )
        self._doubts = Counts(
            meter, "authz.usage.doubts", ("doubt",), "Answered requests whose usage is missing or above its bound."
        )
        self._unknown = Counts(
            meter, "authz.settlements.unknown", (), "Reports on reservations that do not exist: forged, or forgotten long ago."
        )

    def decided(self, record: DecisionRecord) -> None:
        if self._live:
            self._later.add(record)

    def settled(self, record: SettlementRecord) -> None:
        if self._live:
            self._later.add(record)

    def _count(self, record: Record) -> None:
        if isinstance(record, DecisionRecord):
            self._count_decision(record)
        else:
            self._count_settlement(record)

    def _count_decision(self, record: DecisionRecord) -> None:
        team = self._teams(record.team or "")
        model = self._models(record.model) if record.model else OTHER if record.models else ""
        reason = record.reason.value if record.reason else ""
        self._decisions.add(record.effect, reason, record.action or "", team, model)
        self._durations.record(record.duration_us / 1e6, {"effect": record.effect})
        if record.reservation_id and record.estimate is not None:
            self._reserved_tokens.add(team, model, amount=record.estimate.expected.get(Meter.TOKENS, 0))
            self._reserved_cost.add(team, model, amount=record.estimate.at_most.get(Meter.SPEND, 0))
        if record.policy_errors:
            self._policy_errors.add()
        if record.reason is Reason.STORE_UNAVAILABLE:
            self.store_failed("decision")

    def _count_settlement(self, record: SettlementRecord) -> None:
        team, model = self._teams(record.team), self._models(record.model)
        self._settlements.add(record.outcome.value, record.state)
        if record.usage is not None:
            self._tokens.add("input", team, model, amount=record.usage.input_tokens)
            self._tokens.add("cached", team, model, amount=record.usage.cached_tokens)
            self._tokens.add("output", team, model, amount=record.usage.output_tokens)
        if cost := record.amounts.get(Meter.SPEND, 0):
            self._cost.add(team, model, amount=cost)

    def judged(self, remembered: bool) -> None:
        """A policy question was answered, for one resource."""
        if self._live:
            self._answers.add("memory" if remembered else "cedar")

    def flush(self) -> None:
        """Now and then, so that what is kept for the next collection stays little."""
        self._later.flush()

    def expired(self, count: int) -> None:
        """So many reservations that nobody reported on."""
        if count:
            self._settlements.add("unreported", "expired", amount=count)

    def store_failed(self, during: str) -> None:
        """during  `decision`, `settlement` or `background`"""
        self._store_errors.add(during)

    def recorded(self, sink: str, outcome: str, count: int) -> None:
        """outcome  `written`, or why they are lost: `queue_full`, `failed`"""
        self._records.add(sink, outcome, amount=count)

    def learned(self) -> None:
        self._learned.add()

    def doubted(self, doubt: str) -> None:
        """doubt  `missing` or `above_bound`"""
        self._doubts.add(doubt)

    def unknown_reservation(self) -> None:
        self._unknown.add()

    def used_replaced_key(self) -> None:
        self._replaced_keys.add()

    def refused_upstream(self, name: str) -> None:
        self._refused_upstreams.add(name)

    def too_many_invalid(self) -> None:
        self._invalid_credentials.add()

    def reloaded(self, outcome: str) -> None:
        """outcome  `swapped` or `refused`"""
        self._reloads.add(outcome)

    def degraded(self, declared: str) -> None:
        """declared  `allow` or `share`"""
        self._degraded.add(declared)

    def alerted(self, quota: str) -> None:
        """quota  its id in quotas.yaml"""
        self._alerts.add(quota)

    def delivered(self, taken: bool) -> None:
        self._deliveries.add("taken" if taken else "failed")

    def _info(self, options: CallbackOptions) -> Iterable[Observation]:
        self._later.flush()
        yield Observation(1, {"digest": self._bundle()[0]})

    def _refused(self, options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(int(self._bundle()[1]))


def watch(
    provider: MeterProvider,
    *,
    keys: Callable[[], int],
    waiting: Callable[[], int],
    budgets: Callable[[], tuple[QuotaState, ...]],
) -> None:
    """Shows how things stand whenever somebody collects.

    keys     issued keys in memory
    waiting  settlements that wait for the store
    budgets  how every budget stands that is one counter; nothing where the store does not say
    """
    meter = provider.get_meter(SCOPE)

    def one(name: str, read: Callable[[], int], description: str) -> None:
        meter.create_observable_gauge(name, [lambda options: [Observation(read())]], description=description)

    def budget(name: str, read: Callable[[QuotaState], int], description: str) -> None:
        def observe(options: CallbackOptions) -> Iterable[Observation]:
            for state in budgets():
                yield Observation(read(state) / NANOS_PER_USD, {"quota": state.quota, "scope": state.scope})

        meter.create_observable_gauge(name, [observe], description=description)

    one("authz.keys", keys, "Issued keys in memory.")
    one("authz.settlements.waiting", waiting, "Settlements that wait for the store to answer again.")
    budget("authz.budget.used.usd", lambda state: state.used, "Posted and pending in the period, in USD.")
    budget("authz.budget.limit.usd", lambda state: state.limit, "The limit in force in the period, raises included, in USD.")
