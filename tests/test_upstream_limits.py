"""Groq's own limits through the whole engine: learned from receipts, divided between teams, counted, shown."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader

from authz.model import Allow, Deny, Meter, Outcome, Receipt, UpstreamLimit, UpstreamRoom, Usage
from authz.reasons import Reason
from tests.place import Place, lay_out, opened_at
from tests.telemetry.test_metrics import points

SMALL = "llama-3.1-8b-instant"
LIMIT = 10_000


@contextmanager
def counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Place, InMemoryMetricReader]]:
    """The reference bundle without its quotas and cases."""
    reader = InMemoryMetricReader()
    monkeypatch.setattr("authz.telemetry.exporters._host", lambda: (MeterProvider([reader]), None))
    config = lay_out(folder)
    (folder / "policies/quotas.yaml").write_text("quotas: []\n")
    for case in (folder / "policies/tests").glob("*"):
        case.unlink()
    with opened_at(config) as place:
        yield place, reader


def ask(place: Place, secret: str, model: str = SMALL) -> Allow | Deny:
    decision = place.engine.pdp.decide(place.request(secret, model, max_tokens=300))
    assert isinstance(decision, (Allow, Deny))
    return decision


def answered(place: Place, allow: Allow, remaining: int, **changes: object) -> Receipt:
    limit = UpstreamLimit(Meter.TOKENS, LIMIT, remaining, 60 * 10**9, place.time())
    fields = {"outcome": Outcome.ANSWERED, "status": 200, "usage": Usage(20, 10)} | changes
    return Receipt(allow.reservation_id, "", upstream=allow.upstream, limits=(limit,), **fields)  # type: ignore[arg-type]


def test_a_team_that_has_had_its_share_waits_while_another_asks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with counted(tmp_path, monkeypatch) as (place, reader):
        chatbot, analytics = place.issue("chatbot-prod"), place.issue("analytics-reports")
        first = ask(place, chatbot)
        assert isinstance(first, Allow)
        place.engine.settle(answered(place, first, LIMIT))
        assert isinstance(ask(place, analytics), Allow)
        while isinstance(decision := ask(place, chatbot), Allow):
            pass
        assert (decision.reason, decision.status, decision.type) == (Reason.RATE_LIMIT_EXCEEDED, 429, "tokens")
        assert 1 <= int(dict(decision.headers)["retry-after"]) <= 60
        assert decision.message.startswith("Little is left of the organisation's tokens for model `llama-3.1-8b-instant`")
        assert (decision.record.effect, decision.record.quota, decision.record.reservation_id) == ("deny", None, "")
        assert isinstance(ask(place, analytics), Allow), "what was kept is for the others"
        assert isinstance(ask(place, chatbot, "llama-3.3-70b-versatile"), Allow), "and another model has its own"

        (room,) = place.engine.upstream_rooms()
        assert (room.upstream, room.model, room.meter, room.limit, room.teams) == ("default", SMALL, Meter.TOKENS, LIMIT, 2)
        labels = (("meter", "tokens"), ("model", SMALL), ("upstream", "default"))
        found = points(reader)
        assert found["authz.upstream.limit"] == {labels: LIMIT}
        assert found["authz.upstream.left"] == {labels: room.left}
        assert 0 < room.left < LIMIT // 4

        place.time.pass_s(61)
        assert isinstance(ask(place, chatbot), Allow)


def test_only_a_reservation_of_ours_teaches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A3."""
    with counted(tmp_path, monkeypatch) as (place, _):
        allow = ask(place, place.issue("chatbot-prod"))
        assert isinstance(allow, Allow)
        forged = Allow("made-up", allow.upstream_key, (), allow.record, allow.upstream)
        place.engine.settle(answered(place, forged, 0))
        assert place.engine.upstream_rooms() == ()
        place.engine.settle(answered(place, allow, 9))
        assert place.engine.upstream_rooms() == (UpstreamRoom("default", SMALL, Meter.TOKENS, LIMIT, 9, 1, place.time()),)


def test_what_the_upstream_refuses_and_what_cannot_be_believed_is_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with counted(tmp_path, monkeypatch) as (place, reader):
        secret = place.issue("chatbot-prod")
        for status in (429, 429, 400, 503):
            allow = ask(place, secret)
            assert isinstance(allow, Allow)
            for _ in range(2):  # A68: told twice, counted once
                place.engine.settle(answered(place, allow, LIMIT, outcome=Outcome.UPSTREAM_ERROR, status=status, usage=None))
        for usage in (None, Usage(10, 10**6), Usage(10, 10)):
            allow = ask(place, secret)
            assert isinstance(allow, Allow)
            place.engine.settle(answered(place, allow, LIMIT, usage=usage))
        found = points(reader)
        assert found["authz.upstream.errors"] == {(("status", "429"),): 2, (("status", "4xx"),): 1, (("status", "5xx"),): 1}
        assert found["authz.usage.doubts"] == {(("doubt", "missing"),): 1, (("doubt", "above_bound"),): 1}
