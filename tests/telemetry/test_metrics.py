"""What is counted: as a reader sees it, served to a scraper on a loopback port, and bounded whatever names come."""

from __future__ import annotations

import socket
import threading
from collections import Counter
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import HistogramDataPoint, InMemoryMetricReader, NumberDataPoint

from authz.errors import ConfigError
from authz.model import Estimate, Meter, Outcome, SettlementRecord, Usage
from authz.reasons import Reason
from authz.telemetry.counts import OTHER, Later, Names
from authz.telemetry.metrics import Metrics
from tests.place import lay_out, opened_at
from tests.telemetry.test_records import record
from tests.telemetry.traffic import decide

Points = dict[str, dict[tuple[tuple[str, Any], ...], float]]


def points(reader: InMemoryMetricReader) -> Points:
    data = reader.get_metrics_data()
    assert data is not None
    return {
        metric.name: {
            tuple(sorted((point.attributes or {}).items())): point.value
            for point in metric.data.data_points
            if isinstance(point, NumberDataPoint)
        }
        for resource in data.resource_metrics
        for scope in resource.scope_metrics
        for metric in scope.metrics
    }


def opened(names: int = 100) -> tuple[Metrics, InMemoryMetricReader]:
    reader = InMemoryMetricReader()
    return Metrics(MeterProvider([reader], shutdown_on_exit=False), lambda: ("sha256:one", True), names=names), reader


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_decisions_are_counted_by_reason_action_team_and_model() -> None:
    metrics, reader = opened()
    denied = record()
    metrics.decided(denied)
    metrics.decided(replace(denied, reason=Reason.POLICY_ERROR, policy_errors=("overflow",)))
    estimate = Estimate(at_most={Meter.SPEND: 3_000_000_000}, expected={Meter.TOKENS: 40})
    allowed = replace(denied, effect="allow", reason=None, action="chat", team="chatbot", model="m", reservation_id="r")
    metrics.decided(replace(allowed, estimate=estimate))
    found = points(reader)
    nobody = (("action", ""), ("effect", "deny"), ("model", ""))
    assert found["authz.decisions"] == {
        (*nobody, ("reason", "invalid_api_key"), ("team", "")): 1,
        (*nobody, ("reason", "policy_error"), ("team", "")): 1,
        (("action", "chat"), ("effect", "allow"), ("model", "m"), ("reason", ""), ("team", "chatbot")): 1,
    }
    whose = (("model", "m"), ("team", "chatbot"))
    assert found["authz.reserved.tokens"] == {whose: 40}
    assert found["authz.reserved.cost.usd"] == {whose: 3}
    assert found["authz.policy.errors"] == {(): 1}
    assert found["authz.bundle.info"] == {(("digest", "sha256:one"),): 1}
    assert found["authz.bundle.refused"] == {(): 1}


def test_settlements_are_counted_in_tokens_and_money() -> None:
    metrics, reader = opened()
    settled = SettlementRecord(
        time="t",
        reservation_id="r",
        outcome=Outcome.ANSWERED,
        state="posted",
        team="chatbot",
        model="m",
        amounts={Meter.SPEND: 500_000_000},
        usage=Usage(20, 8, 4),
    )
    metrics.settled(settled)
    metrics.settled(settled)
    metrics.expired(3)
    found = points(reader)
    whose = (("model", "m"), ("team", "chatbot"))
    assert found["authz.tokens"] == {
        (*whose, ("type", "input")): 40,
        (*whose, ("type", "cached")): 8,
        (*whose, ("type", "output")): 16,
    }
    assert found["authz.cost.usd"] == {whose: 1}
    assert found["authz.settlements"] == {
        (("outcome", "answered"), ("state", "posted")): 2,
        (("outcome", "unreported"), ("state", "expired")): 3,
    }


@given(st.lists(st.text(max_size=3)), st.integers(0, 5))
def test_only_so_many_names_stand_for_themselves(names: list[str], most: int) -> None:
    fold = Names(most)
    shown = [fold(name) for name in names]
    assert len(set(shown) - {OTHER, ""}) <= most
    assert all(found in (name, OTHER) for name, found in zip(names, shown, strict=True))
    assert [fold(name) for name in names] == shown  # a series goes on as it began


def test_a_client_adds_no_series_with_names_of_its_own(tmp_path: Path) -> None:
    """Fifty unknown models are one series more; a team or model above the bound is `other`."""
    port = free_port()
    with opened_at(lay_out(tmp_path, f"metrics: {{listen: 127.0.0.1:{port}, names: 1}}\n"), serving=True) as place:
        decide(place, 300)
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    assert "no-such-model" not in text
    assert 'model="other"' in text
    series = [line for line in text.splitlines() if line.startswith("authz_decisions_total{")]
    assert len(series) < 20


def test_a_scraper_reads_them_for_as_long_as_the_engine_is_open(tmp_path: Path) -> None:
    port = free_port()
    config = lay_out(tmp_path, f"metrics: {{listen: 127.0.0.1:{port}}}\n")
    with opened_at(config, serving=True) as place:
        decide(place, 20)
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert f'authz_bundle_info{{digest="{place.engine.bundle.digest}"' in text
        assert "authz_budget_limit_usd{" in text
        with (
            pytest.raises(ConfigError, match="metrics cannot be served: address already in use"),
            opened_at(config, serving=True),
        ):
            pass
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")


def test_nothing_is_counted_where_nobody_reads() -> None:
    metrics = Metrics(NoOpMeterProvider(), lambda: ("sha256:one", True))
    metrics.decided(record(team="chatbot"))
    assert not metrics._teams._known


def test_what_waits_is_counted_once_when_somebody_collects_or_the_engine_comes_by() -> None:
    metrics, reader = opened()
    for number in range(5):
        metrics.decided(record(duration_us=1_000 * (number + 1)))
    assert _decisions_and_durations(reader) == (5, 5, 0.015)
    metrics.decided(record(duration_us=5_000))
    metrics.flush()
    assert _decisions_and_durations(reader) == (6, 6, 0.02)


def _decisions_and_durations(reader: InMemoryMetricReader) -> tuple[float, int, float]:
    data = reader.get_metrics_data()
    assert data is not None
    metrics = {
        each.name: each for resource in data.resource_metrics for scope in resource.scope_metrics for each in scope.metrics
    }
    (decisions,) = metrics["authz.decisions"].data.data_points
    (durations,) = metrics["authz.decision.duration"].data.data_points
    assert isinstance(decisions, NumberDataPoint)
    assert isinstance(durations, HistogramDataPoint)
    return decisions.value, durations.count, round(durations.sum, 9)


def test_nothing_is_lost_where_nobody_fetches_what_waits_and_two_who_do_count_it_once() -> None:
    told: Counter[int] = Counter()

    def count(number: int) -> None:
        told[number] += 1

    later = Later(count, most=3)
    for number in range(10):
        later.add(number)
    assert told == Counter(range(3, 10))
    threads = [threading.Thread(target=later.flush) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == Counter(range(10))
