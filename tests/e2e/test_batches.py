"""Batches through the real Envoy: judged line by line, reserved as a whole, settled from their output, and each team's own."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import groq
import httpx
import openai
import pytest

from authz.model import Meter
from authz.quota.ledger import Reservation, State
from authz.store import open_store
from demo.answers import Behaviour, Usage
from demo.stack import wait_for
from tests.e2e.conftest import Client
from tests.e2e.media import CHAT, EMBEDDER, PREFIX, up, with_batches

pytestmark = pytest.mark.xdist_group("e2e-batches")

URL = "/v1/chat/completions"


@pytest.fixture(scope="module")
def shared(make_client: Callable[..., Client]) -> Client:
    made = make_client(with_batches, keys="key_env: GROQ_API_KEY, batch_poll_s: 1")
    made.issue("media", "media-poor", "media-few", "rivals", "online", "chatbot-prod")
    return made


@pytest.fixture
def client(shared: Client) -> Any:
    yield shared
    shared.stack.groq.behave()


def line(name: str, words: str = "Say hello", **fields: Any) -> dict[str, Any]:
    body = {"model": CHAT, "messages": [{"role": "user", "content": words}], "max_tokens": 30} | fields
    return {"custom_id": name, "method": "POST", "url": URL, "body": body}


def jsonl(*lines: dict[str, Any]) -> bytes:
    return "\n".join(map(json.dumps, lines)).encode()


def sdk(client: Client, key: str, kind: str = "groq", **options: Any) -> Any:
    if kind == "groq":
        return client.sdk(key, **{"max_retries": 4} | options)
    return openai.OpenAI(api_key=client.keys[key], base_url=client.stack.url + PREFIX, **{"max_retries": 4} | options)


def upload(client: Client, key: str, content: bytes, kind: str = "groq", **options: Any) -> str:
    with sdk(client, key, kind, **options) as made:
        return str(made.files.create(file=("b.jsonl", content), purpose="batch").id)


def create(client: Client, key: str, file: str, kind: str = "groq", **options: Any) -> str:
    with sdk(client, key, kind, **options) as made:
        return str(made.batches.create(input_file_id=file, endpoint=URL, completion_window="24h").id)


def reservation(client: Client) -> str:
    """Of the newest batch that was let through: each of them has reached the stand-in."""

    def allowed() -> list[str]:
        made = [row for row in client.records() if row["endpoint"] == "batches.create" and row["effect"] == "allow"]
        return [str(row["reservation_id"]) for row in made]

    sent = [each for each in client.stack.groq.received() if (each.method, each.path) == ("POST", f"{PREFIX}/batches")]
    wait_for("the decision's record", lambda: len(allowed()) == len(sent))
    return allowed()[-1]


def found(client: Client, identity: str) -> Reservation:
    store = open_store(client.stack.settings.store)
    try:
        made = store.find(identity)
        assert made is not None
        return made
    finally:
        store.close()


def ended(client: Client, identity: str) -> dict[str, Any]:
    """The settlement's record."""

    def lines() -> list[dict[str, Any]]:
        rows = client.stack.lines()
        return [row for row in rows if row["kind"] == "settlement" and row["reservation_id"] == identity]

    wait_for("the batch's settlement", lambda: bool(lines()))
    return lines()[0]


@pytest.mark.parametrize("kind", ["groq", "openai"])
def test_a_batch_is_reserved_whole_and_settled_from_its_output(client: Client, kind: str) -> None:
    content = jsonl(line("a"), line("b", "x" * 400), line("fail-c"), line("d"))
    with sdk(client, "media", kind) as made:
        file = made.files.create(file=("b.jsonl", content), purpose="batch")
        batch = made.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h", metadata={"a": "b"})
        held = found(client, reservation(client))
        assert held.state is State.PENDING
        assert held.terms.work is not None
        assert held.terms.work.lines == held.terms.at_most[Meter.REQUESTS] == 4
        assert held.deadline_ns - held.created_ns == 25 * 3600 * 10**9
        wait_for("its end", lambda: made.batches.retrieve(batch.id).status == "completed")
        done = made.batches.retrieve(batch.id)
        output = (
            made.files.content(done.output_file_id).text if kind == "openai" else made.files.content(done.output_file_id).read()
        )
        assert len(output.splitlines()) == 3
        assert made.files.content(done.error_file_id)
    used = client.stack.groq.desk.used[batch.id]
    settled = ended(client, held.id)
    assert settled["state"] == "settled"
    assert len(used) == 3
    fresh, answered = sum(each.prompt_tokens for each in used), sum(each.completion_tokens for each in used)
    assert settled["amounts"]["spend"] == up(fresh * 37_500 + answered * 150_000, 1000) < held.terms.at_most[Meter.SPEND]
    assert settled["amounts"]["tokens"] == fresh + answered
    assert settled["usage"]["input_tokens"] == fresh


def test_a_batch_of_embeddings_costs_its_input_at_half_the_price(client: Client) -> None:
    rows = [
        {"custom_id": name, "method": "POST", "url": "/v1/embeddings", "body": {"model": EMBEDDER, "input": name * 40}}
        for name in "ab"
    ]
    file = upload(client, "media", jsonl(*rows))
    with sdk(client, "media") as made:
        batch = made.batches.create(input_file_id=file, endpoint="/v1/embeddings", completion_window="7d")
    settled = ended(client, reservation(client))
    used = client.stack.groq.desk.used[batch.id]
    assert settled["amounts"]["spend"] == up(sum(each.prompt_tokens for each in used) * 10_000, 1000) > 0


def test_a_batch_without_a_count_costs_its_bound(client: Client) -> None:
    file = upload(client, "media", jsonl(line("a"), line("b")))
    identity = create(client, "media", file)
    client.stack.groq.behave(Behaviour(report_usage=False))
    settled = ended(client, reservation(client))
    assert settled["amounts"] == {
        meter.value: amount for meter, amount in found(client, reservation(client)).terms.at_most.items()
    }
    assert identity in client.stack.groq.desk.used


def test_a_batch_that_answers_nothing_gives_everything_back(client: Client) -> None:
    file = upload(client, "media", jsonl(line("a")))
    batch = create(client, "media", file)
    with sdk(client, "media") as made:
        made.batches.cancel(batch)
    settled = ended(client, reservation(client))
    assert (settled["outcome"], settled["state"], settled["amounts"]) == ("upstream_error", "voided", {})


def test_cached_tokens_of_a_batch_have_their_own_price(client: Client) -> None:
    file = upload(client, "media", jsonl(line("a"), line("b")))
    create(client, "media", file)
    client.stack.groq.behave(Behaviour(usage=Usage(40, 20, 30)))
    settled = ended(client, reservation(client))
    assert settled["amounts"]["spend"] == up(20 * 37_500 + 60 * 18_750 + 40 * 150_000, 1000)
    assert settled["amounts"]["tokens"] == 60


@pytest.mark.parametrize(("status", "error"), [(400, "BadRequestError"), (503, "InternalServerError")])
def test_a_batch_that_the_upstream_refuses_gives_everything_back(client: Client, status: int, error: str) -> None:
    file = upload(client, "media", jsonl(line("a")))
    wait_until_known(client, "media", file)
    client.stack.groq.behave(Behaviour(status=status, times=1))
    with pytest.raises(getattr(groq, error)):
        create(client, "media", file, max_retries=0)
    assert ended(client, reservation(client))["state"] == "voided"


def test_who_leaves_before_the_answer_pays_the_bound(client: Client) -> None:
    file = upload(client, "media", jsonl(line("a")))
    wait_until_known(client, "media", file)
    client.stack.groq.behave(Behaviour(hang=True, times=1))
    with pytest.raises(groq.APITimeoutError):
        create(client, "media", file, max_retries=0, timeout=0.3)
    settled = ended(client, reservation(client))
    assert settled["outcome"] == "abandoned"
    assert settled["amounts"]["spend"] == found(client, reservation(client)).terms.at_most[Meter.SPEND] > 0


def wait_until_known(client: Client, key: str, file: str) -> None:
    with sdk(client, key) as made:
        made.files.info(file)


# ---- denied


def refused(client: Client, call: Callable[[], Any], status: int, code: str) -> str:
    """Denied here: nothing went upstream. Answers the message."""
    before = len(client.stack.groq.received())
    with pytest.raises(groq.APIStatusError) as caught:
        call()
    body: Any = caught.value.body
    assert (caught.value.status_code, body["error"]["code"]) == (status, code)
    through_envoy = [each for each in client.stack.groq.received()[before:] if each.header("x-request-id")]
    assert not through_envoy, "the collector's own requests have no such id"
    return str(body["error"]["message"])


@pytest.mark.parametrize(
    ("rows", "code", "status", "says"),
    [
        ([line("a"), line("b", model="whisper-large-v3")], "invalid_request_error", 400, "Line 2: `model`: another"),
        ([line("a"), line("a")], "invalid_request_error", 400, "Line 2: `custom_id`"),
        ([line("a"), line("b", stream=True)], "invalid_request_error", 400, "Line 2: `stream`"),
        ([line("a"), line("b", service_tier="flex")], "invalid_request_error", 400, "Line 2: `service_tier`"),
        ([line("a", n=2)], "invalid_request_error", 400, "Line 1: `n`"),
        ([line("a", tools=[{"type": "browser_search"}])], "model_not_priced", 403, "Line 1: `tools`"),
        ([line("a") | {"url": "/v1/audio/transcriptions"}], "invalid_request_error", 400, "Line 1: `url`"),
        ([line("a") | {"method": "GET"}], "invalid_request_error", 400, "Line 1: `method`"),
        ([line("a") | {"priority": 1}], "invalid_request_error", 400, "Line 1: `file`"),
        ([line("a", model="nothing")], "model_not_found", 404, "does not exist"),
        ([line("a", model="gemma2-9b-it")], "model_decommissioned", 400, "decommissioned"),
        ([line("a", model="openai/gpt-oss-120b")], "model_not_priced", 403, "no price for batches"),
        ([line("a"), line("b", max_tokens=65_000)], "policy_denied", 403, "Line 2: Denied by policy `small-lines`"),
    ],
)
def test_a35_every_line_is_judged_for_itself(
    client: Client, rows: list[dict[str, Any]], code: str, status: int, says: str
) -> None:
    message = refused(client, lambda: upload(client, "media", jsonl(*rows), max_retries=0), status, code)
    assert says in message


@pytest.mark.parametrize("key", ["chatbot-prod", "online"])
def test_a35_a_team_that_no_policy_lets_make_batches_uploads_nothing(client: Client, key: str) -> None:
    message = refused(client, lambda: upload(client, key, jsonl(line("a")), max_retries=0), 403, "model_not_available")
    assert ("for `batch`" in message) is (key == "online")


def test_a_batch_that_does_not_fit_is_refused_whole(client: Client) -> None:
    file = upload(client, "media-poor", jsonl(line("a"), line("b")))
    wait_until_known(client, "media-poor", file)
    message = refused(client, lambda: create(client, "media-poor", file, max_retries=0), 403, "spend_cap_reached")
    assert "Spend cap reached" in message


def test_a_batch_is_as_many_requests_as_it_has_lines(client: Client) -> None:
    file = upload(client, "media", jsonl(*(line(str(number)) for number in range(4))))
    wait_until_known(client, "media", file)
    message = refused(client, lambda: create(client, "media-few", file, max_retries=0), 413, "rate_limit_exceeded")
    assert "Requested 4" in message


def test_a35_what_is_another_teams_is_nobodys(client: Client) -> None:
    file = upload(client, "media", jsonl(line("a")))
    batch = create(client, "media", file)
    with sdk(client, "media") as made:
        assert made.batches.retrieve(batch).id == batch
    with sdk(client, "rivals", max_retries=0) as rival:
        calls: list[Callable[[], Any]] = [
            lambda: rival.files.info(file),
            lambda: rival.files.content(file),
            lambda: rival.files.delete(file),
            lambda: rival.batches.retrieve(batch),
            lambda: rival.batches.cancel(batch),
            lambda: rival.batches.create(input_file_id=file, endpoint=URL, completion_window="24h"),
            lambda: rival.files.info("file-nobody"),
        ]
        messages = [_denied(call).replace(file, "X").replace(batch, "X").replace("file-nobody", "X") for call in calls]
    assert len(set(messages)) == 1, "it cannot be told from what is not there"
    assert file in client.stack.groq.desk.contents


def _denied(call: Callable[[], Any]) -> str:
    with pytest.raises(groq.ConflictError) as caught:
        call()
    assert caught.value.response.headers["retry-after"] == "1"
    body: Any = caught.value.body
    assert body["error"]["code"] == "not_known_here"
    return str(body["error"]["message"])


def test_a35_lists_and_other_purposes_are_denied_and_told_so(client: Client) -> None:
    with sdk(client, "media", max_retries=0) as made:
        assert "A list" in refused(client, made.files.list, 404, "unknown_url")
        assert "A list" in refused(client, made.batches.list, 404, "unknown_url")
        other: dict[str, tuple[str | None, bytes]] = {"file": ("a", b"x"), "purpose": (None, b"assistants")}
        answer = httpx.post(
            f"{client.stack.url}{PREFIX}/files",
            files=other,
            headers={"authorization": client.headers("media")["authorization"]},
        )
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "purpose")


def test_a_file_that_is_deleted_makes_no_batch(client: Client) -> None:
    file = upload(client, "media", jsonl(line("a")))
    with sdk(client, "media") as made:
        assert made.files.delete(file).deleted
        with pytest.raises(groq.NotFoundError):
            made.batches.create(input_file_id=file, endpoint=URL, completion_window="24h")
    assert ended(client, reservation(client))["state"] == "voided"


def test_the_endpoint_is_that_of_the_lines(client: Client) -> None:
    file = upload(client, "media", jsonl(line("a")))
    wait_until_known(client, "media", file)
    with sdk(client, "media", max_retries=0) as made:
        message = refused(
            client,
            lambda: made.batches.create(input_file_id=file, endpoint="/v1/embeddings", completion_window="24h"),
            400,
            "invalid_request_error",
        )
    assert "`endpoint`" in message


def test_a_file_that_is_too_large_is_413(client: Client) -> None:
    row = json.dumps(line("a", "x" * 1000)).encode()
    for content in (row * 3200, b"\n".join([b"{}"] * 2001)):
        refused(client, lambda: upload(client, "media", content, max_retries=0), 413, "request_too_large")  # noqa: B023
