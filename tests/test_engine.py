"""The decision's phases and what comes back, in process, with the reference bundle and a clock that the test moves."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from authz.errors import Refused, StoreUnavailable
from authz.model import Allow, Decision, Deny, Outcome, Receipt, Request, Usage
from authz.quota.ledger import State
from authz.reasons import Reason
from tests.issued import revoke
from tests.place import UPSTREAM_KEY, Place, lay_out, opened, opened_at

USED = Usage(input_tokens=100, output_tokens=50)
LARGE = "llama-3.3-70b-versatile"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with opened(tmp_path) as place:
        yield place


def allowed(decision: Decision) -> Allow:
    assert isinstance(decision, Allow), decision
    return decision


def denied(decision: Decision) -> Deny:
    assert isinstance(decision, Deny), decision
    return decision


def receipt(allow: Allow, outcome: Outcome = Outcome.ANSWERED, usage: Usage | None = USED) -> Receipt:
    return Receipt(allow.reservation_id, "", outcome, 200, usage)


def spend(place: Place) -> tuple[int, int]:
    """Posted and pending nano-dollars of the day."""
    rows = place.engine.store.usage("2026-11-30", "2026-11-30")
    return sum(row.cost_nanousd for row in rows), sum(row.pending_nanousd for row in rows)


def test_an_allow_carries_the_upstream_key_and_does_not_show_it(place: Place) -> None:
    allow = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
    assert allow.upstream_key.reveal() == UPSTREAM_KEY
    assert UPSTREAM_KEY not in repr(allow)
    assert dict(allow.headers)["x-ratelimit-limit-requests"] == "500"
    assert dict(allow.headers)["x-ratelimit-remaining-requests"] == "499"
    assert allow.record.policies == ("chatbot-models",)
    assert [state.quota for state in allow.record.quotas] == ["org-spend", "chatbot-prod-requests", "chatbot-prod-tokens"]
    assert len(allow.reservation_id) == 12 + 32


@pytest.mark.parametrize(
    ("key", "model", "reason"),
    [
        ("chatbot-prod", "openai/gpt-oss-120b", Reason.MODEL_NOT_AVAILABLE),
        ("analytics-reports", LARGE, Reason.MODEL_NOT_AVAILABLE),
        ("research-lab", "mixtral-8x7b-32768", Reason.MODEL_DECOMMISSIONED),
        ("research-lab", "gpt-9", Reason.MODEL_NOT_FOUND),
        ("research-lab", " llama-3.3-70b-versatile", Reason.MODEL_NOT_FOUND),
        ("research-lab", "LLAMA-3.3-70b-versatile", Reason.MODEL_NOT_FOUND),
        ("research-lab", 'x"::Model', Reason.MODEL_NOT_FOUND),
        ("research-lab", "whisper-large-v3", Reason.MODEL_NOT_PRICED),
    ],
)
def test_each_denial_has_its_reason_and_charges_nothing(place: Place, key: str, model: str, reason: Reason) -> None:
    deny = denied(place.engine.pdp.decide(place.request(place.issue(key), model)))
    assert (deny.reason, deny.param) == (reason, "model")
    assert deny.record.reason is reason
    assert deny.record.reservation_id == ""
    assert spend(place) == (0, 0)


def test_a_client_cannot_choose_what_is_recorded_of_an_unknown_path(place: Place) -> None:
    request = Request("GET", "/x?prompt=secret", (("authorization", f"Bearer {place.issue('chatbot-prod')}"),), b"")
    record = denied(place.engine.pdp.decide(request)).record
    assert (record.method, record.path, record.reason) == ("", "", Reason.UNKNOWN_URL)


def test_what_could_not_be_read_is_denied_and_recorded(place: Place) -> None:
    deny = place.engine.pdp.reject(Refused(Reason.INVALID_REQUEST, "not a Check"))
    assert (deny.status, deny.record.reason) == (400, Reason.INVALID_REQUEST)


def test_without_an_upstream_key_everything_is_denied(tmp_path: Path) -> None:
    with opened(tmp_path, upstream_key="") as place:
        deny = denied(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
        assert (deny.reason, deny.status) == (Reason.UPSTREAM_KEY_UNAVAILABLE, 503)
        assert spend(place) == (0, 0)


def test_a_revoked_and_an_expired_key_answer_like_an_unknown_one(place: Place) -> None:
    from authz.identity.keys import digest

    revoked, expired = place.issue("chatbot-prod"), place.issue("chatbot-prod", expires_ns=place.time() + 10**9)
    for secret in (revoked, expired):
        allowed(place.engine.pdp.decide(place.request(secret)))
    assert revoke(place.engine.store, digest(revoked), place.time())
    place.engine.tick()
    place.time.pass_s(1)
    answers = [
        denied(place.engine.pdp.decide(place.request(secret))) for secret in (revoked, expired, "authz_" + "x" * 40, "x")
    ]
    assert {(answer.reason, answer.status, answer.message) for answer in answers} == {
        (Reason.INVALID_API_KEY, 401, "Invalid API Key")
    }


def test_usage_replaces_the_estimate_once(place: Place) -> None:
    allow = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"), LARGE)))
    assert spend(place)[1] > 0
    for _ in range(2):
        place.engine.settle(receipt(allow))
    assert spend(place) == (100 * 590 + 50 * 790, 0)
    place.engine.settle(receipt(allow, usage=Usage(9, 9)))
    place.engine.settle(receipt(allow, Outcome.UPSTREAM_ERROR))
    assert spend(place) == (100 * 590 + 50 * 790, 0)


def test_cached_tokens_have_their_price(place: Place) -> None:
    allow = allowed(place.engine.pdp.decide(place.request(place.issue("research-lab"), "openai/gpt-oss-120b")))
    place.engine.settle(receipt(allow, usage=Usage(input_tokens=100, output_tokens=10, cached_tokens=60)))
    assert spend(place) == (40 * 150 + 60 * 75 + 10 * 600, 0)


@pytest.mark.parametrize("outcome", [Outcome.UPSTREAM_ERROR, Outcome.NOT_SENT])
def test_what_the_upstream_did_not_do_is_given_back(place: Place, outcome: Outcome) -> None:
    allow = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
    place.engine.settle(receipt(allow, outcome, None))
    assert spend(place) == (0, 0)
    found = place.engine.store.find(allow.reservation_id)
    assert found is not None
    assert found.state is State.VOIDED


@pytest.mark.parametrize("outcome", [Outcome.ANSWERED, Outcome.ABANDONED])
def test_without_a_count_the_bound_stands(place: Place, outcome: Outcome) -> None:
    allow = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
    pending = spend(place)[1]
    place.engine.settle(receipt(allow, outcome, None))
    assert spend(place) == (pending, 0)


def test_nobody_reports_and_the_sweeper_posts_the_estimate_then_one_late_receipt_corrects_it(place: Place) -> None:
    allow = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
    pending = spend(place)[1]
    place.time.pass_s(899)
    place.engine.tick()
    assert spend(place) == (0, pending)
    place.time.pass_s(1)
    place.engine.tick()
    assert spend(place) == (pending, 0)
    place.engine.settle(receipt(allow, usage=Usage(10, 10)))
    assert spend(place) == (10 * 50 + 10 * 80, 0)


def test_what_ended_long_ago_is_forgotten_and_its_usage_stays(place: Place) -> None:
    allow = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
    place.engine.settle(receipt(allow))
    place.time.pass_s(91 * 86_400)
    for _ in range(20):
        place.engine.tick()
    assert place.engine.store.find(allow.reservation_id) is None
    assert spend(place) == (100 * 50 + 50 * 80, 0)


def test_a_receipt_without_our_id_is_found_by_the_requests(place: Place) -> None:
    secret = place.issue("chatbot-prod")
    allowed(place.engine.pdp.decide(place.request(secret, request_id="envoy-1")))
    place.engine.settle(Receipt("", "envoy-1", Outcome.NOT_SENT, 0, None))
    assert spend(place) == (0, 0)
    unknown = place.engine.settle(Receipt("guessed", "unknown", Outcome.NOT_SENT, 0, None))
    assert unknown is not None
    assert not unknown.changed


def test_a_repeated_check_has_a_reservation_of_its_own(place: Place) -> None:
    secret = place.issue("chatbot-prod")
    first, again = (allowed(place.engine.pdp.decide(place.request(secret, request_id="envoy-1"))) for _ in range(2))
    other = allowed(place.engine.pdp.decide(place.request(secret, request_id="envoy-2")))
    assert len({first.reservation_id, again.reservation_id, other.reservation_id}) == 3
    states = [found.state for each in (first, again, other) if (found := place.engine.store.find(each.reservation_id))]
    assert states == [State.PENDING] * 3


def test_the_window_fills_and_opens_again_when_the_answer_said(place: Place) -> None:
    secret = place.issue("batch-processor")
    for _ in range(60):
        allowed(place.engine.pdp.decide(place.request(secret)))
        place.time.pass_s(0.1)
    deny = denied(place.engine.pdp.decide(place.request(secret)))
    assert (deny.reason, deny.status, deny.type) == (Reason.RATE_LIMIT_EXCEEDED, 429, "requests")
    place.time.pass_s(int(dict(deny.headers)["retry-after"]))
    allowed(place.engine.pdp.decide(place.request(secret)))


def test_a_policy_sees_how_full_the_budget_is(tmp_path: Path) -> None:
    with opened(tmp_path) as place:
        secret = place.issue("batch-processor")
        allow = allowed(place.engine.pdp.decide(place.request(secret)))
        assert allow.record.shadow_policies == ()
        place.engine.settle(receipt(allow, usage=Usage(input_tokens=0, output_tokens=5_000_000_000)))  # 400 USD
        place.time.pass_s(120)
        after = allowed(place.engine.pdp.decide(place.request(secret)))
        assert after.record.shadow_policies == ("deny:batch-stops-at-80-percent",)


def test_an_alert_is_told_once(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    secret = place.issue("chatbot-prod")
    for _ in range(2):
        allow = allowed(place.engine.pdp.decide(place.request(secret)))
        place.engine.settle(receipt(allow, usage=Usage(input_tokens=0, output_tokens=1_600_000_000)))  # 128 USD
        place.time.pass_s(120)
    told: list[Any] = [record.__dict__["alert"] for record in caplog.records if "threshold" in record.message]
    assert [(alert["quota"], alert["threshold"]) for alert in told] == [("org-spend", 100 * 10**9), ("org-spend", 250 * 10**9)]


class Gone:
    """A store that is out of reach until it is back."""

    def __init__(self, store: Any) -> None:
        self.store, self.gone = store, True

    def __getattr__(self, name: str) -> Any:
        if self.gone:
            raise StoreUnavailable("locked")
        return getattr(self.store, name)


def test_a_store_out_of_reach_denies_and_a_settlement_waits_for_it(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = place.issue("chatbot-prod")
    allow = allowed(place.engine.pdp.decide(place.request(secret)))
    gone = Gone(place.engine.store)
    monkeypatch.setattr(place.engine.fallback, "_store", gone)
    deny = denied(place.engine.pdp.decide(place.request(secret)))
    assert (deny.reason, deny.status) == (Reason.STORE_UNAVAILABLE, 503)
    assert ("retry-after", "1") in deny.headers
    assert place.engine.settle(receipt(allow)) is None
    with pytest.raises(StoreUnavailable):
        place.engine.tick()
    gone.gone = False
    place.engine.tick()
    assert spend(place) == (100 * 50 + 50 * 80, 0)


def test_what_is_reported_together_is_settled_as_one_by_one(place: Place) -> None:
    """In order: also what stands in it twice, what nobody made, and what is known by the request's id alone."""
    secret = place.issue("chatbot-prod")
    first, second, third = (
        allowed(place.engine.pdp.decide(place.request(secret, request_id=f"envoy-{number}"))) for number in range(3)
    )
    reported = [
        receipt(first, usage=Usage(10, 1)),
        receipt(second, Outcome.UPSTREAM_ERROR, None),
        Receipt("guessed", "", Outcome.ANSWERED, 200, Usage(1, 1)),
        receipt(first, usage=Usage(999, 999)),
        Receipt("", "envoy-2", Outcome.ANSWERED, 200, Usage(20, 2)),
    ]
    changes = place.engine.settle_many(reported)
    assert [change and (change.changed, change.state) for change in changes] == [
        (True, State.SETTLED),
        (True, State.VOIDED),
        (False, None),
        (False, State.SETTLED),
        (True, State.SETTLED),
    ]
    assert spend(place) == (30 * 50 + 3 * 80, 0)
    assert place.engine.store.find(third.reservation_id) is not None


def test_each_of_what_was_reported_together_waits_for_the_store(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = place.issue("chatbot-prod")
    allows = [allowed(place.engine.pdp.decide(place.request(secret))) for _ in range(3)]
    gone = Gone(place.engine.store)
    monkeypatch.setattr(place.engine.fallback, "_store", gone)
    assert place.engine.settle_many([receipt(each) for each in allows]) == (None, None, None)
    gone.gone = False
    place.engine.tick()
    assert spend(place) == (3 * (100 * 50 + 50 * 80), 0)


def test_every_decision_is_one_record_and_none_holds_a_prompt_or_a_key(tmp_path: Path) -> None:
    with opened(tmp_path) as place:
        secret = place.issue("chatbot-prod")
        decisions = [
            place.engine.pdp.decide(place.request(secret, messages=[{"role": "user", "content": "canary-prompt"}])),
            place.engine.pdp.decide(place.request(secret, "canary-model\n")),
            place.engine.pdp.decide(place.request("authz_canary")),
        ]
    text = (tmp_path / "decisions.jsonl").read_text()
    records = [json.loads(line) for line in text.splitlines()]
    assert [record["decision_id"] for record in records] == [decision.record.decision_id for decision in decisions]
    assert [record["effect"] for record in records] == ["allow", "deny", "deny"]
    assert secret not in text
    assert "canary-prompt" not in text
    assert "authz_canary" not in text
    assert UPSTREAM_KEY not in text


OVERFLOW = """@id("adds-up") forbid (principal, action in Action::"infer", resource)
when { context.input_tokens + 9223372036854775807 > 0 };
"""


def test_a41_a42_a_policy_that_errs_denies_alerts_and_is_recorded(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The validator passes it, Cedar skips it, and the answer would be an allow."""
    config = lay_out(tmp_path)
    (config.parent / "policies" / "overflow.cedar").write_text(OVERFLOW)
    with opened_at(config) as place:
        deny = denied(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
    assert (deny.reason, deny.status) == (Reason.POLICY_ERROR, 403)
    assert "overflow" in deny.record.policy_errors[0]
    assert "`adds-up`" in deny.record.policy_errors[0]
    (alert,) = (found for found in caplog.records if found.__dict__.get("alert") == "policy_error")
    assert alert.levelname == "ERROR"


def test_a50_every_decision_names_the_bundle_that_made_it(place: Place) -> None:
    secret = place.issue("chatbot-prod")
    before = place.engine.pdp.decide(place.request(secret)).record.bundle
    for file in ("chatbot.cedar", "tests/models.yaml"):
        path = place.folder / "policies" / file
        path.write_text(path.read_text().replace("chatbot-models", "chatbot-two-models"))
    assert place.engine.source.refresh()
    after = place.engine.pdp.decide(place.request(secret)).record
    assert (after.policies, after.bundle) == (("chatbot-two-models",), place.engine.bundle.digest)
    assert after.bundle != before


def test_a_settlement_is_a_record_too(tmp_path: Path) -> None:
    with opened(tmp_path) as place:
        allow = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
        for _ in range(2):
            place.engine.settle(receipt(allow))
        voided = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
        place.engine.settler.void(voided.reservation_id)
    lines = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    assert [line["kind"] for line in lines] == ["decision", "settlement", "decision", "settlement"]
    assert (lines[1]["reservation_id"], lines[1]["state"]) == (allow.reservation_id, "settled")
    assert (lines[1]["usage"]["output_tokens"], lines[1]["amounts"]["spend"]) == (50, 100 * 50 + 50 * 80)
    assert (lines[3]["outcome"], lines[3]["state"], lines[3]["amounts"]) == ("not_sent", "voided", {})
