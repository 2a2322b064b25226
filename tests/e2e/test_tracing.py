"""One trace from the client over Envoy to the decision, its phases and its settlement, as collectors get it."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from demo.stack import Stack, wait_for
from tests.e2e.conftest import CHAT, MESSAGES, SMALL
from tests.telemetry.collector import Collector, collecting, values

pytestmark = pytest.mark.xdist_group("tracing")

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = "00f067aa0ba902b7"
NAMES = {"authz.decision", "authz.settlement", "authz.policy"}


def chat(stack: Stack, **headers: str) -> httpx.Response:
    key = stack.new_key("chatbot-prod")
    stack.wait_for_key_reload()
    body = {"model": SMALL, "messages": MESSAGES, "max_tokens": 16}
    headers |= {"authorization": f"Bearer {key}"}
    return httpx.post(f"{stack.url}{CHAT}", json=body, headers=headers, timeout=10, trust_env=False)


@pytest.fixture(scope="module", params=[True, False], ids=["envoy traces", "envoy does not"])
def traced(request: pytest.FixtureRequest) -> Iterator[tuple[Stack, Collector, bool]]:
    """A stack whose sidecar traces, behind an Envoy that does and one that does not."""
    envoy: bool = request.param
    with tempfile.TemporaryDirectory(prefix="t") as folder, collecting() as collector:
        to = f"trace_to: '127.0.0.1:{collector.port}'" if envoy else ""
        settings = f"otlp: {{endpoint: '{collector.endpoint}', metrics: false, records: false, sample: {int(envoy)}}}\n"
        with Stack(Path(folder), settings=settings, envoy=to) as stack:
            yield stack, collector, envoy


def test_a_callers_trace_goes_through_envoy_to_the_settlement(traced: tuple[Stack, Collector, bool]) -> None:
    stack, collector, envoy = traced
    assert chat(stack, traceparent=f"00-{TRACE}-{CALLER}-01").status_code == 200
    wait_for("the spans", lambda: {span.name for span in collector.spans()} >= NAMES)
    spans = {span.span_id.hex(): span for span in collector.spans()}
    assert {span.trace_id.hex() for span in spans.values()} == {TRACE}
    [decision] = [span for span in spans.values() if span.name == "authz.decision"]
    assert values(decision.attributes)["authz.effect"] == "allow"
    above = decision.parent_span_id.hex()
    if envoy:
        wait_for("Envoy's spans", lambda: len({span.span_id for span in collector.spans() if span.kind == 2}) >= 2)
        spans = {span.span_id.hex(): span for span in collector.spans()}
        seen = 0
        while above in spans:  # through Envoy's own, up to the caller's
            above, seen = spans[above].parent_span_id.hex(), seen + 1
        assert seen
    assert above == CALLER


def test_who_asks_for_no_trace_has_none(traced: tuple[Stack, Collector, bool]) -> None:
    stack, collector, _ = traced
    other = "5bf92f3577b34da6a3ce929d0e0e4736"

    def settlements() -> int:
        return [span.name for span in collector.spans()].count("authz.settlement")

    before = settlements()
    assert chat(stack, traceparent=f"00-{other}-{CALLER}-00").status_code == 200
    assert chat(stack, traceparent=f"00-{TRACE}-{CALLER}-01").status_code == 200
    wait_for("the settlement of the one that asks", lambda: settlements() > before)
    assert other not in {span.trace_id.hex() for span in collector.spans()}
