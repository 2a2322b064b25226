"""What single endpoints do through the real Envoy, beyond the cells of `test_matrix.py`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import groq
import httpx
import openai
import pytest
import yaml

from demo.answers import Behaviour, Usage
from demo.stack import wait_for
from tests.e2e.conftest import Client
from tests.e2e.media import CHAT, COST, EMBEDDER, ENGLISH, PREFIX, WHISPER, up, with_media
from tests.inference.sounds import wav

pytestmark = pytest.mark.xdist_group("e2e-endpoints")


@pytest.fixture(scope="module")
def shared(make_client: Callable[..., Client]) -> Client:
    made = make_client(with_media)
    made.issue("media", "media-poor", "media-brief", "chatbot-prod")
    return made


@pytest.fixture
def client(shared: Client) -> Any:
    yield shared
    shared.stack.groq.behave()


# ---- the rows


def as_openai(client: Client, key: str, **options: Any) -> openai.OpenAI:
    return openai.OpenAI(api_key=client.keys[key], base_url=client.stack.url + PREFIX, **{"max_retries": 0} | options)


MESSAGES: Final[Any] = [{"role": "user", "content": "Say hello"}]
SOUND: Final = ("a.wav", wav(12.3))

Call = Callable[[Any], Any]


class Row(NamedTuple):
    """An endpoint: a call by SDK, and the price of what the stand-in counts, in nano-dollars."""

    sdks: str
    call: Call
    cost: Callable[[Usage], int]


ROWS: Final[dict[str, Row]] = {
    "chat": Row("groq openai", lambda sdk: sdk.chat.completions.create(model=CHAT, messages=MESSAGES), COST[CHAT]),
    "chat stream": Row(
        "groq openai", lambda sdk: list(sdk.chat.completions.create(model=CHAT, messages=MESSAGES, stream=True)), COST[CHAT]
    ),
    "responses": Row("openai", lambda sdk: sdk.responses.create(model=CHAT, input="Say hello"), COST[CHAT]),
    "responses stream": Row(
        "openai", lambda sdk: list(sdk.responses.create(model=CHAT, input="Say hello", stream=True)), COST[CHAT]
    ),
    "embeddings": Row("groq openai", lambda sdk: sdk.embeddings.create(model=EMBEDDER, input=["a", "b" * 50]), COST[EMBEDDER]),
    "transcriptions": Row(
        "groq openai",
        lambda sdk: sdk.audio.transcriptions.create(model=WHISPER, file=SOUND, language="en"),
        COST[WHISPER],
    ),
    "translations": Row(
        "groq",  # the other SDK calls it deprecated
        lambda sdk: sdk.audio.translations.create(model=WHISPER, file=SOUND),
        COST[WHISPER],
    ),
    "speech": Row(
        "groq openai",
        lambda sdk: sdk.audio.speech.create(model=ENGLISH, input="Hello, wörld", voice="troy").read(),
        COST[ENGLISH],
    ),
}


def last(name: str) -> str:
    return ROWS[name].sdks.split()[-1]


class Seen(NamedTuple):
    decision: dict[str, Any]
    settlement: dict[str, Any] | None
    forwarded: int
    used: Usage | None


def seen(client: Client, key: str, sdk: str, call: Call, error: str = "", **options: Any) -> Seen:
    """Makes the call, which has to raise the SDK's `error` if one is named, and waits until its reservation has ended."""
    decisions, received = len(client.records()), len(client.stack.groq.received())
    made = client.sdk(key, **options) if sdk == "groq" else as_openai(client, key, **options)
    with made:
        if not error:
            call(made)
        else:
            with pytest.raises(getattr(groq if sdk == "groq" else openai, error)):
                call(made)
    decision = client.records()[decisions]
    reservation = decision["reservation_id"]

    def settled() -> list[dict[str, Any]]:
        ended = (line for line in client.stack.lines() if line["kind"] == "settlement")
        return [line for line in ended if line["reservation_id"] == reservation]

    if reservation:
        wait_for("the settlement", lambda: bool(settled()))
    forwarded = client.stack.groq.received()[received:]
    return Seen(decision, settled()[0] if reservation else None, len(forwarded), forwarded[0].usage if forwarded else None)


# ---- the columns


@pytest.mark.parametrize("name", ["chat stream", "responses stream"])
def test_a_stream_that_breaks_is_paid_in_full(client: Client, name: str) -> None:
    client.stack.groq.behave(Behaviour(cut_after=3, times=1))
    found = seen(client, "media", last(name), ROWS[name].call, "APIConnectionError")
    assert found.settlement is not None
    assert found.settlement["outcome"] == "abandoned"
    assert found.settlement["amounts"] == found.decision["estimate"]["at_most"]


@pytest.mark.parametrize("name", [name for name in ROWS if name.startswith(("chat", "responses", "embeddings"))])
def test_no_usage_leaves_the_estimate(client: Client, name: str) -> None:
    client.stack.groq.behave(Behaviour(report_usage=False, times=1))
    found = seen(client, "media", last(name), ROWS[name].call)
    assert found.settlement is not None
    assert found.settlement["outcome"] == "answered"
    assert found.settlement["amounts"] == found.decision["estimate"]["at_most"]


def test_audio_settles_on_the_upload_whatever_the_answer_says(client: Client) -> None:
    said = {"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2, "type": "duration", "seconds": 1}}
    client.stack.groq.behave(Behaviour(more=said, times=1))
    found = seen(client, "media", "openai", ROWS["transcriptions"].call)
    assert found.settlement is not None
    assert found.settlement["amounts"]["audio_seconds"] == 13
    assert found.settlement["amounts"]["spend"] == up(13 * 111_000_000, 3600)


def test_seconds_of_audio_fill_their_own_window(client: Client) -> None:
    found = seen(client, "media-brief", "groq", ROWS["transcriptions"].call)
    assert found.settlement is not None
    assert found.settlement["amounts"]["audio_seconds"] == 13
    refused = seen(client, "media-brief", "groq", ROWS["translations"].call, "RateLimitError")
    assert (refused.decision["quota"], refused.forwarded) == ("heard", 0)
    assert seen(client, "media-brief", "groq", ROWS["speech"].call).forwarded == 1, "it is not heard, it is spoken"


def test_cached_tokens_have_their_own_price(client: Client) -> None:
    for name in ("chat", "chat stream", "responses", "responses stream"):
        client.stack.groq.behave(Behaviour(usage=Usage(40, 20, 30), times=1))
        found = seen(client, "media", last(name), ROWS[name].call)
        assert found.settlement is not None
        assert found.settlement["amounts"]["spend"] == up(10 * 75_000 + 30 * 37_500 + 20 * 300_000, 1000)
        assert found.settlement["amounts"]["tokens"] == 30


# ---- large


@pytest.mark.parametrize("name", ["transcriptions", "translations"])
def test_a_large_upload_is_taken_and_a_larger_one_is_413(client: Client, name: str) -> None:
    mib = 1024 * 1024
    sound = wav(297, rate=44_100)  # 25 MiB less a little
    assert 24.9 * mib < len(sound) < 25 * mib

    def call(file: bytes) -> Call:
        return lambda sdk: getattr(sdk.audio, name).create(model=WHISPER, file=("a.wav", file))

    found = seen(client, "media", "groq", call(sound))
    assert found.settlement is not None
    assert found.settlement["amounts"]["audio_seconds"] == 297
    before = len(client.stack.groq.received())
    for file in (sound + bytes(25 * mib - len(sound) + 1), bytes(26 * mib)):  # one that our reader refuses, one that Envoy does
        with client.sdk("media") as sdk, pytest.raises(groq.APIStatusError) as caught:
            call(file)(sdk)
        assert (caught.value.status_code, caught.value.body["error"]["code"]) == (413, "request_too_large")  # type: ignore[index]
    assert len(client.stack.groq.received()) == before


# ---- what costs nothing, and what is not here


def test_models_are_those_that_the_caller_may_use(client: Client) -> None:
    before = len(client.stack.groq.received())
    names = set(yaml.safe_load((client.stack.folder / "policies/models.yaml").read_text())["models"])
    with as_openai(client, "media") as sdk:
        assert {model.id for model in sdk.models.list()} == names
    with client.sdk("chatbot-prod") as groq_sdk:
        listed = groq_sdk.models.list().data
        assert {model.id for model in listed} == {"llama-3.3-70b-versatile", "llama-3.1-8b-instant"}
        assert groq_sdk.models.retrieve("llama-3.1-8b-instant").id == "llama-3.1-8b-instant"
        with pytest.raises(groq.PermissionDeniedError):
            groq_sdk.models.retrieve("whisper-large-v3")
        with pytest.raises(groq.NotFoundError):
            groq_sdk.models.retrieve("nothing")
        with pytest.raises(groq.BadRequestError, match="decommissioned"):
            groq_sdk.models.retrieve("gemma2-9b-it")
    answer = httpx.get(f"{client.stack.url}{PREFIX}/models/{CHAT}", headers=client.headers("media"))
    assert (answer.status_code, answer.json()["id"]) == (200, CHAT)
    assert httpx.get(f"{client.stack.url}{PREFIX}/models").status_code == 401
    assert len(client.stack.groq.received()) == before
    assert all(line["reservation_id"] == "" for line in client.stack.lines() if line.get("action") == "list_models")


def test_without_a_price_for_batches_nobody_makes_one(client: Client) -> None:
    body = {"model": CHAT, "messages": MESSAGES}
    line = json.dumps({"custom_id": "a", "method": "POST", "url": "/v1/chat/completions", "body": body}).encode()
    found = seen(
        client, "media", "groq", lambda sdk: sdk.files.create(file=("b.jsonl", line), purpose="batch"), "PermissionDeniedError"
    )
    assert (found.decision["reason"], found.forwarded) == ("model_not_priced", 0)
