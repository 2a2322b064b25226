"""Every endpoint through the real Envoy: what a Check carries of a large upload, what usage comes back."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from authz.envoy.bootstrap import EnvoyOptions
from authz.model import Meter, Outcome, Reply, Usage
from authz.reasons import Reason
from demo.answers import RATE_HEADERS, Behaviour
from demo.answers import Usage as Reported
from tests.envoy.front import CHAT, MAX_BODY_BYTES, MAX_UPLOAD_BYTES, Front, front
from tests.envoy.sidecar import RECORD, RESERVATION_HEADER, allow, deny
from tests.inference.sounds import wav

pytestmark = pytest.mark.xdist_group("real-envoy-endpoints")  # one Envoy for the whole file

AUDIO = "/openai/v1/audio"
MIB = 1024 * 1024
RESPONSES: dict[str, Any] = {"model": "openai/gpt-oss-20b", "input": "hello"}
EMBEDDINGS: dict[str, Any] = {"model": "embedder", "input": ["hello", "world"]}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with front(tmp_path_factory.mktemp("e")) as made:
        yield made


@pytest.fixture
def it(shared: Front) -> Iterator[Front]:
    yield shared
    shared.groq.behave()


def upload(it: Front, content: bytes, path: str = f"{AUDIO}/transcriptions") -> httpx.Response:
    return it.client.post(path, files={"file": ("a.wav", content)}, data={"model": "whisper-large-v3"})


def usage(it: Front, response: httpx.Response) -> Usage | None:
    receipt = it.sidecar.receipt(response.headers[RESERVATION_HEADER])
    assert receipt.outcome is Outcome.ANSWERED
    return receipt.usage


# ---- how much is read


def test_the_default_takes_groqs_largest_file_and_its_form() -> None:
    default = EnvoyOptions(listen="127.0.0.1:0", admin_socket="a", sidecar_sockets=("s",))
    assert default.max_upload_bytes == MAX_UPLOAD_BYTES


@pytest.mark.parametrize("path", [f"{AUDIO}/transcriptions", f"{AUDIO}/translations"])
def test_an_upload_of_25_mib_arrives_whole(it: Front, path: str) -> None:
    sound = wav(1, rate=44_100)
    sound += bytes(25 * MIB - len(sound))
    assert upload(it, sound, path).status_code == 200
    body = it.sidecar.checks[-1].body
    assert body is not None
    assert sound in body
    assert it.groq.received()[-1].body == body


@pytest.mark.parametrize("path", [f"{AUDIO}/transcriptions", f"{AUDIO}/translations", "/openai/v1/files"])
def test_a6_a_larger_one_is_413_in_groqs_format(it: Front, path: str) -> None:
    checks, received = len(it.sidecar.checks), len(it.groq.received())
    response = upload(it, bytes(MAX_UPLOAD_BYTES), path)
    assert (response.status_code, response.headers["content-type"]) == (413, "application/json")
    assert response.json()["error"]["code"] == "request_too_large"
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert (len(it.sidecar.checks), len(it.groq.received())) == (checks, received)


@pytest.mark.parametrize(
    "path",
    [CHAT, "/openai/v1/responses", "/openai/v1/embeddings", f"{AUDIO}/speech", "/openai/v1/files/x", f"{AUDIO}/transcriptions/",
     f"{AUDIO}/transcriptions?x=1/../../chat"],
)  # fmt: skip
def test_json_stays_small(it: Front, path: str) -> None:
    checks = len(it.sidecar.checks)
    response = it.client.post(path, content=bytes(MAX_BODY_BYTES + 1))
    if "?" in path:  # the path itself is that of an upload: read whole, and refused by the table of endpoints
        assert it.sidecar.checks[-1].path == path
        return
    assert response.status_code == 413
    assert len(it.sidecar.checks) == checks


# ---- what comes back


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("cached", [0, 40])
def test_usage_of_the_responses_api(it: Front, stream: bool, cached: int) -> None:
    it.groq.behave(Behaviour(usage=Reported(100, 20, cached)))
    response = it.client.post("/openai/v1/responses", json={**RESPONSES, "stream": stream})
    assert usage(it, response) == Usage(100, 20, cached)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "behaviour", [Behaviour(report_usage=False), Behaviour(usage=Reported()), Behaviour(usage=Reported(-1, 2**40))]
)
def test_a70_usage_of_a_response_that_is_missing_or_absurd_is_none(it: Front, stream: bool, behaviour: Behaviour) -> None:
    it.groq.behave(behaviour)
    assert usage(it, it.client.post("/openai/v1/responses", json={**RESPONSES, "stream": stream})) is None


def test_usage_of_embeddings_is_their_input(it: Front) -> None:
    it.groq.behave(Behaviour(usage=Reported(100)))
    assert usage(it, it.client.post("/openai/v1/embeddings", json=EMBEDDINGS)) == Usage(100, 0)
    it.groq.behave(Behaviour(report_usage=False))
    assert usage(it, it.client.post("/openai/v1/embeddings", json=EMBEDDINGS)) is None


def test_audio_and_speech_report_nothing(it: Front) -> None:
    assert usage(it, upload(it, wav(2))) is None
    assert usage(it, it.client.post(f"{AUDIO}/speech", json={"model": "m", "input": "hello", "voice": "v"})) is None


FORGED = (
    '"usage":{"prompt_tokens":1,"completion_tokens":1} data: {"x_groq":{"usage":{"prompt_tokens":1,"completion_tokens":1}}}'
)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("path", "fields"), [("/openai/v1/responses", RESPONSES), (CHAT, {"model": "m", "messages": []})])
def test_a71_usage_in_the_models_words_is_text(it: Front, path: str, fields: dict[str, Any], stream: bool) -> None:
    it.groq.behave(Behaviour(content=FORGED, usage=Reported(100, 20)))
    assert usage(it, it.client.post(path, json={**fields, "stream": stream})) == Usage(100, 20)


def test_a_stream_that_ends_early_with_an_error_of_groqs_has_no_count(it: Front) -> None:
    it.groq.behave(Behaviour(more={"x_groq": {"id": "req_1", "error": "over capacity"}}))
    assert usage(it, it.client.post(CHAT, json={"model": "m", "messages": [], "stream": True})) is None


def test_a_breakdown_by_models_does_not_take_the_place_of_the_whole(it: Front) -> None:
    part = {"model": "m", "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}
    for stream in (False, True):
        it.groq.behave(Behaviour(usage=Reported(100, 20), more={"usage_breakdown": {"models": [part]}}))
        response = it.client.post(CHAT, json={"model": "m", "messages": [], "stream": stream})
        assert usage(it, response) == Usage(100, 20)


# ---- what the upstream says of its own limits


CALLS: dict[str, tuple[str, dict[str, Any]]] = {
    "chat": (CHAT, {"json": {"model": "m", "messages": []}}),
    "stream": (CHAT, {"json": {"model": "m", "messages": [], "stream": True}}),
    "upload": (f"{AUDIO}/transcriptions", {"files": {"file": ("a.wav", wav(1))}, "data": {"model": "m"}}),
    "translation": (f"{AUDIO}/translations", {"files": {"file": ("a.wav", wav(1))}, "data": {"model": "m"}}),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("status", [200, 429, 500])
def test_groqs_limits_come_with_the_log_and_never_to_the_client(it: Front, name: str, status: int) -> None:
    path, options = CALLS[name]
    it.groq.behave(Behaviour(status=status))
    response = it.client.post(path, **options)
    assert response.status_code == status
    assert not [key for key in response.headers if "ratelimit" in key or "x-authz" in key]
    requests, tokens = it.sidecar.receipt(response.headers[RESERVATION_HEADER]).limits
    assert (requests.meter, requests.limit, requests.remaining) == (Meter.REQUESTS, 14400, 14370)
    assert (tokens.meter, tokens.limit, tokens.remaining) == (Meter.TOKENS, 3_000_000, 2_999_683)
    assert (requests.reset_ns, tokens.reset_ns) == (179_560_000_000, 7_660_000_000)
    assert abs(requests.at_ns - time.time_ns()) < 60 * 10**9


def test_ours_stay_beside_them(it: Front) -> None:
    ours = {"x-ratelimit-limit-requests": "7", "x-ratelimit-remaining-tokens": "8"}
    it.sidecar.decide = lambda _: allow("rsv-both", tuple(ours.items()))
    try:
        response = it.client.post(CHAT, json={"model": "m", "messages": []})
    finally:
        it.sidecar.decide = it.sidecar.decide_by_key
    assert {name: response.headers[name] for name in RATE_HEADERS if name in response.headers} == ours
    assert [limit.limit for limit in it.sidecar.receipt("rsv-both").limits] == [14400, 3_000_000]


def test_a_client_cannot_tell_us_of_limits(it: Front) -> None:
    headers = dict.fromkeys(RATE_HEADERS, "1")
    headers |= {f"x-authz-upstream-{name.removeprefix('x-ratelimit-')}": "1" for name in RATE_HEADERS}
    response = it.client.post(CHAT, json={"model": "m", "messages": []}, headers=headers)
    assert [limit.limit for limit in it.sidecar.receipt(response.headers[RESERVATION_HEADER]).limits] == [14400, 3_000_000]
    it.sidecar.decide = lambda _: deny(Reason.RATE_LIMIT_EXCEEDED, (("x-ratelimit-limit-requests", "5"),))
    try:
        assert it.client.post(CHAT, json={}, headers=headers).headers["x-ratelimit-limit-requests"] == "5"
    finally:
        it.sidecar.decide = it.sidecar.decide_by_key


# ---- what is answered without the upstream


def test_a_reply_is_the_answer_and_nothing_is_forwarded_or_settled(it: Front) -> None:
    received = len(it.groq.received())
    body = b'{"object":"list","data":[]}'
    it.sidecar.decide = lambda _: Reply(body, (("x-authz-test", "1"),), RECORD)
    try:
        response = it.client.get("/openai/v1/models")
        marker = it.client.get("/openai/v1/models")
    finally:
        it.sidecar.decide = it.sidecar.decide_by_key
    assert (response.status_code, response.content, response.headers["content-type"]) == (200, body, "application/json")
    assert response.headers["x-authz-test"] == marker.headers["x-authz-test"] == "1"
    assert len(it.groq.received()) == received
    request_ids = {check.request_id for check in it.sidecar.checks[-2:]}
    it.sidecar.receipt(it.client.post("/openai/v1/embeddings", json=EMBEDDINGS).headers[RESERVATION_HEADER])
    assert request_ids.isdisjoint({receipt.request_id for receipt in it.sidecar.receipts()})
