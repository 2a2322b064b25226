"""One engine that has told everything it can tell: a scrape, and what a collector got."""

from __future__ import annotations

from pathlib import Path

import httpx
from msgspec.structs import replace
from prometheus_client.parser import text_string_to_metric_families

from authz.model import Allow, Meter, UpstreamLimit, Usage
from tests.place import Place, lay_out, opened_at
from tests.telemetry.collector import Collector, collecting
from tests.telemetry.test_metrics import free_port
from tests.telemetry.test_records import record
from tests.telemetry.traffic import TRACEPARENT, decide, receipt

Labels = dict[str, set[str]]
_OURS_BY_THE_LIBRARY = {"otel_scope_name", "otel_scope_version", "otel_scope_schema_url", "le"}


def emitted(folder: Path) -> tuple[Labels, Collector]:
    """The labels of every sample name in a scrape, and the collector that got the rest."""
    port = free_port()
    with collecting() as collector:
        config = lay_out(
            folder,
            f"metrics: {{listen: 127.0.0.1:{port}}}\notlp: {{endpoint: '{collector.endpoint}', sample: 1, every_s: 60}}\n",
        )
        with opened_at(config, serving=True) as place:
            _happen(place)
            text = httpx.get(f"http://127.0.0.1:{port}/metrics").text
    labels: Labels = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels.setdefault(sample.name, set()).update(set(sample.labels) - _OURS_BY_THE_LIBRARY)
    return labels, collector


def _happen(place: Place) -> None:
    decide(place, 60)
    secret, metrics = place.issue("batch-processor"), place.engine._metrics
    decision = place.engine.pdp.decide(replace(place.request(secret), traceparent=TRACEPARENT))
    assert isinstance(decision, Allow)
    limit = UpstreamLimit(Meter.TOKENS, 10**6, 10**6, 60 * 10**9, place.time())
    above = replace(receipt(decision, Usage(10**6, 10**6, 0)), upstream=decision.upstream, limits=(limit,))
    place.engine.settle(above)  # above its bound, and with what is left at the upstream
    refused = [place.engine.pdp.decide(place.request(secret)).record.quota for _ in range(70)]
    assert any(refused)  # by a quota
    place.time.pass_s(3_600)
    place.engine.tick()  # what nobody reported on has expired
    # What takes another process, a broken store or a bad day: told as those tell it.
    metrics.alerted("org-budget")
    metrics.delivered(taken=True)
    metrics.degraded("share")
    metrics.store_failed("settlement")
    metrics.reloaded("swapped")
    metrics.used_replaced_key()
    metrics.refused_upstream("default")
    metrics.too_many_invalid()
    metrics.unknown_reservation()
    metrics.decided(record(policy_errors=("overflow",)))
