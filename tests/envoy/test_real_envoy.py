"""The promises that only the real Envoy can keep: our bootstrap, our wire code, a sidecar of the test's and the stand-in."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from authz.model import Decision, Outcome, Request, Usage
from authz.reasons import Reason
from demo.answers import RATE_HEADERS, Behaviour
from demo.answers import Usage as Reported
from demo.standin import Received, StandIn
from tests.envoy.front import BODY, CHAT, MAX_BODY_BYTES, STREAM, Front, front
from tests.envoy.sidecar import CLIENT_KEY, RESERVATION_HEADER, UPSTREAM_KEY, Sidecar, allow, deny

pytestmark = pytest.mark.xdist_group("real-envoy")  # one Envoy for the whole file


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Front]:
    with front(tmp_path_factory.mktemp("e")) as made:
        yield made


@pytest.fixture
def it(shared: Front) -> Iterator[Front]:
    yield shared
    shared.groq.behave()
    shared.sidecar.decide = shared.sidecar.decide_by_key


def last(groq: StandIn) -> Received:
    return groq.received()[-1]


def reservation(response: httpx.Response) -> str:
    return response.headers[RESERVATION_HEADER]


def usage_of(groq: StandIn) -> Usage:
    said = last(groq).usage
    assert said is not None
    return Usage(said.prompt_tokens, said.completion_tokens, said.cached_tokens)


def error_of(response: httpx.Response) -> dict[str, Any]:
    """The error of an answer, which has to be in Groq's format and say so."""
    assert response.headers["content-type"] == "application/json"
    answer = response.json()
    assert answer.keys() == {"error"}
    assert answer["error"].keys() >= {"message", "type", "code"}
    error: dict[str, Any] = answer["error"]
    return error


# ---- what goes forward


def test_an_allow_swaps_the_key(it: Front) -> None:
    strange = {"x-api-key": CLIENT_KEY, "api-key": CLIENT_KEY, "cookie": f"k={CLIENT_KEY}", "proxy-authorization": CLIENT_KEY}
    response = it.chat(headers=strange)
    assert response.status_code == 200
    assert last(it.groq).header("authorization") == (f"Bearer {UPSTREAM_KEY}",)
    assert CLIENT_KEY not in str(last(it.groq).headers)
    assert UPSTREAM_KEY not in str(response.headers) + response.text


def test_what_the_client_sends_of_ours_is_stripped_before_we_look(it: Front) -> None:
    forged = {
        "x-authz-subject": "admin",
        "x-envoy-auth-partial-body": "true",
        "x-envoy-max-retries": "9",
        "x-envoy-original-path": "/x",
        "x-user-id": "admin",
        "x-http-method-override": "DELETE",
        "x-request-id": "forged",
        "accept-encoding": "gzip",
        "x-forwarded-for": "203.0.113.9",
    }
    assert it.chat(headers=forged).status_code == 200
    check = it.sidecar.checks[-1]
    names = {name for name, _ in check.headers}
    assert names.isdisjoint(forged.keys() - {"x-envoy-auth-partial-body", "x-request-id", "x-forwarded-for"})
    assert check.header("x-envoy-auth-partial-body") == ("false",)
    assert check.request_id not in ("", "forged")
    assert check.source_ip == "127.0.0.1"
    sent = {name for name, _ in last(it.groq).headers}
    assert not {name for name in sent if name.startswith(("x-envoy-", "x-authz-", "x-forwarded-"))}
    assert sent.isdisjoint({"x-user-id", "x-http-method-override", "accept-encoding"})


def test_the_check_sees_the_request(it: Front) -> None:
    it.client.post(f"{CHAT}?a=b", content=b'{"model":"\xff"}', headers=[("x-twice", "1"), ("x-twice", "2")])
    check = it.sidecar.checks[-1]
    assert (check.method, check.path, check.body) == ("POST", f"{CHAT}?a=b", b'{"model":"\xff"}')
    assert check.header("x-twice") == ("1", "2")
    it.client.get("/openai/v1/models")
    assert (it.sidecar.checks[-1].method, it.sidecar.checks[-1].body) == ("GET", b"")


def test_a_chunked_body_arrives_whole(it: Front) -> None:
    pieces = [b'{"model":"m",', b'"messages":[]}']
    assert it.client.post(CHAT, content=iter(pieces)).status_code == 200
    assert it.sidecar.checks[-1].body == b"".join(pieces)


# ---- what comes back to the client


def test_our_limit_headers_replace_groqs(it: Front) -> None:
    ours = (("x-ratelimit-limit-requests", "7"), ("x-ratelimit-remaining-tokens", "8"))
    it.sidecar.decide = lambda _: allow("rsv-headers", ours)
    headers = it.chat().headers
    assert {name: headers.get_list(name) for name in RATE_HEADERS if name in headers} == {k: [v] for k, v in ours}


def test_a_denial_passes_with_its_body_and_headers(it: Front) -> None:
    for reason in (Reason.RATE_LIMIT_EXCEEDED, Reason.REQUEST_TOO_LARGE, Reason.SPEND_CAP_REACHED, Reason.STORE_UNAVAILABLE):
        decision = deny(reason, (("retry-after", "7"), ("x-ratelimit-limit-requests", "5")))
        it.sidecar.decide = lambda _, decision=decision: decision  # type: ignore[misc]  # bound now, not when called
        before = len(it.groq.received())
        response = it.chat()
        assert response.status_code == decision.status
        assert error_of(response) == {"message": decision.message, "type": decision.type, "code": reason.value}
        assert (response.headers["retry-after"], response.headers["x-ratelimit-limit-requests"]) == ("7", "5")
        assert len(it.groq.received()) == before


def test_two_credentials_are_seen_as_two(it: Front) -> None:
    twice = [("authorization", f"Bearer {CLIENT_KEY}"), ("authorization", f"Bearer {CLIENT_KEY}")]
    with httpx.Client(base_url=it.envoy.url, trust_env=False) as client:
        response = client.post(CHAT, json=BODY, headers=twice)
    assert (response.status_code, error_of(response)["code"]) == (401, "invalid_api_key")
    # Envoy joins this header even when it passes raw ones: the comma is what tells two from one.
    assert it.sidecar.checks[-1].header("authorization") == (f"Bearer {CLIENT_KEY},Bearer {CLIENT_KEY}",)


def test_a_header_with_other_bytes_than_utf8_is_denied(it: Front) -> None:
    status, answer = it.raw(b"GET /openai/v1/models HTTP/1.1", b"X-Any: \xff\xfe")
    assert status == 400
    assert b'"code":"invalid_request_error"' in answer


def test_a_line_break_in_our_answer_does_not_split_it(it: Front) -> None:
    it.sidecar.decide = lambda _: allow("rsv-split", (("x-note", "a\r\nx-evil: 1"),))
    response = it.chat()
    assert response.status_code == 503
    assert error_of(response)["code"] == "authz_unavailable"
    assert "x-evil" not in response.headers


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_above_the_buffer_is_413(it: Front, chunked: bool) -> None:
    before = len(it.sidecar.checks)
    body = b"x" * (MAX_BODY_BYTES + 1)
    response = it.client.post(CHAT, content=iter([body[:1000], body[1000:]]) if chunked else body)
    assert (response.status_code, error_of(response)["code"]) == (413, "request_too_large")
    assert len(it.sidecar.checks) == before


@pytest.mark.parametrize("path", ["/", "/openai/v2/models", "/openai/v1", "/v1/chat/completions", "/healthz"])
def test_an_unknown_path_is_404_without_a_check(it: Front, path: str) -> None:
    before = len(it.sidecar.checks)
    response = it.client.get(path)
    assert (response.status_code, error_of(response)["code"]) == (404, "unknown_url")
    assert len(it.sidecar.checks) == before


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ((b"GET /openai/v1/../../x HTTP/1.1",), 404),
        ((b"GET /public/..%2fopenai/v1/models HTTP/1.1",), 400),
        ((b"GET /openai/v1/%2e%2e%2fx HTTP/1.1",), 400),
        ((b"GET /openai/v1/a%5cb HTTP/1.1",), 400),
        ((b"GET /openai/v1/models#x HTTP/1.1",), 400),
        ((b"GET /openai/v1/m\xff HTTP/1.1",), 400),
        ((b"CONNECT api.groq.com:443 HTTP/1.1",), 404),
        ((b"GET /openai/v1/models HTTP/1.1", b"Upgrade: websocket", b"Connection: upgrade"), 403),
        ((b"GET /openai/v1/models HTTP/1.1", b"x_authz_subject: a"), 400),
        ((b"POST /openai/v1/models HTTP/1.1", b"Content-Length: 3", b"Transfer-Encoding: chunked"), 400),
        ((b"nonsense",), 400),
    ],
)
def test_tricks_end_at_envoy_in_groqs_format(it: Front, lines: tuple[bytes, ...], expected: int) -> None:
    checks, received = len(it.sidecar.checks), len(it.groq.received())
    status, answer = it.raw(*lines)
    assert status == expected
    assert b'{"error":{' in answer
    assert (len(it.sidecar.checks), len(it.groq.received())) == (checks, received)


@pytest.mark.parametrize("path", [b"/openai/v1/../v1/models", b"//openai//v1/models", b"/openai/v1/./models"])
def test_a_path_is_checked_as_it_is_forwarded(it: Front, path: bytes) -> None:
    assert it.raw(b"GET " + path + b" HTTP/1.1")[0] == 200
    assert it.sidecar.checks[-1].path == last(it.groq).path == "/openai/v1/models"


# ---- what comes back to us


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(BODY, id="plain"),
        pytest.param(STREAM, id="x_groq in the last chunk"),
        pytest.param({**STREAM, "stream_options": {"include_usage": True}}, id="both"),
    ],
)
@pytest.mark.parametrize("cached", [0, 3])
def test_usage_comes_back_once(it: Front, body: dict[str, Any], cached: int) -> None:
    it.groq.behave(Behaviour(usage=Reported(41, 17, cached)) if cached else Behaviour())
    receipt = it.sidecar.receipt(reservation(it.chat(body)))
    assert (receipt.outcome, receipt.status, receipt.usage) == (Outcome.ANSWERED, 200, usage_of(it.groq))
    assert receipt.request_id == it.sidecar.checks[-1].request_id
    assert len([one for one in it.sidecar.receipts() if one.reservation_id == receipt.reservation_id]) == 1


@pytest.mark.parametrize("body", [BODY, STREAM])
@pytest.mark.parametrize(
    "behaviour", [Behaviour(report_usage=False), Behaviour(usage=Reported(0, 0)), Behaviour(usage=Reported(-1, 2**40))]
)
def test_usage_that_is_missing_or_absurd_is_none(it: Front, body: dict[str, Any], behaviour: Behaviour) -> None:
    it.groq.behave(behaviour)
    receipt = it.sidecar.receipt(reservation(it.chat(body)))
    assert (receipt.outcome, receipt.usage) == (Outcome.ANSWERED, None)


def test_usage_in_the_models_words_is_text(it: Front) -> None:
    words = 'said: {"usage":{"prompt_tokens":1,"completion_tokens":1}}\n\ndata: {"usage":{"prompt_tokens":1}}'
    for body in (BODY, STREAM):
        response = it.chat({**body, "messages": [{"role": "user", "content": words}], "model": words})
        assert it.sidecar.receipt(reservation(response)).usage == usage_of(it.groq)


@pytest.mark.parametrize("status", [400, 429, 500, 503])
@pytest.mark.parametrize("body", [BODY, STREAM])
def test_an_upstream_error_owes_nothing(it: Front, body: dict[str, Any], status: int) -> None:
    it.groq.behave(Behaviour(status=status))
    response = it.chat(body)
    assert response.status_code == status
    assert error_of(response)["message"]
    receipt = it.sidecar.receipt(reservation(response))
    assert (receipt.outcome, receipt.status, receipt.usage) == (Outcome.UPSTREAM_ERROR, status, None)


@pytest.mark.parametrize("body", [BODY, STREAM])
def test_an_answer_that_breaks_off_is_abandoned(it: Front, body: dict[str, Any]) -> None:
    it.groq.behave(Behaviour(cut_after=2))
    with it.client.stream("POST", CHAT, json=body) as response, pytest.raises(httpx.RemoteProtocolError):
        response.read()
    receipt = it.sidecar.receipt(reservation(response))
    assert (receipt.outcome, receipt.status, receipt.usage) == (Outcome.ABANDONED, 200, None)


def test_a_client_that_leaves_amid_a_stream_is_abandoned(it: Front) -> None:
    it.groq.behave(Behaviour(chunk_delay_s=0.05))
    with it.client.stream("POST", CHAT, json=STREAM) as response:
        next(response.iter_lines())
    receipt = it.sidecar.receipt(reservation(response))
    assert (receipt.outcome, receipt.status, receipt.usage) == (Outcome.ABANDONED, 200, None)


def test_a_client_that_leaves_before_the_answer_is_abandoned(it: Front) -> None:
    it.groq.behave(Behaviour(hang=True))
    it.sidecar.decide = lambda _: allow("rsv-impatient")
    with pytest.raises(httpx.ReadTimeout):
        it.chat(timeout=0.2)
    receipt = it.sidecar.receipt("rsv-impatient")
    assert (receipt.outcome, receipt.status, receipt.usage) == (Outcome.ABANDONED, 0, None)


def test_a_client_that_leaves_during_the_check_is_found_by_its_request_id(it: Front) -> None:
    release = threading.Event()

    def slow(request: Request) -> Decision:
        release.wait(5)
        return it.sidecar.decide_by_key(request)

    it.sidecar.decide = slow
    with pytest.raises(httpx.ReadTimeout):
        it.chat(timeout=0.1)
    request_id = it.sidecar.checks[-1].request_id
    receipt = it.sidecar.wait_for(lambda one: one.request_id == request_id)
    release.set()
    assert (receipt.outcome, receipt.reservation_id) == (Outcome.NOT_SENT, "")


def test_a_check_that_takes_too_long_is_503_within_a_second(it: Front) -> None:
    release = threading.Event()

    def slow(request: Request) -> Decision:
        release.wait(5)
        return it.sidecar.decide_by_key(request)

    it.sidecar.decide = slow
    before, started = len(it.groq.received()), time.monotonic()
    response = it.chat()
    assert time.monotonic() - started < 1.0
    release.set()
    assert (response.status_code, error_of(response)["code"]) == (503, "authz_unavailable")
    assert response.headers["retry-after"] == "1"
    assert len(it.groq.received()) == before
    request_id = it.sidecar.checks[-1].request_id
    assert it.sidecar.wait_for(lambda one: one.request_id == request_id).outcome is Outcome.NOT_SENT


def test_a_check_that_errs_is_503(it: Front) -> None:
    def broken(_: Request) -> Decision:
        raise ZeroDivisionError

    it.sidecar.decide = broken
    before = len(it.groq.received())
    response = it.chat()
    assert (response.status_code, error_of(response)["code"]) == (503, "authz_unavailable")
    assert len(it.groq.received()) == before


def test_a_forged_request_id_reaches_no_receipt(it: Front) -> None:
    """Refused before a route is found, a request still has the id that the client gave it: it must settle nothing."""
    for line in (b"GET /openai/v1/a%2fb HTTP/1.1", b"GET /nothing HTTP/1.1", b"CONNECT a:1 HTTP/1.1"):
        it.raw(line, b"X-Request-Id: forged")
    it.sidecar.receipt(reservation(it.chat()))  # entries keep their order: those before would be here by now
    assert "forged" not in {one.request_id for one in it.sidecar.receipts()}
    assert all(one.reservation_id or one.outcome is Outcome.NOT_SENT for one in it.sidecar.receipts())


def test_the_access_log_for_people_holds_no_secret(it: Front) -> None:
    it.sidecar.receipt(reservation(it.client.get(f"/openai/v1/models?key={CLIENT_KEY}")))
    log = it.envoy.folder / "access.log"
    deadline = time.monotonic() + 5
    while '"path":"/openai/v1/models"' not in (text := log.read_text(encoding="utf-8")):
        assert time.monotonic() < deadline, "envoy did not write its log"
        threading.Event().wait(0.05)
    assert CLIENT_KEY not in text
    assert UPSTREAM_KEY not in text


# ---- what is down


def test_an_upstream_that_is_not_there_is_not_sent(tmp_path: Path) -> None:
    with front(tmp_path) as it:
        it.groq.stop()
        response = it.chat()
        assert (response.status_code, error_of(response)["code"]) == (503, "upstream_unavailable")
        receipt = it.sidecar.receipt(reservation(response))
        assert (receipt.outcome, receipt.status, receipt.usage) == (Outcome.NOT_SENT, 503, None)


def test_a_sidecar_that_is_down_is_503_at_once_and_its_receipts_wait(tmp_path: Path) -> None:
    with front(tmp_path) as it:
        it.groq.behave(Behaviour(chunk_delay_s=0.06))  # longer than a dead sidecar goes unnoticed
        with it.client.stream("POST", CHAT, json=STREAM) as under_way:
            it.sidecar.stop()
            started = time.monotonic()
            response = it.chat()
            assert time.monotonic() - started < 1.0
            assert (response.status_code, error_of(response)["code"]) == (503, "authz_unavailable")
            until_seen_down(it)
            under_way.read()
        with Sidecar(it.sidecar.socket) as successor:
            receipt = successor.wait_for(lambda one: one.reservation_id == reservation(under_way), deadline_s=10)
            assert (receipt.outcome, receipt.usage) == (Outcome.ANSWERED, usage_of(it.groq))


def test_one_of_two_sidecars_is_enough(tmp_path: Path) -> None:
    with front(tmp_path, more_sockets=(str(tmp_path / "nobody.sock"),)) as it:
        assert {it.chat().status_code for _ in range(20)} == {200}


def until_seen_down(it: Front) -> None:
    deadline = time.monotonic() + 10
    while any(it.envoy.stats(r"^cluster\.sidecar(-log)?\.membership_healthy$").values()):
        assert time.monotonic() < deadline, "envoy did not see that the sidecar is down"
        threading.Event().wait(0.02)
