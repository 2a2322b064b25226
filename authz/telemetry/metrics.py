"""What is counted, as OpenTelemetry instruments. Every label is one of ours: a client's text never becomes one.

Without a reader (`metrics` in the settings) an instrument is a call that does nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from authz.model import DecisionRecord

SCOPE: Final = "authz"


class Metrics:
    """The instruments of one process. `bundle` gives the digest in force and whether the folder holds one that was refused."""

    def __init__(self, provider: MeterProvider, bundle: Callable[[], tuple[str, bool]]) -> None:
        meter = provider.get_meter(SCOPE)
        self._decisions = meter.create_counter("authz.decisions", description="Decisions, by effect and reason.")
        self._policy_errors = meter.create_counter(
            "authz.policy.errors", description="Decisions denied because a policy could not be evaluated."
        )
        self._reloads = meter.create_counter("authz.bundle.reloads", description="Reloads of the bundle, by outcome.")
        self._degraded = meter.create_counter(
            "authz.degraded", description="Requests admitted while the store did not answer, by what their quotas declare."
        )
        self._alerts = meter.create_counter("authz.alerts", description="Thresholds of budgets that were reached, by quota.")
        self._deliveries = meter.create_counter(
            "authz.alerts.deliveries", description="Attempts to post an alert to a webhook, by outcome."
        )
        self._replaced_keys = meter.create_counter(
            "authz.keys.replaced.uses", description="Requests with a secret that another has replaced and that still works."
        )
        self._refused_upstreams = meter.create_counter(
            "authz.upstream.keys.refused", description="Upstream keys that Groq has refused, by their names in the settings."
        )
        self._invalid_credentials = meter.create_counter(
            "authz.credentials.excess", description="Invalid credentials beyond what one source may try in a minute."
        )
        self._bundle = bundle
        meter.create_observable_gauge(
            "authz.bundle.info", [self._info], description="1 for the bundle in force, named by its digest."
        )
        meter.create_observable_gauge(
            "authz.bundle.refused", [self._refused], description="1 while the folder holds a bundle that was refused, else 0."
        )

    def decided(self, record: DecisionRecord) -> None:
        self._decisions.add(1, {"effect": record.effect, "reason": record.reason.value if record.reason else ""})
        if record.policy_errors:
            self._policy_errors.add(1)

    def used_replaced_key(self) -> None:
        self._replaced_keys.add(1)

    def refused_upstream(self, name: str) -> None:
        self._refused_upstreams.add(1, {"upstream": name})

    def too_many_invalid(self) -> None:
        self._invalid_credentials.add(1)

    def reloaded(self, outcome: str) -> None:
        """outcome  `swapped` or `refused`"""
        self._reloads.add(1, {"outcome": outcome})

    def degraded(self, declared: str) -> None:
        """declared  `allow` or `share`"""
        self._degraded.add(1, {"declared": declared})

    def alerted(self, quota: str) -> None:
        """quota  its id in quotas.yaml"""
        self._alerts.add(1, {"quota": quota})

    def delivered(self, taken: bool) -> None:
        self._deliveries.add(1, {"outcome": "taken" if taken else "failed"})

    def _info(self, options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(1, {"digest": self._bundle()[0]})

    def _refused(self, options: CallbackOptions) -> Iterable[Observation]:
        yield Observation(int(self._bundle()[1]))
