"""No prompt, key or token in what is told of a decision: a canary in every private place, and every way out searched."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from authz.model import Allow, Usage
from authz.telemetry import logs
from tests.place import UPSTREAM_KEY, Place, lay_out, opened_at
from tests.telemetry.canaries import CANARY, requests
from tests.telemetry.collector import collecting
from tests.telemetry.test_metrics import free_port
from tests.telemetry.traffic import receipt

OTLP_SECRET = "canary-of-the-collector"


def play(place: Place) -> list[str]:
    """Sends them all and settles what is allowed. The secrets that were in use."""
    secrets = {UPSTREAM_KEY, OTLP_SECRET, CANARY}
    allowed = answered = 0
    for request in requests(place):
        secrets |= {value.removeprefix("Bearer ") for name, value in request.headers if name == "authorization"}
        place.time.pass_s(1)
        decision = place.engine.pdp.decide(request)
        answered += 1
        if isinstance(decision, Allow):
            allowed += 1
            place.engine.settle(receipt(decision, Usage(20, 8, 4)))
    assert allowed >= 5
    assert answered - allowed >= 20
    return sorted(secrets)


@pytest.fixture
def process_log() -> Iterator[io.StringIO]:
    """What the process logs, as it writes it."""
    stream = io.StringIO()
    before, level = logging.root.handlers[:], logging.root.level
    logs.configure("DEBUG")
    [handler] = logging.root.handlers
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(stream)
    yield stream
    logging.root.handlers, logging.root.level = before, level


def test_no_way_out_tells_what_a_client_keeps_to_itself(tmp_path: Path, process_log: io.StringIO) -> None:
    port = free_port()
    with collecting() as collector:
        config = lay_out(
            tmp_path,
            f"metrics: {{listen: 127.0.0.1:{port}}}\n"
            f"otlp: {{endpoint: '{collector.endpoint}', headers_env: HEADERS, sample: 1, every_s: 60}}\n",
        )
        with opened_at(config, serving=True, HEADERS=f"authorization=Bearer {OTLP_SECRET}") as place:
            secrets = play(place)
            scrape = httpx.get(f"http://127.0.0.1:{port}/metrics").text.encode()
        kinds = {metadata["authorization"] for metadata in collector.metadata}
        sent = collector.raw
        assert collector.spans()
        assert collector.logs()
        assert collector.metric_names()
    assert kinds == {f"Bearer {OTLP_SECRET}"}
    ways = {
        "the file": (tmp_path / "decisions.jsonl").read_bytes(),
        "OTLP": b"".join(sent),
        "the scrape": scrape,
        "the log": process_log.getvalue().encode(),
    }
    found = [(way, secret) for way, told in ways.items() for secret in secrets if secret.encode() in told]
    assert found == []


def test_standard_output_tells_nothing_either(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    config = lay_out(tmp_path)
    config.write_text(config.read_text().replace("decisions.jsonl", "'-'"))
    with opened_at(config) as place:
        secrets = play(place)
    told = capfd.readouterr()
    assert told.out.count('"kind":"decision"') >= 25
    assert [secret for secret in secrets if secret in told.out + told.err] == []
