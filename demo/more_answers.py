"""What the stand-in answers on the endpoints beside chat: responses, embeddings, audio both ways, one model."""

from __future__ import annotations

import io
import math
import wave
from collections.abc import Callable
from email.message import Message
from email.parser import BytesParser
from typing import Any, Final

import msgspec
from starlette.responses import JSONResponse, Response

from demo.answers import ANSWER_WORDS, CREATED, MODELS, RATE_HEADERS, Answer, Exchange, Usage, error, failure, plain, stream


def respond(exchange: Exchange) -> Answer:
    body = exchange.json()
    prompt = max(1, len(msgspec.json.encode([body.get("instructions"), body.get("input")])) // 4)
    ceiling = body.get("max_output_tokens") or len(ANSWER_WORDS)
    computed = Usage(prompt, min(int(ceiling), len(ANSWER_WORDS)))
    usage = exchange.reported(computed)
    text = exchange.behaviour.content or " ".join(ANSWER_WORDS[: computed.completion_tokens])
    response: dict[str, Any] = {
        "id": f"resp_{exchange.number:08d}",
        "object": "response",
        "created_at": CREATED,
        "status": "in_progress",
        "model": body.get("model", ""),
        "output": [],
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "usage": None,
    }
    part = {"type": "output_text", "text": text, "annotations": []}
    message = {
        "type": "message",
        "id": f"msg_{exchange.number:08d}",
        "status": "completed",
        "role": "assistant",
        "content": [part],
    }
    done = {**response, "status": "completed", "output": [message], "usage": usage.as_response() if usage is not None else None}
    if body.get("stream") is not True:
        return plain(exchange, done), usage
    events: list[dict[str, Any]] = [{"type": "response.created", "response": response}]
    place = {"item_id": message["id"], "output_index": 0, "content_index": 0}
    events += [{"type": "response.output_text.delta", **place, "delta": f"{word} "} for word in text.split(" ")]
    events.append({"type": "response.completed", "response": done})
    pieces = [
        f"event: {event['type']}\ndata: ".encode() + msgspec.json.encode({**event, "sequence_number": number}) + b"\n\n"
        for number, event in enumerate(events)
    ]
    return stream(exchange, pieces), usage


def embed(exchange: Exchange) -> Answer:
    body = exchange.json()
    texts = body["input"] if isinstance(body.get("input"), list) else [body.get("input", "")]
    usage = exchange.reported(Usage(sum(max(1, len(text.encode()) // 4) for text in texts), 0))
    data = [{"object": "embedding", "index": index, "embedding": [0.5, -0.5]} for index in range(len(texts))]
    answer: dict[str, Any] = {"object": "list", "data": data, "model": body.get("model", "")}
    if usage is not None:
        usage = Usage(usage.prompt_tokens)  # the rest has no place in this answer
        answer["usage"] = usage.as_embedding()
    return plain(exchange, answer), usage


def hear(exchange: Exchange) -> Answer:
    """A transcription or a translation. It reads the form and the WAV with other readers than authz does."""
    parts = form(exchange)
    try:
        with wave.open(io.BytesIO(parts["file"])) as file:
            seconds = math.ceil(file.getnframes() / file.getframerate())
    except (KeyError, wave.Error, EOFError):
        return failure(400), None
    answer = {"text": exchange.behaviour.content or "the quick brown fox", "x_groq": {"id": f"req_{exchange.number:08d}"}}
    return plain(exchange, answer), Usage(audio_seconds=seconds)


def speak(exchange: Exchange) -> Answer:
    body = exchange.json()
    response = Response(bytes(4096), media_type="audio/wav", headers=RATE_HEADERS)
    return response, Usage(characters=len(body.get("input", "")))


def one_model(exchange: Exchange) -> Answer:
    if exchange.rest not in MODELS:
        return error(404, "The model does not exist.", "invalid_request_error", "model_not_found"), None
    return JSONResponse({"id": exchange.rest, "object": "model", "created": CREATED, "owned_by": "standin"}), None


def form(exchange: Exchange) -> dict[str, bytes]:
    message = BytesParser().parsebytes(f"Content-Type: {exchange.content_type}\r\n\r\n".encode() + exchange.raw)
    parts = [part for part in message.walk() if not part.is_multipart()]
    return {str(part.get_param("name", header="content-disposition")): _content(part) for part in parts}


def _content(part: Message) -> bytes:
    content = part.get_payload(decode=True)
    return content if isinstance(content, bytes) else b""


ENDPOINTS: Final[dict[tuple[str, str], Callable[[Exchange], Answer]]] = {
    ("POST", "/openai/v1/responses"): respond,
    ("POST", "/openai/v1/embeddings"): embed,
    ("POST", "/openai/v1/audio/transcriptions"): hear,
    ("POST", "/openai/v1/audio/translations"): hear,
    ("POST", "/openai/v1/audio/speech"): speak,
    ("GET", "/openai/v1/models/{rest:path}"): one_model,
}
