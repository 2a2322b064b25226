"""What the stand-in answers: Groq's shapes, headers and errors, with numbers that a test can compute beforehand.

To serve another endpoint, write a function from `Exchange` to `Answer` and name it in `ENDPOINTS`, here or in
`demo.more_answers`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, Final

import msgspec
from msgspec import Struct
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

ANSWER: Final = "the quick brown fox jumps over the lazy dog and then it rests under a tree for a while"
ANSWER_WORDS: Final = ANSWER.split()
MODELS: Final = ("openai/gpt-oss-120b", "openai/gpt-oss-20b", "qwen/qwen3.6-27b", "llama-3.1-8b-instant")
CREATED: Final = 1_790_000_000
RATE_HEADERS: Final[dict[str, str]] = {
    "x-ratelimit-limit-requests": "14400",
    "x-ratelimit-limit-tokens": "3000000",
    "x-ratelimit-remaining-requests": "14370",
    "x-ratelimit-remaining-tokens": "2999683",
    "x-ratelimit-reset-requests": "2m59.56s",
    "x-ratelimit-reset-tokens": "7.66s",
}
"""Groq's own, for the whole organisation: a client behind authz must never see these values."""


class Usage(Struct, frozen=True):
    """Tokens, in Groq's names, and what Groq counts without saying so. No bounds: a test may want it to report nonsense."""

    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    audio_seconds: int = 0
    characters: int = 0

    def as_groq(self) -> dict[str, Any]:
        return {
            "queue_time": 0.018,
            "prompt_tokens": self.prompt_tokens,
            "prompt_time": 0.002,
            "completion_tokens": self.completion_tokens,
            "completion_time": 0.05,
            "total_tokens": self.prompt_tokens + self.completion_tokens,
            "total_time": 0.052,
            "prompt_tokens_details": {"cached_tokens": self.cached_tokens},
        }

    def as_response(self) -> dict[str, Any]:
        return {
            "input_tokens": self.prompt_tokens,
            "input_tokens_details": {"cached_tokens": self.cached_tokens},
            "output_tokens": self.completion_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": self.prompt_tokens + self.completion_tokens,
        }

    def as_embedding(self) -> dict[str, Any]:
        return {"prompt_tokens": self.prompt_tokens, "total_tokens": self.prompt_tokens}


class Behaviour(Struct, frozen=True, forbid_unknown_fields=True):
    """How requests are answered.

    status         400 or more: answer with Groq's error for it
    usage          the numbers to report, in place of those computed from the request
    report_usage   False: no usage anywhere in the answer
    chunk_delay_s  pause before each chunk of a stream, in seconds
    cut_after      break the connection after so many chunks of a stream, or amid a plain answer
    hang           take the request and never answer
    content        what the model says, in place of the usual sentence
    more           merged into a plain answer, or into the last event of a stream
    times          how many requests this holds for; 0 for all that follow
    """

    status: int = 200
    usage: Usage | None = None
    report_usage: bool = True
    chunk_delay_s: float = 0.0
    cut_after: int | None = None
    hang: bool = False
    content: str = ""
    more: dict[str, Any] = {}
    times: int = 0


class Exchange(Struct, frozen=True):
    """One authenticated request, as an endpoint sees it.

    number        counts requests from 1: what ids are made of
    stopping      true once the stand-in shuts down: a slow answer ends then
    content_type  of the request
    rest          what the path holds beyond that of the endpoint
    """

    number: int
    behaviour: Behaviour
    raw: bytes
    stopping: Callable[[], bool]
    content_type: str = ""
    rest: str = ""

    def json(self) -> dict[str, Any]:
        """The body. Raises msgspec.DecodeError when it is no JSON object."""
        return msgspec.json.decode(self.raw, type=dict[str, Any])

    def reported(self, computed: Usage) -> Usage | None:
        if not self.behaviour.report_usage:
            return None
        return self.behaviour.usage or computed


Answer = tuple[Response, Usage | None]
"""The answer, and the usage that it reports."""


def error(status: int, message: str, type_: str, code: str) -> JSONResponse:
    body = {"error": {"message": message, "type": type_, "code": code}}
    headers = {**RATE_HEADERS, "retry-after": "2"} if status == 429 else RATE_HEADERS
    return JSONResponse(body, status, headers=headers)


def failure(status: int) -> JSONResponse:
    """Groq's error for a status that a test asked for."""
    if status == 429:
        return error(429, "Rate limit reached for model. Please try again in 2s.", "tokens", "rate_limit_exceeded")
    if status >= 500:
        return error(status, "Internal Server Error", "internal_server_error", "internal_server_error")
    return error(status, "The request cannot be served.", "invalid_request_error", "invalid_request")


class Pieces(Response):
    """An answer in pieces. When `whole` is False it ends without an end, upon which the server breaks the connection."""

    def __init__(self, pieces: AsyncIterator[bytes], content_type: str, *, whole: bool) -> None:
        super().__init__(None, headers={**RATE_HEADERS, "content-type": content_type})
        del self.headers["content-length"]  # set for the empty body that we do not send
        self._pieces, self._whole = pieces, whole

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for piece in self._pieces:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        if self._whole:
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def paced(pieces: list[bytes], exchange: Exchange) -> AsyncIterator[bytes]:
    for piece in pieces:
        if exchange.stopping():
            return
        # Also without a delay: each piece is then written on its own, as a model would.
        await asyncio.sleep(exchange.behaviour.chunk_delay_s)
        yield piece


def chat_usage(body: dict[str, Any]) -> Usage:
    """A token for every four bytes of the messages, and one for every word of the answer."""
    prompt = max(1, len(msgspec.json.encode(body.get("messages", []))) // 4)
    ceiling = body.get("max_completion_tokens") or body.get("max_tokens") or len(ANSWER_WORDS)
    return Usage(prompt, min(int(ceiling), len(ANSWER_WORDS)))


def chat(exchange: Exchange) -> Answer:
    body = exchange.json()
    computed = chat_usage(body)
    usage = exchange.reported(computed)
    words = exchange.behaviour.content.split(" ") if exchange.behaviour.content else ANSWER_WORDS[: computed.completion_tokens]
    common = {
        "id": f"chatcmpl-{exchange.number:08d}",
        "created": CREATED,
        "model": body.get("model", ""),
        "system_fingerprint": "fp_standin",
    }
    if body.get("stream") is True:
        include_usage = bool((body.get("stream_options") or {}).get("include_usage"))
        return _chat_stream(exchange, common, words, usage, include_usage=include_usage), usage
    message = {"role": "assistant", "content": " ".join(words)}
    answer: dict[str, Any] = {
        **common,
        "object": "chat.completion",
        "choices": [{"index": 0, "message": message, "logprobs": None, "finish_reason": "stop"}],
        "service_tier": "on_demand",
        # Unlike in a stream, `x_groq.usage` holds cache counters here and no tokens.
        "x_groq": {"id": f"req_{exchange.number:08d}", "usage": {"dram_cached_tokens": 0, "sram_cached_tokens": 0}},
    }
    if usage is not None:
        answer["usage"] = usage.as_groq()
    return plain(exchange, answer), usage


def plain(exchange: Exchange, answer: dict[str, Any]) -> Response:
    """An answer in one piece, or half of one."""
    answer |= exchange.behaviour.more
    if exchange.behaviour.cut_after is not None:
        whole = msgspec.json.encode(answer)
        half = paced([whole[: len(whole) // 2]], exchange)
        return Pieces(half, "application/json", whole=False)
    return JSONResponse(answer, headers=RATE_HEADERS)


def stream(exchange: Exchange, events: list[bytes]) -> Response:
    """An answer in events, or only the first of them."""
    cut = exchange.behaviour.cut_after
    return Pieces(paced(events[:cut], exchange), "text/event-stream", whole=cut is None)


def _chat_stream(
    exchange: Exchange, common: dict[str, Any], words: list[str], usage: Usage | None, *, include_usage: bool
) -> Response:
    chunk = {**common, "object": "chat.completion.chunk"}
    request = {"id": f"req_{exchange.number:08d}"}

    def choice(delta: dict[str, str], finish: str | None) -> dict[str, Any]:
        return {**chunk, "choices": [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": finish}]}

    closing = request if usage is None else {**request, "usage": usage.as_groq()}
    events = [{**choice({"role": "assistant", "content": ""}, None), "x_groq": request}]
    events += [choice({"content": f"{word} "}, None) for word in words]
    events += [{**choice({}, "stop"), "x_groq": closing, **exchange.behaviour.more}]
    if include_usage and usage is not None:
        events.append({**chunk, "choices": [], "usage": usage.as_groq()})
    pieces = [b"data: " + msgspec.json.encode(event) + b"\n\n" for event in events] + [b"data: [DONE]\n\n"]
    return stream(exchange, pieces)


def list_models(exchange: Exchange) -> Answer:
    data = [{"id": name, "object": "model", "created": CREATED, "owned_by": "standin", "active": True} for name in MODELS]
    return JSONResponse({"object": "list", "data": data} | exchange.behaviour.more), None


ENDPOINTS: Final[dict[tuple[str, str], Callable[[Exchange], Answer]]] = {
    ("POST", "/openai/v1/chat/completions"): chat,
    ("GET", "/openai/v1/models"): list_models,
}
"""What the stand-in serves, by method and path."""
