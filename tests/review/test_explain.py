"""Why, how much is left, and what would be allowed instead: each alternative is one that really would be."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from msgspec.structs import replace

from authz.bundle import load_bundle
from authz.model import NANOS_PER_USD, Allow, Ask, Asked, Meter, Outcome, Receipt, Uid, Usage
from authz.quota.path import applied_to
from authz.review.bench import priced
from authz.review.explain import Explainer, Explanation
from authz.review.suite import principal_of
from tests.bundle.folders import REFERENCE, copy, edit
from tests.place import START_NS, Place, opened

BUNDLE = load_bundle(REFERENCE)


def asked(key: str, model: str, input_tokens: int = 100, output_tokens: int = 100) -> Asked:
    tokens = Usage(input_tokens, output_tokens)
    wanted = Ask("chat.completions", "chat", (model,), input_bytes=input_tokens, max_output_tokens=output_tokens)
    principal = principal_of(BUNDLE, Uid("Key", key), None, START_NS)
    return Asked(principal, wanted, START_NS, estimate=priced(BUNDLE, model, tokens, tokens))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with opened(tmp_path) as place:
        yield place


def explain(request: Asked, place: Place | None = None) -> Explanation:
    return Explainer(BUNDLE, place.engine.store if place else None).explain(request)


def test_an_allow_names_its_policies_and_quotas() -> None:
    found = explain(asked("batch-processor", "llama-3.1-8b-instant"))
    assert (found.effect, found.reason, found.instead) == ("allow", None, ())
    assert [(policy.id, policy.part) for policy in found.policies] == [
        ("analytics-cheapest", "decides"),
        ("batch-stops-at-80-percent", "does not apply"),
    ]
    assert found.policies[0].text.startswith('@id("analytics-cheapest")')
    assert [(quota.state.quota, quota.refuses) for quota in found.quotas] == [
        ("org-spend", False),
        ("batch-processor-requests", False),
        ("batch-processor-tokens", False),
    ]


def test_a_model_that_is_not_permitted_names_those_that_are() -> None:
    found = explain(asked("chatbot-prod", "openai/gpt-oss-120b"))
    assert found.instead == ("the same on `llama-3.3-70b-versatile`, `llama-3.1-8b-instant`",)


@pytest.mark.parametrize(
    ("request_", "instead"),
    [
        (asked("batch-processor", "llama-3.1-8b-instant", 100, 600_000), "the same with an answer of at most 499,900 tokens"),
        (asked("batch-processor", "llama-3.1-8b-instant", 600_000, 100), "the same with an input of at most 499,900 tokens"),
    ],
)
def test_a_request_that_is_too_large_says_what_is_not(request_: Asked, instead: str) -> None:
    found = explain(request_)
    assert found.effect == "deny"
    assert instead in found.instead


def test_the_store_is_looked_at_and_left_as_it_was(place: Place) -> None:
    secret = place.issue("batch-processor")
    for _ in range(60):
        place.engine.pdp.decide(place.request(secret))
    before = place.engine.store.balances()
    found = explain(asked("batch-processor", "llama-3.1-8b-instant"), place)
    assert place.engine.store.balances() == before
    refused = [quota for quota in found.quotas if quota.refuses]
    assert [(quota.state.quota, quota.state.used, quota.left) for quota in refused] == [("batch-processor-requests", 60, 0)]
    assert found.instead == ("the same from 2026-11-30T01:00+00:00 on",)


def test_a_budget_that_is_reached_says_when_it_resumes(place: Place) -> None:
    place.time.now_ns = START_NS - 3_600 * 10**9  # an hour before the month's last day
    allow = place.engine.pdp.decide(place.request(place.issue("chatbot-prod")))
    place.engine.settle(Receipt(allow.record.reservation_id, "", Outcome.ANSWERED, 200, Usage(0, 7_000_000_000)))
    found = explain(asked("research-lab", "openai/gpt-oss-20b"), place)
    assert found.reason is not None
    assert found.reason.value == "spend_cap_reached"
    assert "the same from 2026-12-01T00:00+00:00 on" in found.instead


def test_a_budget_that_was_raised_by_hand_is_told_of_as_the_caller_is(place: Place) -> None:
    place.time.now_ns = START_NS
    secret = place.issue("chatbot-prod")
    first = place.engine.pdp.decide(place.request(secret))
    assert isinstance(first, Allow)
    place.engine.settle(Receipt(first.reservation_id, "", Outcome.ANSWERED, 200, Usage(0, 8_000_000_000)))  # 640 USD
    (quota,) = (each for each in BUNDLE.quotas.quotas if each.meter is Meter.SPEND)
    place.engine.store.raise_limit("more", applied_to(quota, None).charge(0), 100 * NANOS_PER_USD, "olivia", "why", START_NS)
    found = explain(asked("chatbot-prod", "llama-3.1-8b-instant"), place)
    told = place.engine.pdp.decide(place.request(secret))
    assert "Limit 600.00 USD per month, Used 640" in told.record.message
    assert found.message.partition(", Requested")[0] == told.record.message.partition(", Requested")[0]
    place.engine.store.raise_limit("again", applied_to(quota, None).charge(0), 100 * NANOS_PER_USD, "olivia", "why", START_NS)
    place.time.pass_s(120)  # the tokens of that minute are another quota's
    assert explain(replace(asked("chatbot-prod", "llama-3.1-8b-instant"), now_ns=place.time.now_ns), place).effect == "allow"


def test_two_quotas_over_one_counter_are_counted_once(place: Place, tmp_path: Path) -> None:
    """A limit and a stricter one on trial beside it."""
    (tmp_path / "trial").mkdir()
    folder = copy(tmp_path / "trial")
    edit(folder, "quotas.yaml", "limit: 500/minute", "limit: 6/minute")
    with (folder / "quotas.yaml").open("a") as file:
        file.write('  - {id: stricter, scope: Key::"chatbot-prod", what: requests, limit: 3/minute, mode: shadow}\n')
    secret = place.issue("chatbot-prod")
    for _ in range(4):
        place.engine.pdp.decide(place.request(secret))
    request = replace(asked("chatbot-prod", "llama-3.1-8b-instant"), now_ns=place.time.now_ns)
    found = Explainer(load_bundle(folder), place.engine.store).explain(request)
    used = {quota.state.quota: quota.state.used for quota in found.quotas if quota.state.meter is Meter.REQUESTS}
    assert (found.effect, used) == ("allow", {"chatbot-prod-requests": 4, "stricter": 4})
