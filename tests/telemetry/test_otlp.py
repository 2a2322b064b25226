"""Records, metrics and spans at a collector, over the wire; what is lost when it refuses half-way is counted to the record."""

from __future__ import annotations

import json
import logging
from collections import Counter
from pathlib import Path

import grpc
import pytest
from opentelemetry.sdk.resources import Resource

from authz.errors import ConfigError
from authz.settings import read_settings
from authz.telemetry.otlp import RecordExporter, RecordSink
from tests.place import lay_out, opened_at
from tests.telemetry.collector import collecting
from tests.telemetry.test_records import record
from tests.telemetry.traffic import decide


def test_a_collector_gets_every_record_as_the_file_has_it(tmp_path: Path) -> None:
    with collecting() as collector:
        config = lay_out(tmp_path, f"otlp: {{endpoint: '{collector.endpoint}', sample: 0.5}}\n")
        with opened_at(config, serving=True) as place:
            decide(place, 60)
        logs = collector.logs()
        [spans, *_] = collector.resources()
    lines = (tmp_path / "decisions.jsonl").read_text().splitlines()
    assert [log.body.string_value for log in logs] == lines
    assert {log.event_name for log in logs} == {"authz.decision", "authz.settlement"}
    traced = [log for log in logs if log.trace_id]
    assert 0 < len(traced) < len(logs)
    for log in traced:
        said = json.loads(log.body.string_value)
        assert (log.trace_id.hex(), log.span_id.hex()) == (said["trace_id"], said["span_id"])
    assert spans["service.name"] == "authz"
    assert spans["service.instance.id"]
    assert {"authz.decisions", "authz.tokens", "authz.records"} <= collector.metric_names()


def test_what_a_collector_refuses_is_counted_as_lost_and_nothing_else_is(caplog: pytest.LogCaptureFixture) -> None:
    with collecting() as collector, caplog.at_level(logging.CRITICAL):
        sink = RecordSink(RecordExporter(Resource.get_empty(), endpoint=collector.endpoint, insecure=True, timeout=5))
        told: Counter[str] = Counter()
        sent = 0
        for number in range(30):
            collector.refuses = grpc.StatusCode.PERMISSION_DENIED if 10 <= number < 20 else None
            batch = [record(str(sent + index)) for index in range(1 + number % 3)]
            lost = sink.write(batch)
            assert lost in (0, len(batch))
            told["lost"] += lost
            sent += len(batch)
        sink.close()
        kept = [int(json.loads(log.body.string_value)["message"]) for log in collector.logs()]
    assert told["lost"] > 0
    assert len(kept) + told["lost"] == sent
    assert kept == sorted(set(kept))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("metrics: {listen: 0.0.0.0:9464}", "metrics.listen: expected a loopback address and port"),
        ("metrics: {names: 100000}", "metrics.names: expected 0 to 1000"),
        ("otlp: {endpoint: collector}", "otlp.endpoint: expected a URL like `https://host:4317`"),
        ("otlp: {endpoint: 'https://user:secret@host'}", "otlp.endpoint: expected a URL like `https://host:4317`"),
        ("otlp: {endpoint: 'http://collector:4317'}", "otlp.endpoint: expected https, a loopback address and port, or"),
        ("otlp: {sample: 1.5}", "otlp.sample: expected 0 to 1"),
        ("otlp: {every_s: 0}", "otlp.every_s: expected at least 1 second"),
        ("records: {keep: 0}", "records: expected max_bytes of 0 or more and a keep of 1 or more"),
        ("envoy: {trace_to: 'collector:4317'}", "envoy.trace_to: expected a loopback address and port"),
    ],
)
def test_settings_that_would_leak_or_mean_nothing_are_refused(tmp_path: Path, text: str, problem: str) -> None:
    path = tmp_path / "authz.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    assert caught.value.problem.startswith(problem)


@pytest.mark.parametrize("endpoint", ["https://collector:4317", "http://127.0.0.1:4317", "http://localhost:4317"])
def test_where_a_collector_may_be(tmp_path: Path, endpoint: str) -> None:
    path = tmp_path / "authz.yaml"
    path.write_text(f"otlp: {{endpoint: '{endpoint}'}}")
    assert read_settings(path).otlp.endpoint == endpoint
    path.write_text("otlp: {endpoint: 'http://collector:4317', insecure: true}")
    assert read_settings(path).otlp.insecure


def test_headers_that_are_not_there_are_named_at_the_start(tmp_path: Path) -> None:
    config = lay_out(tmp_path, "otlp: {endpoint: 'http://127.0.0.1:4317', headers_env: NO_SUCH}\n")
    with pytest.raises(ConfigError, match="`NO_SUCH` is not set, expected `name=value` pairs"), opened_at(config):
        pass
    config.write_text("otlp: {endpoint: 'https://collector:4317', ca_file: nowhere.pem}\n")
    with pytest.raises(ConfigError, match=r"nowhere\.pem: cannot be read"), opened_at(config):
        pass
