"""Traces over the wire: joined to the caller's, a span for each phase, and nothing of it where nobody asked."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from opentelemetry.sdk.trace import TracerProvider

from authz.errors import Refused
from authz.model import Allow, DecisionRecord, Usage
from authz.reasons import Reason
from authz.review.recordfile import read_records
from authz.telemetry import traces
from tests.place import UPSTREAM_KEY, lay_out, opened_at
from tests.telemetry.collector import collecting, values
from tests.telemetry.traffic import PARENT, TRACE, TRACEPARENT, receipt

PHASES = [f"authz.{name}" for name in ("identity", "inference", "price", "quota", "policy", "upstream", "reserve")]


def traced(folder: Path, endpoint: str, sample: int = 1) -> Path:
    """Settings by which spans alone go to this collector."""
    return lay_out(folder, f"otlp: {{endpoint: '{endpoint}', metrics: false, records: false, sample: {sample}}}\n")


def test_decisions_that_arrive_together_have_the_same_phases(tmp_path: Path) -> None:
    with collecting() as collector:
        with opened_at(traced(tmp_path, collector.endpoint), serving=True) as place:
            request = place.request(place.issue("chatbot-prod"))
            place.engine.pdp.decide_many([request, msgspec.structs.replace(request, request_id="r2")])
        names = [span.name for span in collector.spans()]
    assert sorted(names) == sorted(2 * [*PHASES, "authz.decision"])


def test_a_decision_is_a_span_below_its_callers_with_one_for_each_phase(tmp_path: Path) -> None:
    with collecting() as collector:
        with opened_at(traced(tmp_path, collector.endpoint, sample=0), serving=True) as place:
            request = msgspec.structs.replace(place.request(place.issue("chatbot-prod")), traceparent=TRACEPARENT)
            decision = place.engine.pdp.decide(request)
            assert isinstance(decision, Allow)
            place.time.pass_s(2)
            place.engine.settle(receipt(decision, Usage(20, 8, 4)))
        spans = {span.name: span for span in collector.spans()}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    decided = spans["authz.decision"]
    assert decided.parent_span_id.hex() == PARENT
    below = {name: span for name, span in spans.items() if span is not decided}
    assert list(below) == [*PHASES, "authz.settlement"]
    assert {span.parent_span_id for span in below.values()} == {decided.span_id}
    ends = [spans[name].end_time_unix_nano for name in PHASES]
    assert [spans[name].start_time_unix_nano for name in PHASES] == [decided.start_time_unix_nano, *ends[:-1]]
    assert ends[-1] == decided.end_time_unix_nano
    of_decision, of_settlement = values(decided.attributes), values(spans["authz.settlement"].attributes)
    assert of_decision["gen_ai.request.model"] == "llama-3.1-8b-instant"
    assert of_decision["gen_ai.provider.name"] == "groq"
    assert of_decision["authz.effect"] == "allow"
    assert of_settlement["gen_ai.usage.input_tokens"] == 20
    assert of_settlement["gen_ai.usage.output_tokens"] == 8
    assert spans["authz.settlement"].end_time_unix_nano - decided.end_time_unix_nano == 2_000_000_000
    [recorded, _] = read_records([tmp_path / "decisions.jsonl"])
    assert isinstance(recorded, DecisionRecord)
    assert (recorded.trace_id, recorded.span_id) == (TRACE, decided.span_id.hex())


def test_a_denial_names_the_phase_that_refused_and_only_a_fault_of_ours_is_an_error(tmp_path: Path) -> None:
    with collecting() as collector:
        with opened_at(traced(tmp_path, collector.endpoint), serving=True) as place:
            place.engine.pdp.decide(place.request("ak_" + "x" * 40))
            place.engine.pdp.decide(place.request(place.issue("chatbot-prod"), model="no-such-model"))
            place.engine.pdp.reject(Refused(Reason.INVALID_REQUEST, "cannot be read"))
            secret = place.issue("batch-processor")
            place.engine.store.close()
            place.engine.pdp.decide(place.request(secret))
        decided = [span for span in collector.spans() if span.name == "authz.decision"]
    found = [(values(span.attributes).get("authz.refused_in"), span.status.code) for span in decided]
    assert found == [("identity", 0), ("price", 0), (None, 0), ("policy", 2)]


def test_who_decided_on_sampling_before_us_is_followed(tmp_path: Path) -> None:
    with collecting() as collector, opened_at(traced(tmp_path, collector.endpoint), serving=True) as place:
        secret = place.issue("chatbot-prod")

        def trace_of(parent: str) -> str:
            request = msgspec.structs.replace(place.request(secret), traceparent=parent)
            return place.engine.pdp.decide(request).record.trace_id

        assert trace_of(TRACEPARENT) == TRACE
        assert trace_of(TRACEPARENT.removesuffix("01") + "00") == ""
        assert trace_of("") not in ("", TRACE)
        for nonsense in ("00-xyz", f"00-{'0' * 32}-{PARENT}-01", "\x00", "00-" + "9" * 5_000):
            assert trace_of(nonsense) not in ("", TRACE)


@pytest.mark.parametrize("refuses", [False, True])
def test_a_collector_that_is_gone_changes_no_decision(tmp_path: Path, refuses: bool) -> None:
    with collecting() as collector:
        collector.refuses = grpc.StatusCode.PERMISSION_DENIED
        endpoint = collector.endpoint if refuses else "http://127.0.0.1:9"
        with opened_at(traced(tmp_path, endpoint), serving=True) as place:
            for _ in range(20):
                assert isinstance(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))), Allow)


def test_a_library_tells_the_providers_of_its_host_and_opens_nothing(tmp_path: Path) -> None:
    config = lay_out(tmp_path, "metrics: {listen: 127.0.0.1:1}\n")  # a port that nobody may have
    secret_file = tmp_path / "secret"
    with opened_at(config) as place:
        secret_file.write_text(place.issue("chatbot-prod"))
    program = """
        import sys
        from opentelemetry import metrics, trace
        from opentelemetry.sdk.metrics import MeterProvider
        from opentelemetry.sdk.metrics.export import InMemoryMetricReader
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import SimpleSpanProcessor
        from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
        from authz import Authorizer, chat_request

        spans, reader = InMemorySpanExporter(), InMemoryMetricReader()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(spans))
        trace.set_tracer_provider(provider)
        metrics.set_meter_provider(MeterProvider([reader]))
        body = {"model": "llama-3.1-8b-instant", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16}
        with Authorizer.open(sys.argv[1]) as authorizer:
            with trace.get_tracer("host").start_as_current_span("host") as host:
                authorizer.decide(chat_request(open(sys.argv[2]).read(), body))
            counted = reader.get_metrics_data()
        reader.get_metrics_data()  # a host goes on collecting after us
        found = {span.name: span for span in spans.get_finished_spans()}
        assert found["authz.decision"].parent.span_id == host.get_span_context().span_id
        assert "authz.policy" in found
        names = {metric.name for each in counted.resource_metrics for scope in each.scope_metrics for metric in scope.metrics}
        assert {"authz.decisions", "authz.budget.used.usd"} <= names, names
        print("ok")
    """
    environ = {"GROQ_API_KEY": UPSTREAM_KEY, "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-c", textwrap.dedent(program), str(config), str(secret_file)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, cwd=Path(__file__).parents[2])
    assert (done.stdout, done.stderr) == ("ok\n", "")


def test_without_providers_and_settings_nothing_is_traced(tmp_path: Path) -> None:
    with opened_at(lay_out(tmp_path)) as library, opened_at(tmp_path / "authz.yaml", serving=True) as served:
        for place in (library, served):
            assert place.engine.pdp._tracer is None
            decision: Any = place.engine.pdp.decide(place.request("ak_" + "x" * 40))
            assert decision.record.trace_id == ""


def test_an_open_reservation_is_forgotten_rather_than_kept_for_ever() -> None:
    tracer = traces.Tracer(TracerProvider(shutdown_on_exit=False))
    opened = traces._Open(tracer._tracer.start_span("x").get_span_context(), 1)
    for number in range(traces._MAX_OPEN + 5):
        tracer._remember(str(number), opened)
    assert len(tracer._open) == traces._MAX_OPEN
    assert next(iter(tracer._open)) == "5"
