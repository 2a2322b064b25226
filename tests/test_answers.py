"""The words and headers of a refusal, as Groq has them."""

from __future__ import annotations

import pytest

from authz.answers import duration, limit_headers, quota_refusal, refusal, usd
from authz.errors import Refused
from authz.model import Meter, QuotaState
from authz.quota.ledger import Full
from authz.reasons import SPEC, Reason


def state(
    meter: Meter = Meter.REQUESTS,
    *,
    limit: int = 500,
    used: int = 500,
    requested: int = 1,
    reset_s: float = 30.5,
    enforced: bool = True,
) -> QuotaState:
    window = "month" if meter is Meter.SPEND else "minute"
    return QuotaState("q", 'Key::"k"', meter, window, limit, used, requested, reset_s, enforced)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (7.66, "7.66s"), (7.661, "7.67s"), (60, "1m0s"), (179.56, "2m59.56s"), (3612, "1h0m12s"), (0.004, "0.01s")],
)
def test_durations_are_written_as_groq_does_and_never_too_early(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(("nanos", "text"), [(0, "0.00"), (500 * 10**9, "500.00"), (37_500, "0.000038"), (10**7, "0.01")])
def test_dollars_for_people(nanos: int, text: str) -> None:
    assert usd(nanos) == text


def test_a_full_window() -> None:
    answer = quota_refusal(Full((state(),), 0, 5.289), "m", 0)
    assert (answer.reason, answer.status, answer.type) == (Reason.RATE_LIMIT_EXCEEDED, 429, "requests")
    assert answer.message == (
        'Rate limit reached for model `m` for Key::"k" on requests per minute (RPM): '
        "Limit 500, Used 500, Requested 1. Please try again in 5.29s."
    )
    assert dict(answer.headers) == {
        "retry-after": "6",
        "x-ratelimit-limit-requests": "500",
        "x-ratelimit-remaining-requests": "0",
        "x-ratelimit-reset-requests": "30.5s",
    }


def test_a_request_that_never_fits() -> None:
    answer = quota_refusal(Full((state(Meter.TOKENS, limit=8000, used=10, requested=32979),), 0, None), "m", 0)
    assert (answer.reason, answer.status, answer.type) == (Reason.RATE_LIMIT_EXCEEDED, 413, "tokens")
    assert "Request too large for model `m`" in answer.message
    assert "tokens per minute (TPM): Limit 8000, Requested 32979" in answer.message
    assert dict(answer.headers)["x-ratelimit-remaining-tokens"] == "7990"
    assert "retry-after" not in dict(answer.headers)


def test_a_spent_budget_says_when_it_resumes_and_is_not_retried() -> None:
    spent = state(Meter.SPEND, limit=500 * 10**9, used=499 * 10**9, requested=2 * 10**9, reset_s=86_400)
    answer = quota_refusal(Full((spent,), 0, 86_400), "m", 1_795_996_800 * 10**9)
    assert (answer.reason, answer.status) == (Reason.SPEND_CAP_REACHED, 403)
    assert "Limit 500.00 USD per month, Used 499.00 USD, Requested up to 2.00 USD" in answer.message
    assert "resume on 2026-12-01T00:00:00Z" in answer.message
    assert "retry-after" not in dict(answer.headers)


def test_too_many_under_way() -> None:
    answer = quota_refusal(Full((state(Meter.IN_FLIGHT, limit=2, used=2),), 0, 1.0), "m", 0)
    assert (answer.reason, answer.status) == (Reason.TOO_MANY_IN_FLIGHT, 429)
    assert dict(answer.headers)["retry-after"] == "1"


def test_the_tightest_enforced_window_is_the_one_in_the_headers() -> None:
    states = (
        state(limit=100, used=10),
        state(limit=50, used=45),
        state(limit=50, used=50, enforced=False),
        state(Meter.TOKENS, limit=1000, used=100, requested=50),
        state(Meter.SPEND),
    )
    headers = dict(limit_headers(states, held=True))
    assert headers["x-ratelimit-limit-requests"] == "50"
    assert headers["x-ratelimit-remaining-requests"] == "4"
    assert headers["x-ratelimit-remaining-tokens"] == "850"
    assert len(headers) == 6


@pytest.mark.parametrize("reason", list(Reason))
def test_every_reason_goes_out_with_its_status(reason: Reason) -> None:
    answer = refusal(Refused(reason, "why", param="model"))
    assert (answer.status, answer.type, answer.message, answer.param) == (*SPEC[reason][:2], "why", "model")
    assert (("retry-after", "1") in answer.headers) == (answer.status == 503)
