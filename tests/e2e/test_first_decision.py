"""One decision, end to end, through the real Envoy and the real SDK."""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Callable
from typing import Any
from unittest import mock

import groq
import httpx
import pytest
from msgspec import structs

from authz import Allow, Authorizer, Deny, Usage, chat_request, read_settings
from authz.store import open_store
from demo.answers import Behaviour
from demo.answers import Usage as UpstreamUsage
from demo.stack import STAND_IN_KEY
from tests.e2e.conftest import CHAT, MESSAGES, SMALL, Client, add_quotas
from tests.issued import put

pytestmark = pytest.mark.xdist_group("e2e")

LARGE = "llama-3.3-70b-versatile"
OPEN = "openai/gpt-oss-120b"


@pytest.fixture(scope="module")
def client(make_client: Callable[..., Client]) -> Client:
    made = make_client(
        add_quotas(
            'id: few, scope: Key::"analytics-reports", what: requests, limit: 3/4 seconds',
            'id: capped, scope: Key::"research-lab", what: spend, limit: 0.001 USD/day',
        )
    )
    made.issue("chatbot-prod", "batch-processor", "analytics-reports", "research-lab")
    return made


def upstream_count(client: Client) -> int:
    return len(client.stack.groq.received())


def test_1_an_allowed_chat_reaches_the_upstream_with_the_upstream_key_only(client: Client) -> None:
    before = upstream_count(client)
    plain = client.chat("chatbot-prod")
    assert plain.usage.total_tokens > 0
    assert client.chat("chatbot-prod", stream=True)
    received = client.stack.groq.received()[before:]
    assert len(received) == 2
    for request in received:
        assert request.header("authorization") == (f"Bearer {STAND_IN_KEY}",)
    client.wait_until_settled()
    secret = client.keys["chatbot-prod"]
    for path in client.stack.folder.rglob("*"):
        if path.is_file():
            assert secret.encode() not in path.read_bytes(), f"the client's key is in {path.name}"
    for path in (client.stack.records, client.stack.sidecar.log_path, client.stack.envoy.log_path):
        assert STAND_IN_KEY not in path.read_text(errors="replace")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("authorization", "Bearer gsk_wrong")],
        [("authorization", "Bearer authz_" + "0" * 40)],
        "twice",
    ],
    ids=["none", "wrong", "ours but unknown", "two"],
)
def test_2_no_key_a_wrong_key_and_two_keys_are_401(client: Client, headers: Any) -> None:
    if headers == "twice":
        headers = [("authorization", client.headers("chatbot-prod")["authorization"])] * 2
    before = upstream_count(client)
    body = {"model": SMALL, "messages": MESSAGES}
    answer = httpx.post(client.stack.url + CHAT, json=body, headers=[*headers])
    assert answer.status_code == 401
    assert answer.json()["error"]["code"] == "invalid_api_key"
    assert upstream_count(client) == before


def test_2_a_model_outside_the_teams_list_is_403(client: Client) -> None:
    before = upstream_count(client)
    for name, model in (("chatbot-prod", OPEN), ("analytics-reports", LARGE), ("batch-processor", LARGE)):
        with pytest.raises(groq.PermissionDeniedError) as caught:
            client.chat(name, model)
        assert caught.value.body["error"]["code"] == "model_not_available"  # type: ignore[index]
    with pytest.raises(groq.BadRequestError, match="model_decommissioned"):
        client.chat("research-lab", "mixtral-8x7b-32768")
    assert upstream_count(client) == before


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/openai/v1/fine_tuning/jobs"),
        ("DELETE", CHAT),
        ("GET", CHAT),
        ("POST", CHAT + "?x=1"),
        ("POST", CHAT + "/"),
        ("POST", "/healthz/../openai/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("DELETE", "/openai/v1/models/x"),
    ],
)
def test_2_an_unknown_path_or_method_is_denied(client: Client, method: str, path: str) -> None:
    before = upstream_count(client)
    answer = httpx.request(method, client.stack.url + path, headers=client.headers("chatbot-prod"), content=b"{}")
    assert answer.status_code == 404
    assert answer.json()["error"]["code"] == "unknown_url"
    assert upstream_count(client) == before


def test_3_a_full_window_is_429_and_the_sdk_waits_for_it(client: Client) -> None:
    """Seconds, so that the SDK's own one retry is seen to honour `retry-after`: any earlier and it would be refused again."""
    seen: list[httpx.Response] = []
    options = {"http_client": httpx.Client(event_hooks={"response": [seen.append]}), "max_retries": 1}
    with client.sdk("analytics-reports", **options) as sdk:
        for _ in range(4):
            sdk.chat.completions.create(model=SMALL, messages=MESSAGES, max_tokens=16)
    assert [answer.status_code for answer in seen] == [200, 200, 200, 429, 200]
    assert 1 <= int(seen[3].headers["retry-after"]) <= 5


def test_3_request_501_within_a_minute_is_429(client: Client) -> None:
    body = {"model": SMALL, "messages": MESSAGES, "max_tokens": 1}
    with httpx.Client(headers=client.headers("chatbot-prod")) as http:
        while True:
            answer = http.post(client.stack.url + CHAT, json=body)
            if answer.status_code != 200:
                break
            left = int(answer.headers["x-ratelimit-remaining-requests"])
            assert answer.headers["x-ratelimit-limit-requests"] == "500"
            assert re.fullmatch(r"(\d+m)?[\d.]+s", answer.headers["x-ratelimit-reset-requests"])
            if int(answer.headers["x-ratelimit-remaining-tokens"]) < 2_000:
                pytest.fail("the tokens ran out before the requests")
    assert left == 0
    assert answer.status_code == 429
    error = answer.json()["error"]
    assert (error["code"], error["type"]) == ("rate_limit_exceeded", "requests")
    message = r"Limit 500, Used 500, Requested 1\. Please try again in [\dms.]+\.$"
    assert re.search(message, error["message"])
    assert 1 <= int(answer.headers["retry-after"]) <= 61
    assert answer.headers["x-ratelimit-remaining-requests"] == "0"
    assert sum(1 for row in client.records() if row["effect"] == "allow" and row["principal"] == 'Key::"chatbot-prod"') == 500


def test_3_tokens_fill_up_alike_and_one_request_alone_can_be_too_large(client: Client) -> None:
    def ask(size: int) -> httpx.Response:
        messages = [{"role": "user", "content": "x" * size}]
        body = {"model": SMALL, "messages": messages, "max_tokens": 1}
        return httpx.post(client.stack.url + CHAT, json=body, headers=client.headers("batch-processor"))

    # batch-processor has 500,000 tokens a minute; the model reads at most 131,072 at once. What is held for one
    # request is what it is settled at, so that the next one meets the same, settled or not.
    client.stack.groq.behave(Behaviour(usage=UpstreamUsage(prompt_tokens=131_072, completion_tokens=1)))
    assert [ask(900_000).status_code for _ in range(3)] == [200, 200, 200]
    full = ask(900_000)
    client.stack.groq.behave()
    assert full.status_code == 429
    assert full.json()["error"]["type"] == "tokens"
    assert re.search(r"Limit 500000, Used \d+, Requested \d+\. Please try again in", full.json()["error"]["message"])
    # chatbot-prod has 100,000: this request alone is larger, on a model of which nothing has been learned yet.
    messages = [{"role": "user", "content": "x" * 400_000}]
    body = {"model": LARGE, "messages": messages, "max_tokens": 1}
    alone = httpx.post(client.stack.url + CHAT, json=body, headers=client.headers("chatbot-prod"))
    assert alone.status_code == 413
    assert alone.json()["error"]["code"] == "rate_limit_exceeded"
    assert re.search(r"Limit 100000, Requested \d+", alone.json()["error"]["message"])


def test_4_spend_at_the_cap_is_403_and_the_sdk_does_not_retry(client: Client) -> None:
    seen: list[httpx.Response] = []
    before = upstream_count(client)
    http_client = httpx.Client(event_hooks={"response": [seen.append]})
    with (
        client.sdk("research-lab", http_client=http_client, max_retries=3) as sdk,
        pytest.raises(groq.PermissionDeniedError) as caught,
    ):
        sdk.chat.completions.create(model=OPEN, messages=MESSAGES)
    error = caught.value.body["error"]  # type: ignore[index]
    assert error["code"] == "spend_cap_reached"
    assert re.search(r"Requests resume on \d{4}-\d\d-\d\dT00:00:00Z", error["message"])
    assert len(seen) == 1
    assert upstream_count(client) == before


def test_5_a_model_given_twice_is_400_and_a_large_body_413(client: Client) -> None:
    before = upstream_count(client)
    twice = b'{"model":"%s","\\u006dodel":"%s","messages":[{"role":"user","content":"x"}]}' % (SMALL.encode(), OPEN.encode())
    answer = httpx.post(client.stack.url + CHAT, content=twice, headers=client.headers("chatbot-prod"))
    assert answer.status_code == 400
    assert "stands twice" in answer.json()["error"]["message"]
    body = {"model": SMALL, "messages": [{"role": "user", "content": "x" * 1_100_000}]}
    answer = httpx.post(client.stack.url + CHAT, json=body, headers=client.headers("chatbot-prod"))
    assert answer.status_code == 413
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert upstream_count(client) == before


def test_6_the_settled_usage_is_the_upstreams_to_the_token(make_client: Callable[..., Client]) -> None:
    client = make_client()
    client.issue("chatbot-prod", "batch-processor")
    for _ in range(3):
        client.chat("chatbot-prod", LARGE)
        client.chat("chatbot-prod", stream=True)
        client.chat("chatbot-prod", stream=True, extra_body={"stream_options": {"include_usage": True}})
        client.chat("batch-processor")
    client.wait_until_settled()
    tokens, cost = 0, 0
    for request in client.stack.groq.received():
        assert request.usage is not None
        tokens += request.usage.prompt_tokens + request.usage.completion_tokens
        prices = (590, 790) if json.loads(request.body)["model"] == LARGE else (50, 80)
        fresh, cached = request.usage.prompt_tokens - request.usage.cached_tokens, request.usage.cached_tokens
        assert cached == 0
        cost += fresh * prices[0] + request.usage.completion_tokens * prices[1]
    usage = client.usage()
    assert usage["chatbot-prod"]["requests_today"] == 9
    assert usage["batch-processor"]["requests_today"] == 3
    assert sum(row["tokens_today"] for row in usage.values()) == tokens
    assert sum(float(row["estimated_cost_usd"]) for row in usage.values()) == pytest.approx(cost / 1e9, abs=1e-6)
    store = open_store(client.stack.settings.store)
    try:
        assert sum(row.cost_nanousd for row in store.usage("2000-01-01", "2999-12-31")) == cost
    finally:
        store.close()
    table = client.stack.command("usage")
    for column in ("key", "requests today", "tokens today", "estimated cost (USD)"):
        assert column in table


def test_7_a_sidecar_that_is_gone_is_503_within_a_second_and_back_with_its_counts(make_client: Callable[..., Client]) -> None:
    client = make_client()
    client.issue("chatbot-prod")
    client.chat("chatbot-prod")
    client.wait_until_settled()
    counted = client.usage()
    before = upstream_count(client)
    client.stack.sidecar.kill()
    for _ in range(3):
        started = time.monotonic()
        answer = httpx.post(
            client.stack.url + CHAT, json={"model": SMALL, "messages": MESSAGES}, headers=client.headers("chatbot-prod")
        )
        assert time.monotonic() - started < 1
        assert answer.status_code == 503
        assert answer.json()["error"]["code"] == "authz_unavailable"
    assert upstream_count(client) == before
    client.stack.sidecar.start()
    client.stack.wait_until_healthy()
    assert client.usage() == counted
    client.chat("chatbot-prod")
    client.wait_until_settled()
    assert client.usage()["chatbot-prod"]["requests_today"] == counted["chatbot-prod"]["requests_today"] + 1
    assert client.stack.sidecar.stop() == 0


def test_8_the_library_decides_and_records_the_same(make_client: Callable[..., Client]) -> None:
    client = make_client()
    client.issue("chatbot-prod", "analytics-reports")
    key, other = client.keys["chatbot-prod"], client.keys["analytics-reports"]
    bodies = [
        (key, {"model": SMALL, "messages": MESSAGES, "max_tokens": 16}),
        (key, {"model": OPEN, "messages": MESSAGES}),
        (key, {"model": SMALL, "messages": [{"role": "user", "content": "x" * 400_000}]}),
        (other, {"model": "mixtral-8x7b-32768", "messages": MESSAGES}),
        ("authz_wrong", {"model": SMALL, "messages": MESSAGES}),
    ]
    for secret, body in bodies:
        headers = {"authorization": f"Bearer {secret}", "content-type": "application/json"}
        httpx.post(client.stack.url + CHAT, content=json.dumps(body), headers=headers)
        client.wait_until_settled()  # so that the next request meets what was used, not what was held
    client.stack.sidecar.stop()  # by its end every record is written
    through_envoy = client.records()

    text = client.stack.config.read_text()
    lone = client.stack.folder / "library.yaml"
    lone.write_text(text.replace("authz.db", "library.db").replace("decisions.jsonl", "library.jsonl"))
    with mock.patch.dict(os.environ, {"GROQ_API_KEY": STAND_IN_KEY}):
        issued = open_store(read_settings(client.stack.config).store)
        fresh = open_store(read_settings(lone).store)
        put(fresh, *(structs.replace(row, sequence=0) for row in issued.keys_since(0)))
        issued.close()
        fresh.close()
        (upstream,) = client.stack.groq.received()
        assert upstream.usage is not None
        used = Usage(input_tokens=upstream.usage.prompt_tokens, output_tokens=upstream.usage.completion_tokens)
        decisions = []
        with Authorizer.open(lone) as authorizer:
            for secret, body in bodies:
                decision = authorizer.decide(chat_request(secret, json.dumps(body).encode(), source_ip="127.0.0.1"))
                decisions.append(decision)
                if isinstance(decision, Allow):
                    authorizer.settle(decision.reservation_id, used)
    lines = [json.loads(line) for line in (client.stack.folder / "library.jsonl").read_text().splitlines()]
    records = [line for line in lines if line["kind"] == "decision"]
    assert [isinstance(decision, Deny) for decision in decisions] == [False, True, True, True, True]
    for ours, theirs in zip(records, through_envoy, strict=True):
        assert bool(ours["reservation_id"]) == bool(theirs["reservation_id"])
        assert lasting(ours) == lasting(theirs)


def lasting(record: dict[str, Any]) -> dict[str, Any]:
    """A record without what time and chance give it."""
    volatile = ("decision_id", "time", "duration_us", "reservation_id", "request_id")
    quotas = [{**state, "reset_s": None} for state in record["quotas"]]
    return {**record, **dict.fromkeys(volatile), "quotas": quotas}
