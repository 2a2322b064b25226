"""The reference bundle is the mission's own example, and its own tests hold."""

from __future__ import annotations

import pytest

from authz.bundle import Case, load_bundle
from authz.inference.pricebook import Decommissioned
from authz.model import NANOS_PER_USD, Meter, Uid
from authz.policy import Context
from authz.review import suite
from tests.bundle.folders import REFERENCE

BUNDLE = load_bundle(REFERENCE)
NOW_NS = 1_800_000_000 * 10**9


@pytest.mark.parametrize("case", BUNDLE.cases, ids=lambda case: case.name)
def test_the_bundles_own_cases(case: Case) -> None:
    assert suite.run_case(BUNDLE, case).problems == ()


MISSION = {
    "chatbot-prod": {"llama-3.3-70b-versatile", "llama-3.1-8b-instant"},
    "batch-processor": {"llama-3.1-8b-instant"},
    "analytics-reports": {"llama-3.1-8b-instant"},
    "research-lab": {"llama-3.3-70b-versatile", "openai/gpt-oss-120b", "openai/gpt-oss-20b", "qwen/qwen3.6-27b"},
}


@pytest.mark.parametrize("key", MISSION)
def test_who_may_use_what_is_exactly_this(key: str) -> None:
    principal = BUNDLE.directory.principal(key, NOW_NS)
    assert principal is not None
    facts = Context(10, 10, False, "chat.completions", "on_demand", False, "", NOW_NS)
    allowed = {
        model
        for model in BUNDLE.prices.models
        if BUNDLE.policy.decide(principal, "chat", (Uid("Model", model),), facts).allowed
    }
    assert allowed == MISSION[key]


def test_the_quotas_are_the_missions() -> None:
    quotas = {quota.id: quota for quota in BUNDLE.quotas.quotas}
    org = quotas["org-spend"]
    assert (org.meter, org.limit, org.enforced) == (Meter.SPEND, 500 * NANOS_PER_USD, True)
    assert org.alerts_at == tuple(usd * NANOS_PER_USD for usd in (100, 250, 400))
    rates = {(quota.scope[0].id, quota.meter): quota.limit for quota in quotas.values() if quota is not org}
    assert rates == {
        ("chatbot-prod", Meter.REQUESTS): 500,
        ("chatbot-prod", Meter.TOKENS): 100_000,
        ("batch-processor", Meter.REQUESTS): 60,
        ("batch-processor", Meter.TOKENS): 500_000,
    }


@pytest.mark.parametrize(
    ("model", "price"),
    [
        ("openai/gpt-oss-120b", (150_000_000, 600_000_000, 75_000_000)),
        ("openai/gpt-oss-20b", (75_000_000, 300_000_000, 37_500_000)),
        ("qwen/qwen3.6-27b", (600_000_000, 3_000_000_000, 300_000_000)),
        ("llama-3.3-70b-versatile", (590_000_000, 790_000_000, 590_000_000)),
        ("llama-3.1-8b-instant", (50_000_000, 80_000_000, 50_000_000)),
    ],
)
def test_prices_are_groqs_in_nano_dollars(model: str, price: tuple[int, int, int]) -> None:
    found = BUNDLE.prices.models[model].price
    assert found is not None
    assert (found.input, found.output, found.cached_input) == price


def test_retired_names_say_what_to_use() -> None:
    assert BUNDLE.prices.find("mixtral-8x7b-32768") == Decommissioned("mixtral-8x7b-32768", None, "openai/gpt-oss-120b")
    assert isinstance(BUNDLE.prices.find("gemma2-9b-it"), Decommissioned)


def test_what_is_not_priced_by_token_has_no_price_by_token() -> None:
    whisper, orpheus = BUNDLE.prices.models["whisper-large-v3"], BUNDLE.prices.models["canopylabs/orpheus-v1-english"]
    assert (whisper.price, whisper.audio_hour) == (None, 111_000_000)
    assert (orpheus.price, orpheus.million_characters) == (None, 22 * NANOS_PER_USD)


def test_names_are_exact() -> None:
    """A29: no white space, case or look-alike finds a model."""
    for name in ("Llama-3.1-8b-instant", " llama-3.1-8b-instant", "groq/llama-3.1-8b-instant", "llama-3.1-8b-instant\n", ""):
        assert BUNDLE.prices.find(name) is None
