"""The real SDKs through the transport, sync and async: authorised and settled in process, and told in their own exceptions."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any, Final

import groq
import httpx
import openai
import pytest

from authz import AsyncAuthorizedTransport, AsyncAuthorizer, AuthorizedTransport
from authz.model import DecisionRecord, Meter, Outcome, Usage
from authz.reasons import Reason
from demo.answers import RATE_HEADERS, Behaviour
from demo.answers import Usage as Counted
from demo.stack import wait_for
from tests.e2e.media import EMBEDDER, WHISPER, with_media
from tests.inference.sounds import wav
from tests.library import Library, library
from tests.place import UPSTREAM_KEY

SMALL: Final = "llama-3.1-8b-instant"
OPEN: Final = "openai/gpt-oss-120b"
MESSAGES: Final[Any] = [{"role": "user", "content": "Say hello"}]
Call = Callable[[Any], Any]


class Client:
    """One SDK through one transport. `run` makes a call and reads what it gives to its end."""

    def __init__(self, place: Library, sdk: Any, kind: str) -> None:
        self.place, self.sdk, self._kind = place, sdk, kind

    def run(self, key: str, call: Call, *, path: str = "", **options: Any) -> Any:
        """path  of the base URL, where it is not the SDK's own"""
        options = {"api_key": key, "max_retries": 0} | ({"base_url": f"http://any.example{path}"} if path else {}) | options
        return self._run_sync(call, options) if self._kind == "sync" else asyncio.run(self._run_async(call, options))

    def _run_sync(self, call: Call, options: dict[str, Any]) -> Any:
        with self._sync_sdk(**options, http_client=httpx.Client(transport=AuthorizedTransport(self.place.authorizer))) as made:
            found = call(made)
            return list(found) if isinstance(found, Iterator) else found

    async def _run_async(self, call: Call, options: dict[str, Any]) -> Any:
        threads = AsyncAuthorizer(self.place.authorizer)
        through = httpx.AsyncClient(transport=AsyncAuthorizedTransport(threads))
        try:
            async with self._async_sdk(**options, http_client=through) as made:
                found = call(made)
                if inspect.isawaitable(found):
                    found = await found
                return [each async for each in found] if hasattr(found, "__aiter__") and not isinstance(found, str) else found
        finally:
            threads.stop()

    @property
    def _sync_sdk(self) -> Any:
        return self.sdk.Groq if self.sdk is groq else self.sdk.OpenAI

    @property
    def _async_sdk(self) -> Any:
        return self.sdk.AsyncGroq if self.sdk is groq else self.sdk.AsyncOpenAI


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    with library(tmp_path_factory.mktemp("sdk"), change=with_media) as place:
        yield place


@pytest.fixture
def place(shared: Library) -> Iterator[Library]:
    shared.records()
    shared.time.pass_s(120)
    yield shared
    shared.groq.behave()


KINDS: Final = [(sdk, kind) for sdk in (groq, openai) for kind in ("sync", "async")]


@pytest.fixture(params=KINDS, ids=lambda pair: f"{pair[0].__name__} {pair[1]}")
def client(request: pytest.FixtureRequest, place: Library) -> Client:
    return Client(place, *request.param)


def path_of(client: Client) -> str:
    """Where the SDK's own base URL ends: Groq's adds the rest itself."""
    return "" if client.sdk is groq else "/openai/v1"


def chat(**fields: Any) -> Call:
    return lambda sdk: sdk.chat.completions.create(**{"model": SMALL, "messages": MESSAGES, "max_tokens": 16} | fields)


def test_a_chat_is_settled_at_what_the_upstream_counted(client: Client) -> None:
    place, key = client.place, client.place.issue("chatbot-prod")
    before = len(place.groq.received())
    answer = client.run(key, chat(), path=path_of(client))
    (received,) = place.groq.received()[before:]
    decision, settlement = place.one()
    assert (decision.effect, decision.principal, decision.endpoint) == ("allow", 'Key::"chatbot-prod"', "chat.completions")
    assert settlement.usage == Usage(answer.usage.prompt_tokens, answer.usage.completion_tokens)
    assert received.usage is not None
    assert settlement.usage == Usage(received.usage.prompt_tokens, received.usage.completion_tokens)
    assert settlement.outcome is Outcome.ANSWERED


def test_the_upstream_gets_its_key_and_nothing_of_the_virtual_one(client: Client) -> None:
    place, key = client.place, client.place.issue("chatbot-prod")
    before = len(place.groq.received())
    extra = {
        "x-api-key": key,
        "cookie": key,
        "x-http-method-override": "DELETE",
        "x-authz-peer": "me",
        "OpenAI-Project": "chatbot",
    }
    client.run(key, chat(extra_headers=extra), path=path_of(client))
    (received,) = place.groq.received()[before:]
    assert received.header("authorization") == (f"Bearer {UPSTREAM_KEY}",)
    assert received.header("host") == (f"127.0.0.1:{place.groq.port}",)
    assert key not in repr(received)
    assert {"x-http-method-override", "x-authz-peer", "openai-project"}.isdisjoint(name for name, _ in received.headers)


def test_a_client_sees_its_own_limits_and_never_the_organisations(client: Client) -> None:
    raw = client.run(
        client.place.issue("chatbot-prod"),
        lambda sdk: sdk.chat.completions.with_raw_response.create(model=SMALL, messages=MESSAGES, max_tokens=16),
        path=path_of(client),
    )
    assert raw.headers["x-ratelimit-limit-requests"] == "500"
    shown = [value for name, value in raw.headers.multi_items() if name.startswith("x-ratelimit-limit")]
    assert not set(shown) & set(RATE_HEADERS.values())


@pytest.mark.parametrize("include_usage", [False, True])
def test_a_stream_is_settled_at_what_its_last_chunks_say(client: Client, include_usage: bool) -> None:
    place = client.place
    more: dict[str, Any] = {"stream_options": {"include_usage": True}} if include_usage else {}
    options = {"extra_body": more} if client.sdk is groq else more
    before = len(place.groq.received())
    chunks = client.run(place.issue("chatbot-prod"), chat(stream=True, **options), path=path_of(client))
    assert len(chunks) > 16
    (received,) = place.groq.received()[before:]
    assert received.usage is not None
    _, settlement = place.one()
    assert settlement.usage == Usage(received.usage.prompt_tokens, received.usage.completion_tokens)
    assert settlement.outcome is Outcome.ANSWERED


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("stream", [False, True])
def test_the_responses_api_is_settled_at_its_own_count(place: Library, kind: str, stream: bool) -> None:
    def respond(sdk: Any) -> Any:
        return sdk.responses.create(model=OPEN, input="Say hello", stream=stream, max_output_tokens=16)

    before = len(place.groq.received())
    Client(place, openai, kind).run(place.issue("media"), respond, path="/openai/v1")
    (received,) = place.groq.received()[before:]
    decision, settlement = place.one()
    assert received.usage is not None
    assert decision.action == "respond"
    assert settlement.usage == Usage(received.usage.prompt_tokens, received.usage.completion_tokens)


def test_an_upload_is_charged_by_its_length(client: Client) -> None:
    place, before = client.place, len(client.place.groq.received())

    def transcribe(sdk: Any) -> Any:
        return sdk.audio.transcriptions.create(model=WHISPER, file=("a.wav", wav(12.3)), language="en")

    assert client.run(place.issue("media"), transcribe, path=path_of(client)).text
    (received,) = place.groq.received()[before:]
    decision, settlement = place.one()
    assert decision.action == "transcribe"
    assert received.usage is not None
    assert settlement.amounts[Meter.AUDIO_SECONDS] == received.usage.audio_seconds == 13


def test_embeddings_are_settled_at_their_input(client: Client) -> None:
    place = client.place
    client.run(
        place.issue("media"), lambda sdk: sdk.embeddings.create(model=EMBEDDER, input=["a", "b" * 50]), path=path_of(client)
    )
    _, settlement = place.one()
    assert settlement.usage is not None
    assert (settlement.usage.input_tokens, settlement.usage.output_tokens) == (13, 0)


DENIALS: Final[dict[str, tuple[str, dict[str, Any], str, Reason]]] = {
    "a wrong key": ("authz_" + "x" * 40, {}, "AuthenticationError", Reason.INVALID_API_KEY),
    "not their model": ("chatbot-prod", {"model": OPEN}, "PermissionDeniedError", Reason.MODEL_NOT_AVAILABLE),
    "no such model": ("chatbot-prod", {"model": "gpt-9"}, "NotFoundError", Reason.MODEL_NOT_FOUND),
    "two answers": ("chatbot-prod", {"n": 2}, "BadRequestError", Reason.INVALID_REQUEST),
    "no money": ("media-poor", {}, "PermissionDeniedError", Reason.SPEND_CAP_REACHED),
}


@pytest.mark.parametrize("case", DENIALS)
def test_a_denial_is_the_sdks_own_exception_and_goes_nowhere(client: Client, case: str) -> None:
    key, fields, error, reason = DENIALS[case]
    place, before = client.place, len(client.place.groq.received())
    secret = key if key.startswith("authz_") else place.issue(key)
    with pytest.raises(getattr(client.sdk, error)) as caught:
        client.run(secret, chat(**fields), path=path_of(client))
    body: Any = caught.value.body
    assert body.get("error", body)["code"] == reason.value
    assert len(place.groq.received()) == before
    (record,) = place.records()
    assert isinstance(record, DecisionRecord)
    assert (record.effect, record.reason) == ("deny", reason)


def test_a_full_window_is_a_rate_limit_error_that_says_when(client: Client) -> None:
    place = client.place
    key = place.issue("batch-processor")
    for _ in range(60):
        place.authorizer.decide(place.request(key))
    with pytest.raises(client.sdk.RateLimitError) as caught:
        client.run(key, chat(), path=path_of(client))
    assert int(caught.value.response.headers["retry-after"]) >= 1


@pytest.mark.parametrize("status", [400, 429, 500, 503])
def test_what_the_upstream_refuses_is_given_back(client: Client, status: int) -> None:
    client.place.groq.behave(Behaviour(status=status, times=1))
    with pytest.raises(client.sdk.APIStatusError) as caught:
        client.run(client.place.issue("chatbot-prod"), chat(), path=path_of(client))
    assert caught.value.status_code == status
    _, settlement = client.place.one()
    assert (settlement.outcome, settlement.state, settlement.amounts) == (Outcome.UPSTREAM_ERROR, "voided", {})


def test_a_client_that_leaves_mid_stream_pays_the_estimate(client: Client) -> None:
    def first(sdk: Any) -> Any:
        with chat(stream=True)(sdk) as chunks:
            return next(iter(chunks)).id

    async def first_async(sdk: Any) -> Any:
        async with await chat(stream=True)(sdk) as chunks:
            return (await anext(aiter(chunks))).id

    asynchronous = client._kind == "async"
    client.place.groq.behave(Behaviour(chunk_delay_s=0.02, times=1))
    assert client.run(client.place.issue("chatbot-prod"), first_async if asynchronous else first, path=path_of(client))
    decision, settlement = client.place.one()
    assert decision.estimate is not None
    assert (settlement.outcome, settlement.usage) == (Outcome.ABANDONED, None)
    assert settlement.amounts == decision.estimate.at_most


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_that_breaks_off_pays_the_estimate(client: Client, stream: bool) -> None:
    client.place.groq.behave(Behaviour(cut_after=2, times=1))
    with pytest.raises((client.sdk.APIConnectionError, httpx.RemoteProtocolError)):
        client.run(client.place.issue("chatbot-prod"), chat(stream=stream), path=path_of(client))
    decision, settlement = client.place.one()
    assert decision.estimate is not None
    assert (settlement.outcome, settlement.amounts) == (Outcome.ABANDONED, decision.estimate.at_most)


def test_an_upstream_that_never_answers_pays_the_estimate(client: Client) -> None:
    """It has the request, and may be at work on it."""
    client.place.groq.behave(Behaviour(hang=True, times=1))
    with pytest.raises(client.sdk.APITimeoutError):
        client.run(client.place.issue("chatbot-prod"), chat(), path=path_of(client), timeout=0.3)
    assert client.place.one()[1].outcome is Outcome.ABANDONED


def test_a_count_that_cannot_be_believed_is_not_posted(client: Client) -> None:
    client.place.groq.behave(Behaviour(usage=Counted(prompt_tokens=2**40, completion_tokens=1), times=1))
    client.run(client.place.issue("chatbot-prod"), chat(), path=path_of(client))
    decision, settlement = client.place.one()
    assert decision.estimate is not None
    assert (settlement.usage, settlement.amounts) == (None, decision.estimate.at_most)


def test_models_are_answered_in_process(client: Client) -> None:
    place, before = client.place, len(client.place.groq.received())
    key = place.issue("chatbot-prod")
    listed = client.run(key, lambda sdk: sdk.models.list(), path=path_of(client))
    names = {each[0][1][0].id if isinstance(each, tuple) else each.id for each in getattr(listed, "data", listed)}
    assert names == {SMALL, "llama-3.3-70b-versatile"}
    assert client.run(key, lambda sdk: sdk.models.retrieve(SMALL), path=path_of(client)).id == SMALL
    with pytest.raises(client.sdk.PermissionDeniedError):
        client.run(key, lambda sdk: sdk.models.retrieve(WHISPER), path=path_of(client))
    assert len(place.groq.received()) == before
    assert [record.effect for record in place.records() if isinstance(record, DecisionRecord)] == ["allow", "allow", "deny"]


# ---- the transport by itself


def sync_client(place: Library) -> httpx.Client:
    return httpx.Client(transport=AuthorizedTransport(place.authorizer))


def test_what_could_not_be_sent_is_given_back(tmp_path: Path) -> None:
    with library(tmp_path) as place:
        key = place.issue("chatbot-prod")
        place.groq.stop()
        for kind in ("sync", "async"):
            with pytest.raises(groq.APIConnectionError):
                Client(place, groq, kind).run(key, chat())
            assert place.one()[1].outcome is Outcome.NOT_SENT


def test_what_is_sent_is_what_was_judged(place: Library) -> None:
    """`target` would have httpcore ask for another path."""
    key, before = place.issue("chatbot-prod"), len(place.groq.received())
    body = {"model": SMALL, "messages": MESSAGES, "max_tokens": 16}
    with sync_client(place) as through:
        answer = through.post(
            "https://elsewhere.example:9/openai/v1/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {key}"},
            extensions={"target": b"/openai/v1/files", "sni_hostname": "elsewhere.example"},
        )
    assert answer.status_code == 200
    assert [received.path for received in place.groq.received()[before:]] == ["/openai/v1/chat/completions"]


def test_a_header_that_is_no_text_is_denied_and_recorded(place: Library) -> None:
    with sync_client(place) as through:
        answer = through.post("http://x/openai/v1/chat/completions", headers=[(b"authorization", b"Bearer \xff")], json={})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "invalid_request_error")
    (record,) = place.records()
    assert isinstance(record, DecisionRecord)
    assert record.reason is Reason.INVALID_REQUEST


def test_a_key_that_groq_refuses_is_passed_over_for_the_next(tmp_path: Path) -> None:
    keys = "keys: [{name: a, key_env: STALE}, {name: b, key_env: FRESH}]"
    with library(tmp_path, keys=keys, environ={"STALE": "gsk_stale", "FRESH": UPSTREAM_KEY}) as place:
        secret = place.issue("chatbot-prod")
        with pytest.raises(groq.AuthenticationError):
            Client(place, groq, "sync").run(secret, chat())
        assert place.one()[1].outcome is Outcome.UPSTREAM_ERROR
        assert Client(place, groq, "sync").run(secret, chat()).usage.total_tokens
        assert place.one()[1].outcome is Outcome.ANSWERED


def test_a_task_that_is_cancelled_while_it_waits_for_the_answer_pays_the_estimate(place: Library) -> None:
    place.groq.behave(Behaviour(hang=True, times=1))
    key, before = place.issue("chatbot-prod"), len(place.groq.received())

    async def go() -> None:
        threads = AsyncAuthorizer(place.authorizer)
        async with httpx.AsyncClient(transport=AsyncAuthorizedTransport(threads)) as through:
            body = {"model": SMALL, "messages": MESSAGES, "max_tokens": 16}
            headers = {"authorization": f"Bearer {key}"}
            asking: Awaitable[Any] = asyncio.ensure_future(
                through.post("http://x/openai/v1/chat/completions", json=body, headers=headers)
            )
            await asyncio.to_thread(wait_for, "the request", lambda: len(place.groq.received()) > before)
            assert isinstance(asking, asyncio.Future)
            asking.cancel()
            with pytest.raises(asyncio.CancelledError):
                await asking
        threads.stop()

    asyncio.run(go())
    assert place.one()[1].outcome is Outcome.ABANDONED
