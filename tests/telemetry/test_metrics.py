"""What is counted, as a reader sees it; and served to a scraper on a loopback port."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from typing import Any

import httpx
import msgspec
import pytest
from opentelemetry.metrics import NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader, NumberDataPoint

from authz.errors import ConfigError
from authz.reasons import Reason
from authz.telemetry.exporters import meter_provider
from authz.telemetry.metrics import Metrics
from tests.telemetry.test_records import record


def points(reader: InMemoryMetricReader) -> dict[str, dict[tuple[tuple[str, Any], ...], float]]:
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


def test_decisions_errors_and_reloads_are_counted() -> None:
    reader = InMemoryMetricReader()
    state = ["sha256:one", False]
    metrics = Metrics(MeterProvider([reader]), lambda: (str(state[0]), bool(state[1])))
    denied = record()
    metrics.decided(denied)
    metrics.decided(msgspec.structs.replace(denied, reason=Reason.POLICY_ERROR, policy_errors=("overflow",)))
    metrics.decided(msgspec.structs.replace(denied, effect="allow", reason=None))
    metrics.reloaded("swapped")
    metrics.reloaded("refused")
    state[1] = True
    found = points(reader)
    assert found["authz.decisions"] == {
        (("effect", "deny"), ("reason", "invalid_api_key")): 1,
        (("effect", "deny"), ("reason", "policy_error")): 1,
        (("effect", "allow"), ("reason", "")): 1,
    }
    assert found["authz.policy.errors"] == {(): 1}
    assert found["authz.bundle.reloads"] == {(("outcome", "swapped"),): 1, (("outcome", "refused"),): 1}
    assert found["authz.bundle.info"] == {(("digest", "sha256:one"),): 1}
    assert found["authz.bundle.refused"] == {(): 1}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_scraper_reads_them() -> None:
    port = free_port()
    with ExitStack() as stack:
        Metrics(meter_provider(f"127.0.0.1:{port}", stack), lambda: ("sha256:one", True)).reloaded("refused")
        text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
        assert 'authz_bundle_info{digest="sha256:one"' in text
        assert "authz_bundle_refused" in text
        assert "authz_bundle_reloads_total{" in text
        with pytest.raises(ConfigError, match="metrics cannot be served: address already in use"):
            meter_provider(f"127.0.0.1:{port}", stack)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"http://127.0.0.1:{port}/metrics")


def test_without_an_address_nothing_listens() -> None:
    with ExitStack() as stack:
        assert isinstance(meter_provider("", stack), NoOpMeterProvider)
