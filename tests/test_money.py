"""The engine and money: what it admits without its store, whom it tells of a threshold, and what it learns to expect."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
from click.testing import CliRunner

from authz.bundle import load_bundle
from authz.cli import cli
from authz.compose import Engine
from authz.errors import ConfigError, StoreUnavailable
from authz.model import Allow, Decision, Deny, Meter, Outcome, Receipt, Usage
from authz.quota.path import applied_to
from authz.reasons import Reason
from authz.settings import read_settings
from authz.store import open_store
from tests.alerts.hook import Hook
from tests.place import UPSTREAM_KEY, Place, Time, lay_out

USD = 1_000_000_000
ORG = 'Org::"acme"'
KEY = 'Key::"chatbot-prod"'


@contextmanager
def opened(
    folder: Path, quotas: list[dict[str, Any]], *, settings: str = "", policy: str = "", **environ: str
) -> Iterator[Place]:
    """An engine on the reference bundle with these quotas, without the bundle's own tests of the others."""
    config, time = lay_out(folder), Time()
    with config.open("a") as file:
        file.write(settings)
    (folder / "policies/quotas.yaml").write_text(json.dumps({"quotas": quotas}))
    (folder / "policies/more.cedar").write_text(policy)
    for case in (folder / "policies/tests").glob("*"):
        case.unlink()
    environ = {"GROQ_API_KEY": UPSTREAM_KEY} | environ
    with Engine(read_settings(config), environ=environ, clock=time, load=load_bundle) as engine:
        yield Place(folder, engine, time)


def rate(limit: str, **more: str) -> dict[str, Any]:
    return {"id": "rate", "scope": KEY, "what": "requests", "limit": limit} | more


def budget(limit: str, **more: Any) -> dict[str, Any]:
    return {"id": "org-spend", "scope": ORG, "what": "spend", "limit": limit} | more


def take_away(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*arguments: object) -> None:
        raise StoreUnavailable("made up")

    store = place.engine.store
    for name in dir(type(store)):
        if not name.startswith("_"):
            monkeypatch.setattr(store, name, gone)


def allowed(decision: Decision) -> Allow:
    assert isinstance(decision, Allow), decision
    return decision


def denied(decision: Decision) -> Deny:
    assert isinstance(decision, Deny), decision
    return decision


def answered(allow: Allow, output_tokens: int = 10, input_tokens: int = 20) -> Receipt:
    return Receipt(allow.reservation_id, "", Outcome.ANSWERED, 200, Usage(input_tokens, output_tokens))


@pytest.mark.parametrize("declared", ["allow", "share"])
def test_without_its_store_it_admits_what_is_declared_and_the_books_are_true_afterwards(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, declared: str
) -> None:
    quotas = [rate("4/minute", on_store_error=declared), budget("500 USD/month", on_store_error=declared)]
    with opened(tmp_path, quotas, settings="replicas: 2\n") as place:
        secret = place.issue("chatbot-prod")
        assert "x-authz-degraded" not in dict(allowed(place.engine.pdp.decide(place.request(secret))).headers)
        with monkeypatch.context() as outage:
            take_away(place, outage)
            first = allowed(place.engine.pdp.decide(place.request(secret)))
            second = allowed(place.engine.pdp.decide(place.request(secret)))
            assert dict(first.headers)["x-authz-degraded"] == declared
            third = place.engine.pdp.decide(place.request(secret))
            if declared == "share":
                assert denied(third).reason is Reason.RATE_LIMIT_EXCEEDED  # half of four
            else:
                assert allowed(third).headers[-1] == ("x-authz-degraded", "allow")
            change = place.engine.settle(answered(first))
            assert change is not None
            assert change.changed
            with pytest.raises(StoreUnavailable):
                place.engine.tick()
        place.time.pass_s(2)
        place.engine.tick()
        for allow, state in ((first, "settled"), (second, "pending")):
            found = place.engine.store.find(allow.reservation_id)
            assert found is not None
            assert found.state.value == state
        (row,) = place.engine.store.usage("2026-11-30", "2026-11-30")
        assert (row.requests, row.output_tokens) == (1, 10)
        assert row.pending_requests == (2 if declared == "share" else 3)
        assert place.engine.store.balances() == place.engine.store.replay()
        assert "x-authz-degraded" not in dict(place.engine.pdp.decide(place.request(secret)).headers)


@pytest.mark.parametrize(
    "quotas",
    [
        [],
        [rate("100/minute")],
        [rate("100/minute", on_store_error="allow"), budget("500 USD/month")],
        [rate("100/minute", on_store_error="allow", mode="shadow")],
    ],
)
def test_without_its_store_it_denies_what_is_not_declared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, quotas: list[dict[str, Any]]
) -> None:
    """A79, promise 1: one quota that says nothing is enough, and so is none at all."""
    with opened(tmp_path, quotas) as place:
        secret = place.issue("chatbot-prod")
        with monkeypatch.context() as outage:
            take_away(place, outage)
            deny = denied(place.engine.pdp.decide(place.request(secret)))
            assert (deny.reason, deny.status) == (Reason.STORE_UNAVAILABLE, 503)
        place.engine.tick()
        assert place.engine.store.balances() == {}
        allowed(place.engine.pdp.decide(place.request(secret)))


@pytest.fixture
def hook() -> Iterator[Hook]:
    found = Hook()
    yield found
    found.close()


def test_a_threshold_is_posted_to_every_webhook(tmp_path: Path, hook: Hook, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("authz.alerts.deliverer.TICK_S", 0.01)
    settings = "alerts: {webhooks: [{url_env: HOOK}, {url_env: HOOK, format: slack}]}\n"
    with opened(tmp_path, [budget("0.01 USD/month", alerts=["50%"])], settings=settings, HOOK=hook.url) as place:
        allow = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
        place.engine.settle(answered(allow, 100_000))
        place.engine.start()
        while len(hook.got) < 2:
            hook.leave.wait(0.01)
    ours, slack = sorted(hook.got, key=len, reverse=True)
    assert (ours["quota"], ours["scope"], ours["threshold_usd"], ours["organisation"]) == ("org-spend", ORG, "0.005", "acme")
    assert "org-spend" in slack["text"]


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        ("alerts: {webhooks: [{format: slack}]}", r"alerts\.webhooks\[0\]: expected exactly one of `url` and `url_env`"),
        ("alerts: {webhooks: [{url: 'https://secret', url_env: X}]}", "expected exactly one of `url` and `url_env`"),
        ("alerts: {webhooks: [{url_env: NOWHERE}]}", "the environment variable `NOWHERE` is not set"),
        (
            "alerts: {webhooks: [{url: 'http://secret.example/'}]}",
            r"alerts\.webhooks\[0\]: found plain http to another machine",
        ),
        ("alerts: {webhooks: [{url: 'https://secret', format: slak}]}", "invalid enum value 'slak'"),
        ("alerts: {webhooks: [{ulr: 'https://secret'}]}", "unknown field"),
        ("replicas: 0", "replicas: expected at least 1"),
    ],
)
def test_settings_that_cannot_be(tmp_path: Path, settings: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as error, opened(tmp_path, [], settings=settings):
        pass
    assert "secret" not in str(error.value)


def reserved(place: Place, secret: str, **fields: Any) -> int:
    """What a token rate holds for a request that is then taken back."""
    allow = allowed(place.engine.pdp.decide(place.request(secret, **fields)))
    place.engine.settle(Receipt(allow.reservation_id, "", Outcome.NOT_SENT, 0, None))
    (state,) = (each for each in allow.record.quotas if each.meter is Meter.TOKENS)
    return state.requested


def test_a_token_rate_reserves_what_the_key_has_used(tmp_path: Path) -> None:
    tokens = {"id": "tokens", "scope": ORG, "what": "tokens", "limit": "10000000/minute"}
    with opened(tmp_path, [tokens, budget("500 USD/month")]) as place:
        secret, other = place.issue("chatbot-prod"), place.issue("analytics-reports")
        prior = reserved(place, secret, max_tokens=4_000)
        assert prior > 400  # the price book's
        for _ in range(40):
            allow = allowed(place.engine.pdp.decide(place.request(secret, max_tokens=4_000)))
            place.engine.settle(answered(allow, 50, 40))
        assert reserved(place, secret, max_tokens=4_000) == prior  # not before it is shared
        for _ in range(10):
            place.engine.tick()
        learned = reserved(place, secret, max_tokens=4_000)
        assert 90 <= learned <= 120
        assert reserved(place, secret, max_tokens=5) < learned - 40  # never above what the request itself allows
        assert reserved(place, other, max_tokens=4_000) == prior

        spend = next(
            each.requested
            for each in allowed(place.engine.pdp.decide(place.request(secret, max_tokens=4_000))).record.quotas
            if each.meter is Meter.SPEND
        )
        assert spend > 4_000 * 80  # spend holds the worst case whatever was learned
        config = str(tmp_path / "authz.yaml")
        done = CliRunner().invoke(cli, ["usage", "--estimates", "--json", "--config", config], catch_exceptions=False)
        (row,) = json.loads(done.output)["estimates"]
        assert (row["key_name"], row["samples"], row["overshoots"]) == ("chatbot-prod", 40, 0)
        assert 50 <= row["expected_output_tokens"] <= 56
        assert 0 < row["used_percent_p50"] <= row["used_percent_p90"] < 100
        table = CliRunner().invoke(cli, ["usage", "--estimates", "--config", config], catch_exceptions=False).output
        assert "chatbot-prod" in table
        assert "expected output" in table


def test_what_was_not_answered_teaches_nothing(tmp_path: Path) -> None:
    with opened(tmp_path, []) as place:
        secret = place.issue("chatbot-prod")
        for outcome, usage in (
            (Outcome.ABANDONED, Usage(9, 9)),
            (Outcome.UPSTREAM_ERROR, Usage(9, 9)),
            (Outcome.ANSWERED, None),
        ):
            allow = allowed(place.engine.pdp.decide(place.request(secret)))
            place.engine.settle(Receipt(allow.reservation_id, "", outcome, 200, usage))
        for _ in range(10):
            place.engine.tick()
        assert place.engine.store.learned_since(0, 100) == ()


def test_who_stops_leaves_nothing_behind_in_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was admitted without the store, settled meanwhile, and learned, when the process is told to stop before it looks."""
    with opened(tmp_path, [rate("100/minute", on_store_error="allow")]) as place:
        secret = place.issue("chatbot-prod")
        before = allowed(place.engine.pdp.decide(place.request(secret)))
        with monkeypatch.context() as outage:
            take_away(place, outage)
            during = allowed(place.engine.pdp.decide(place.request(secret)))
            assert place.engine.settle(answered(before)) is None
            place.engine.settle(answered(during))
    store = open_store(read_settings(tmp_path / "authz.yaml").store)
    try:
        for allow in (before, during):
            found = store.find(allow.reservation_id)
            assert found is not None
            assert found.state.value == "settled"
        assert sum(row.counts[0] for row in store.learned_since(0, 100)) == 2
    finally:
        store.close()


def test_a_settlement_that_comes_twice_is_learned_once(tmp_path: Path) -> None:
    """A68."""
    with opened(tmp_path, []) as place:
        allow = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
        for _ in range(3):
            place.engine.settle(answered(allow))
        for _ in range(10):
            place.engine.tick()
        (row,) = place.engine.store.learned_since(0, 100)
        assert row.counts[0] == 1


def test_a_budget_taken_back_to_nothing_is_full_for_policies_too(tmp_path: Path) -> None:
    policy = '@id("stop") forbid (principal, action in Action::"infer", resource) when { context.spend.org.percent >= 80 };'
    with opened(tmp_path, [budget("500 USD/month")], policy=policy) as place:
        secret = place.issue("chatbot-prod")
        allowed(place.engine.pdp.decide(place.request(secret)))
        (quota,) = place.engine.bundle.quotas.quotas
        place.engine.store.raise_limit("r", applied_to(quota, None).charge(0), -500 * USD, "ann", "stop", place.time())
        deny = denied(place.engine.pdp.decide(place.request(secret)))
        assert deny.reason is Reason.POLICY_DENIED


def test_what_is_counted_is_on_the_metrics_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counted: list[tuple[str, object]] = []
    for name in ("degraded", "alerted", "delivered"):
        monkeypatch.setattr(
            f"authz.telemetry.metrics.Metrics.{name}", lambda self, what, name=name: counted.append((name, what))
        )
    quotas = [budget("0.01 USD/month", alerts=["50%"], on_store_error="allow")]
    with opened(tmp_path, quotas) as place:
        secret = place.issue("chatbot-prod")
        with monkeypatch.context() as outage:
            take_away(place, outage)
            allow = allowed(place.engine.pdp.decide(place.request(secret)))
            place.engine.settle(answered(allow, 100_000))
        place.time.pass_s(2)
        place.engine.tick()
    assert counted == [("degraded", "allow"), ("alerted", "org-spend")]


def test_a_store_that_is_locked_is_passed_over_within_the_deadline(tmp_path: Path) -> None:
    """A79, A80: the real thing, another process in the middle of a long transaction."""
    quotas = [rate("6/minute", on_store_error="share"), budget("500 USD/month", on_store_error="share")]
    with opened(tmp_path, quotas, settings="replicas: 2\n") as place:
        secret = place.issue("chatbot-prod")
        other = sqlite3.connect(tmp_path / "authz.db", isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        began = monotonic()
        allows = [allowed(place.engine.pdp.decide(place.request(secret))) for _ in range(3)]
        assert monotonic() - began < 1  # one of them waited for the store, and 0.25 s at most
        assert {dict(allow.headers)["x-authz-degraded"] for allow in allows} == {"share"}
        assert denied(place.engine.pdp.decide(place.request(secret))).reason is Reason.RATE_LIMIT_EXCEEDED
        other.execute("ROLLBACK")
        other.close()
        place.time.pass_s(2)
        place.engine.tick()
        place.engine.settle(answered(allows[0]))
        assert place.engine.store.balances() == place.engine.store.replay()
        (row,) = place.engine.store.usage("2026-11-30", "2026-11-30")
        assert (row.requests, row.pending_requests) == (1, 2)
