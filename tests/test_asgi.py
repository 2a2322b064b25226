"""The middleware before a gateway of the test's: what it passes on, what it answers itself, and how each request ends."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from authz import AsyncAuthorizer, AuthorizedApp, Usage
from authz.asgi import App, Message, Receive, Scope, Send
from authz.model import DecisionRecord, Outcome, SettlementRecord
from authz.reasons import Reason
from tests.library import Library, library
from tests.place import UPSTREAM_KEY

PATH: Final = b"/openai/v1/chat/completions"
BODY: Final = json.dumps({"model": "llama-3.1-8b-instant", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 16})
COUNT: Final = {"usage": {"prompt_tokens": 9, "completion_tokens": 16, "total_tokens": 25}}


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Library]:
    with library(tmp_path_factory.mktemp("asgi")) as place:
        yield place


@pytest.fixture
def place(shared: Library) -> Library:
    shared.records()
    shared.time.pass_s(120)
    return shared


def answering(status: int, body: bytes, content_type: str = "application/json", **headers: str) -> App:
    """An application that reads its request and gives this."""

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen.append((dict(scope), await read(receive)))
        said = [(b"content-type", content_type.encode()), *((name.encode(), value.encode()) for name, value in headers.items())]
        await send({"type": "http.response.start", "status": status, "headers": said})
        await send({"type": "http.response.body", "body": body[:10], "more_body": True})
        await send({"type": "http.response.body", "body": body[10:]})

    seen: list[tuple[dict[str, Any], bytes]] = []
    app.seen = seen  # type: ignore[attr-defined]
    return app


async def read(receive: Receive) -> bytes:
    pieces = b""
    while True:
        message: Any = await receive()
        body: bytes = message.get("body", b"")
        pieces += body
        if not message.get("more_body"):
            return pieces


class Answer:
    def __init__(self) -> None:
        self.status, self.body = 0, b""
        self.headers: dict[str, str] = {}

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status, self.headers = message["status"], {name.decode(): value.decode() for name, value in message["headers"]}
        else:
            self.body += message.get("body", b"")


def ask(
    place: Library,
    app: App,
    *,
    key: str = "",
    body: bytes = BODY.encode(),
    method: str = "POST",
    path: bytes = PATH,
    kind: bytes = b"application/json",
    headers: tuple[tuple[bytes, bytes], ...] = (),
    leaves_after: int | None = None,
    **limits: Any,
) -> Answer:
    """One request, its body in pieces. leaves_after  so many pieces of the body the client is gone"""
    answer = Answer()
    pieces: list[dict[str, Any]] = [
        {"type": "http.request", "body": body[at : at + 50_000], "more_body": at + 50_000 < len(body)}
        for at in range(0, max(1, len(body)), 50_000)
    ][:leaves_after]

    async def receive() -> Message:
        return pieces.pop(0) if pieces else {"type": "http.disconnect"}

    async def go() -> None:
        threads = AsyncAuthorizer(place.authorizer)
        credential = [(b"authorization", f"Bearer {key}".encode())] if key else []
        scope = {
            "type": "http",
            "method": method,
            "path": path.decode(),
            "raw_path": path.partition(b"?")[0],
            "query_string": path.partition(b"?")[2],
            "headers": [*credential, (b"content-type", kind), *headers],
            "client": ("192.0.2.7", 1234),
        }
        try:
            await AuthorizedApp(app, threads, **limits)(scope, receive, answer.send)
        finally:
            threads.stop()

    asyncio.run(go())
    return answer


def test_an_allowed_request_is_passed_on_with_one_credential_and_settled(place: Library) -> None:
    app = answering(200, json.dumps(COUNT).encode(), **{"set-cookie": "theirs", "x-ratelimit-limit-requests": "14400"})
    key = place.issue("chatbot-prod")
    answer = ask(place, app, key=key, headers=((b"cookie", key.encode()), (b"accept-encoding", b"gzip"), (b"x-mine", b"1")))
    ((scope, body),) = app.seen  # type: ignore[attr-defined]
    assert body == BODY.encode()
    assert (b"authorization", f"Bearer {UPSTREAM_KEY}".encode()) in scope["headers"]
    assert (b"x-mine", b"1") in scope["headers"]
    assert (b"content-length", str(len(BODY)).encode()) in scope["headers"]
    assert key not in repr(scope["headers"])
    assert (answer.status, json.loads(answer.body)) == (200, COUNT)
    assert answer.headers["x-ratelimit-limit-requests"] == "500"
    assert "set-cookie" not in answer.headers
    decision, settlement = place.one()
    assert decision.source_ip == "192.0.2.7"
    assert (settlement.outcome, settlement.usage) == (Outcome.ANSWERED, Usage(9, 16))


STREAMED: Final = b'data: {"x_groq": ' + json.dumps(COUNT).encode() + b"}\n\n"


@pytest.mark.parametrize(
    ("status", "body", "kind", "outcome", "usage"),
    [
        (200, STREAMED + b"data: [DONE]\n\n", "text/event-stream; charset=utf-8", Outcome.ANSWERED, Usage(9, 16)),
        (200, b"RIFF", "audio/wav", Outcome.ANSWERED, None),
        (200, b"{}", "application/json", Outcome.ANSWERED, None),
        (302, b"", "text/plain", Outcome.UPSTREAM_ERROR, None),
        (400, b"{}", "application/json", Outcome.UPSTREAM_ERROR, None),
        (401, b"{}", "application/json", Outcome.UPSTREAM_ERROR, None),
        (502, b"", "text/plain", Outcome.ABANDONED, None),
        (504, b"", "text/plain", Outcome.ABANDONED, None),
    ],
)
def test_how_it_ends_is_read_from_the_answer(
    place: Library, status: int, body: bytes, kind: str, outcome: Outcome, usage: Usage | None
) -> None:
    ask(place, answering(status, body, kind), key=place.issue("chatbot-prod"))
    decision, settlement = place.one()
    assert (settlement.outcome, settlement.usage) == (outcome, usage)
    owed = decision.estimate.at_most if decision.estimate else {}
    if outcome is Outcome.UPSTREAM_ERROR:
        assert settlement.amounts == {}
    elif usage is None:
        assert settlement.amounts == owed


def test_a_401_of_the_application_is_no_proof_against_the_upstream_key(place: Library) -> None:
    ask(place, answering(401, b"{}"), key=place.issue("chatbot-prod"))
    state = place.engine.upstream_key("chatbot", place.time())
    assert state is not None
    slot = place.engine._upstreams._slots[0]
    assert slot.refused_until_ns <= place.time()


def test_what_the_application_says_counts(place: Library) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["authz"].settle(Usage(3, 4))
        await answering(200, json.dumps(COUNT).encode())(scope, receive, send)

    ask(place, app, key=place.issue("chatbot-prod"))
    assert place.one()[1].usage == Usage(3, 4)


@pytest.mark.parametrize("begins", [False, True])
def test_an_application_that_fails_pays_the_estimate_and_the_failure_passes(place: Library, begins: bool) -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        if begins:
            await send({"type": "http.response.start", "status": 200, "headers": []})
        raise LookupError("broken")

    key = place.issue("chatbot-prod")
    with pytest.raises(LookupError, match="broken"):
        ask(place, app, key=key)
    decision, settlement = place.one()
    assert decision.estimate is not None
    assert (settlement.outcome, settlement.amounts) == (Outcome.ABANDONED, decision.estimate.at_most)


DENIED: Final[dict[str, tuple[dict[str, Any], int, Reason]]] = {
    "no key": ({}, 401, Reason.INVALID_API_KEY),
    "a query": ({"path": PATH + b"?x=1"}, 404, Reason.UNKNOWN_URL),
    "another method": ({"method": "DELETE"}, 404, Reason.UNKNOWN_URL),
    "an encoded path": ({"path": b"/openai/v1/chat%2Fcompletions"}, 404, Reason.UNKNOWN_URL),
    "two keys": ({"headers": ((b"Authorization", b"Bearer x"),)}, 401, Reason.INVALID_API_KEY),
    "not UTF-8": ({"headers": ((b"x-y", b"\xff"),)}, 400, Reason.INVALID_REQUEST),
    "a body too large": ({"body": b"x" * 200_000, "max_body_bytes": 100_000}, 413, Reason.REQUEST_TOO_LARGE),
    "a length that is none": ({"headers": ((b"content-length", b"3"),)}, 400, Reason.INVALID_REQUEST),
    "an encoding": ({"headers": ((b"content-encoding", b"gzip"),)}, 415, Reason.UNSUPPORTED_MEDIA_TYPE),
}


@pytest.mark.parametrize("case", DENIED)
def test_a_denial_never_reaches_the_application(place: Library, case: str) -> None:
    fields, status, reason = DENIED[case]
    app = answering(200, b"{}")
    answer = ask(place, app, **({"key": "" if case == "no key" else place.issue("chatbot-prod")} | fields))
    assert (answer.status, json.loads(answer.body)["error"]["code"]) == (status, reason.value)
    assert answer.headers["content-type"] == "application/json"
    assert int(answer.headers["content-length"]) == len(answer.body)
    assert app.seen == []  # type: ignore[attr-defined]
    (record,) = place.records()
    assert isinstance(record, DecisionRecord)
    assert record.reason is reason


def test_an_upload_may_be_larger_than_a_text(place: Library) -> None:
    upload: dict[str, Any] = {"kind": b"multipart/form-data; boundary=x", "path": b"/openai/v1/audio/transcriptions"}
    read_whole = ask(place, answering(200, b""), body=b"x" * 2_000_000, key=place.issue("chatbot-prod"), **upload)
    assert read_whole.status == 400  # it is no form
    refused = ask(
        place, answering(200, b""), body=b"x" * 2_000, key=place.issue("chatbot-prod"), max_upload_bytes=100, **upload
    )
    assert refused.status == 413


def test_models_are_answered_without_the_application(place: Library) -> None:
    app = answering(200, b"{}")
    answer = ask(place, app, key=place.issue("chatbot-prod"), method="GET", path=b"/openai/v1/models", body=b"")
    assert answer.status == 200
    assert {row["id"] for row in json.loads(answer.body)["data"]} == {"llama-3.1-8b-instant", "llama-3.3-70b-versatile"}
    assert app.seen == []  # type: ignore[attr-defined]


def test_a_client_that_leaves_before_its_request_is_whole_is_nobody(place: Library) -> None:
    answer = ask(place, answering(200, b""), key=place.issue("chatbot-prod"), body=b"x" * 200_000, leaves_after=2)
    assert (answer.status, place.records()) == (0, [])


def test_a_client_that_leaves_mid_stream_pays_the_estimate(place: Library) -> None:
    """Servers cancel the application, or let it find out by itself; both end alike."""

    async def cancelled(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        raise asyncio.CancelledError

    async def returns(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/event-stream")]})
        await send({"type": "http.response.body", "body": b"data: {}\n\n", "more_body": True})
        await read(receive)
        assert (await receive())["type"] == "http.disconnect"

    with pytest.raises(asyncio.CancelledError):
        ask(place, cancelled, key=place.issue("chatbot-prod"))
    first = place.one()[1]
    ask(place, returns, key=place.issue("chatbot-prod"))
    assert {first.outcome, place.one()[1].outcome} == {Outcome.ABANDONED}


def test_other_protocols_are_denied_and_lifespan_passes(place: Library) -> None:
    async def act(kind: str) -> list[str]:
        said: list[str] = []
        passed: list[str] = []

        async def app(scope: Scope, receive: Receive, send: Send) -> None:
            passed.append(scope["type"])

        async def send(message: Message) -> None:
            said.append(message["type"])

        async def receive() -> Message:
            return {}

        threads = AsyncAuthorizer(place.authorizer)
        await AuthorizedApp(app, threads)({"type": kind}, receive, send)
        threads.stop()
        return said + passed

    assert asyncio.run(act("websocket")) == ["websocket.close"]
    assert asyncio.run(act("lifespan")) == ["lifespan"]
    with pytest.raises(ValueError, match="expected http"):
        asyncio.run(act("webtransport"))


def test_what_was_denied_has_no_settlement(place: Library) -> None:
    ask(place, answering(200, b""))
    assert not any(isinstance(record, SettlementRecord) for record in place.records())


def test_it_stands_in_a_stack_of_middleware(tmp_path: Path) -> None:
    """As Starlette takes it: a class, called with the application and the options."""
    import httpx
    from starlette.applications import Starlette
    from starlette.middleware import Middleware
    from starlette.requests import Request as Asked
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    async def chat(asked: Asked) -> JSONResponse:
        assert asked.headers["authorization"] == f"Bearer {UPSTREAM_KEY}"
        assert json.loads(await asked.body())["max_tokens"] == 16
        return JSONResponse(COUNT)

    with library(tmp_path) as place:
        key = place.issue("chatbot-prod")

        async def go() -> int:
            threads = AsyncAuthorizer(place.authorizer)
            app = Starlette(
                routes=[Route(PATH.decode(), chat, methods=["POST"])],
                middleware=[Middleware(AuthorizedApp, authorizer=threads)],
            )
            async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
                headers = {"authorization": f"Bearer {key}", "content-type": "application/json"}
                status = (await client.post(PATH.decode(), content=BODY, headers=headers)).status_code
            threads.stop()
            return status

        assert asyncio.run(go()) == 200
        assert place.one()[1].usage == Usage(9, 16)
