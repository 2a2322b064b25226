"""Requests that carry a word which must never be seen again, in every place where a client can put one that is private.

A path and a model's name are no such place: they say what was asked for, and are recorded where they are known to be that.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any

from authz.model import Request
from tests.place import Place

CANARY = "canary7f3a9c2e51"
CHAT = "/openai/v1/chat/completions"


def _body(**fields: Any) -> bytes:
    known: dict[str, Any] = {"model": "llama-3.1-8b-instant", "messages": [{"role": "user", "content": "hello"}]}
    return json.dumps(known | fields).encode()


def bodies() -> Iterator[bytes]:
    """Of chats: prompts and whatever stands near them, well formed and not."""
    yield _body(messages=[{"role": "system", "content": CANARY}, {"role": "user", "content": f"my password is {CANARY}"}])
    yield _body(messages=[{"role": "user", "content": [{"type": "text", "text": CANARY}]}])
    yield _body(messages=[{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"https://a/{CANARY}"}}]}])
    yield _body(messages=[{"role": CANARY, "content": CANARY}])
    yield _body(messages=CANARY)
    yield _body(messages=[CANARY], user=CANARY, stop=[CANARY], metadata={CANARY: CANARY})
    yield _body(tools=[{"type": "function", "function": {"name": CANARY, "description": CANARY, "parameters": {CANARY: 1}}}])
    yield _body(tool_choice={"type": CANARY}, response_format={"type": CANARY}, service_tier=CANARY)
    yield _body(service_tier=CANARY)
    yield _body(response_format={"type": CANARY})
    yield _body(max_tokens=CANARY)
    yield _body(n=CANARY)
    yield _body(stream=CANARY)
    yield _body(**{CANARY: CANARY})
    yield _body(**{f"Model {CANARY}": CANARY})
    yield _body(documents=[{"text": CANARY}], search_settings={"include_domains": [CANARY]})
    yield _body(prompt=CANARY)
    yield f'{{"model": "llama-3.1-8b-instant", "messages": "{CANARY}'.encode()
    yield f'{{"{CANARY}": 1, "{CANARY}": 2}}'.encode()
    yield CANARY.encode()
    yield f'"{CANARY}"'.encode()
    yield b"\xff\xfe" + CANARY.encode()
    yield _body(max_tokens=1)[:-1] + f', "n": {CANARY}}}'.encode()


def requests(place: Place) -> Iterator[Request]:
    secret = place.issue("chatbot-prod")
    good = (("authorization", f"Bearer {secret}"), ("content-type", "application/json"))
    for body in bodies():
        yield Request("POST", CHAT, good, body)
    token = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "RS256", "kid": CANARY}, {"iss": CANARY, "sub": CANARY, "email": CANARY}, CANARY)
    )
    for credential in (f"Bearer ak_{CANARY}", f"Bearer {token}", f"Basic {CANARY}", CANARY, f"Bearer {CANARY} {CANARY}"):
        yield Request("POST", CHAT, (("authorization", credential), ("content-type", "application/json")), _body())
    yield Request("POST", CHAT, (*good, ("authorization", f"Bearer {CANARY}")), _body())
    yield Request("POST", CHAT, (*good, ("x-api-key", CANARY), ("cookie", CANARY), (CANARY, CANARY)), _body())
    yield Request("POST", CHAT, (*good, ("traceparent", CANARY)), _body(), traceparent=CANARY)
    yield Request("POST", CHAT, (good[0], ("content-type", f"application/{CANARY}")), _body())
    yield Request("POST", CHAT, (*good, ("content-encoding", CANARY)), _body())
    yield Request("POST", f"{CHAT}?key={CANARY}", good, _body())
    yield Request("POST", f"/openai/v1/{CANARY}", good, _body())
    yield Request(CANARY, CHAT, good, _body())
    yield Request("GET", f"/openai/v1/models/llama-3.1-8b-instant?{CANARY}", good, b"")
    speech = {"model": "playai-tts", "input": CANARY, "voice": CANARY}
    yield Request("POST", "/openai/v1/audio/speech", good, json.dumps(speech).encode())
    embeddings = {"model": "nomic-embed-text-v1_5", "input": [CANARY], "user": CANARY}
    yield Request("POST", "/openai/v1/embeddings", good, json.dumps(embeddings).encode())
    responses = {"model": "openai/gpt-oss-20b", "input": CANARY, "instructions": CANARY}
    yield Request("POST", "/openai/v1/responses", good, json.dumps(responses).encode())
    multipart = (
        f'--b\r\nContent-Disposition: form-data; name="file"; filename="{CANARY}.wav"\r\n\r\n{CANARY}\r\n'
        f'--b\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n{CANARY}\r\n'
        f'--b\r\nContent-Disposition: form-data; name="{CANARY}"\r\n\r\n{CANARY}\r\n--b--\r\n'
    ).encode()
    form = (good[0], ("content-type", "multipart/form-data; boundary=b"))
    yield Request("POST", "/openai/v1/audio/transcriptions", form, multipart)
