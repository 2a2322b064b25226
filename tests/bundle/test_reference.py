"""The reference bundle is the mission's own example, and its own tests hold."""

from __future__ import annotations

import pytest

from authz.bundle import Bundle, Case, load_bundle
from authz.inference.pricebook import Decommissioned, ModelSpec
from authz.model import NANOS_PER_USD, Meter, Principal, Uid
from authz.policy import AdminContext, Context, Percents, Verdict
from authz.quota.definitions import parse_uid
from authz.reasons import Reason
from tests.bundle.folders import REFERENCE

BUNDLE = load_bundle(REFERENCE)
NOW_NS = 1_800_000_000 * 10**9
_BEFORE_POLICY = (Reason.MODEL_DECOMMISSIONED, Reason.MODEL_NOT_FOUND, Reason.MODEL_NOT_PRICED)


def principal_of(bundle: Bundle, case: Case) -> Principal:
    uid = parse_uid(case.principal)
    found = (
        bundle.directory.user(uid.id, case.team or "", NOW_NS)
        if uid.type == "User"
        else bundle.directory.principal(uid.id, NOW_NS)
    )
    assert found is not None
    return found


def verdict_of(bundle: Bundle, case: Case) -> Verdict:
    request = case.request
    now_ns = int(request.time.timestamp()) * 10**9 if request.time else NOW_NS
    if request.resource is not None:
        facts: Context | AdminContext = AdminContext(request.source_ip, now_ns)
        resource = parse_uid(request.resource)
    else:
        model = bundle.prices.find(request.model or "")
        assert isinstance(model, ModelSpec)
        resource = Uid("Model", model.id)
        facts = Context(
            input_tokens=request.input_tokens,
            max_output_tokens=request.max_output_tokens,
            stream=request.stream,
            endpoint=request.endpoint,
            service_tier=request.service_tier,
            tools=request.tools,
            source_ip=request.source_ip,
            now_ns=now_ns,
            spend=Percents(case.spend.org, case.spend.team, case.spend.user, case.spend.key),
            window=Percents(case.window.org, case.window.team, case.window.user, case.window.key),
        )
    return bundle.policy.decide(principal_of(bundle, case), request.action, (resource,), facts)


@pytest.mark.parametrize("case", BUNDLE.cases, ids=lambda case: case.name)
def test_the_bundles_own_cases_as_far_as_policies_decide(case: Case) -> None:
    expect = case.expect
    if expect.reason in _BEFORE_POLICY:
        found = BUNDLE.prices.find(case.request.model or "")
        assert isinstance(found, Decommissioned) is (expect.reason is Reason.MODEL_DECOMMISSIONED)
        return
    verdict = verdict_of(BUNDLE, case)
    assert verdict.errors == ()
    assert verdict.allowed is (expect.effect == "allow" or expect.quota is not None)
    if expect.policies is not None:
        assert verdict.policies == expect.policies
    assert verdict.shadow == (expect.shadow or ())


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
