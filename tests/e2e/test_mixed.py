"""A thousand requests of every kind at once: what is settled is what the stand-in counted, to the token and the nano-dollar."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import pytest

from authz.store import open_store
from demo.answers import Behaviour, Usage
from demo.stack import wait_for
from demo.standin import Received
from tests.e2e.conftest import Client
from tests.e2e.media import CHAT, COST, EMBEDDER, ENGLISH, PREFIX, WHISPER, tokens, with_batches
from tests.inference.sounds import wav

pytestmark = pytest.mark.xdist_group("e2e-mixed")

REQUESTS = 1000
THREADS = 8


def one(http: httpx.Client, chance: random.Random) -> int:
    """Any request that a client could make, and some that it should not."""
    text = "x" * chance.randrange(1, 3000)
    stream = chance.random() < 0.5
    chat: dict[str, Any] = {"model": CHAT, "messages": [{"role": "user", "content": text}], "stream": stream}
    kinds: list[Callable[[], httpx.Response]] = [
        lambda: http.post("/chat/completions", json=chat | {"max_tokens": chance.randrange(1, 40)}),
        lambda: http.post("/chat/completions", json=chat | {"stream_options": {"include_usage": True}} if stream else chat),
        lambda: http.post("/responses", json={"model": CHAT, "input": text, "stream": stream}),
        lambda: http.post("/embeddings", json={"model": EMBEDDER, "input": [text] * chance.randrange(1, 5)}),
        lambda: http.post("/audio/speech", json={"model": ENGLISH, "input": text, "voice": "troy"}),
        lambda: http.post(
            chance.choice(["/audio/transcriptions", "/audio/translations"]),
            data={"model": WHISPER},
            files={"file": ("a.wav", wav(10 + chance.random() * 20))},
        ),
        lambda: http.get("/models"),
        lambda: http.post("/chat/completions", json=chat | {"model": "nothing"}),
        lambda: http.post("/batches", json={"input_file_id": "f"}),
        lambda: batch(http, [text[:100]] * chance.randrange(1, 4)),
    ]
    return chance.choice(kinds)().status_code


def batch(http: httpx.Client, texts: list[str]) -> httpx.Response:
    """A batch of these texts, as soon as its file is known; or the answer that ended it."""
    lines = [
        {
            "custom_id": str(number),
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"model": CHAT, "messages": [{"role": "user", "content": text}], "max_tokens": 30},
        }
        for number, text in enumerate(texts)
    ]
    content = "\n".join(map(json.dumps, lines)).encode()
    uploaded = http.post("/files", files={"file": ("b.jsonl", content)}, data={"purpose": "batch"})
    if uploaded.status_code != 200:
        return uploaded
    body = {"input_file_id": uploaded.json()["id"], "endpoint": "/v1/chat/completions", "completion_window": "24h"}
    made: list[httpx.Response] = []

    def known() -> bool:
        made.append(http.post("/batches", json=body))
        return made[-1].status_code != 409

    wait_for("the file to be known", known)
    return made[-1]


def counted(received: list[Received], batches: list[list[Usage]]) -> Counter[tuple[str, str]]:
    """Of every answer: requests, tokens and nano-dollars by model, worked out from what the stand-in reported."""
    found: Counter[tuple[str, str]] = Counter()
    for request in received:
        used = request.usage
        if request.path.startswith((f"{PREFIX}/files", f"{PREFIX}/batches")):
            through_envoy = bool(request.header("x-request-id"))  # and not the collector's own
            found[CHAT, "requests"] += request.status == 200 and through_envoy
            continue
        if request.status != 200 or used is None:
            continue
        model = WHISPER if "/audio/tr" in request.path else json.loads(request.body)["model"]
        found[model, "requests"] += 1
        found[model, "input"] += used.prompt_tokens
        found[model, "cached"] += used.cached_tokens
        found[model, "output"] += used.completion_tokens
        found[model, "nanousd"] += COST[model](used)
    for lines in batches:
        whole = Usage(
            sum(used.prompt_tokens for used in lines),
            sum(used.completion_tokens for used in lines),
            sum(used.cached_tokens for used in lines),
        )
        found[CHAT, "input"] += whole.prompt_tokens
        found[CHAT, "cached"] += whole.cached_tokens
        found[CHAT, "output"] += whole.completion_tokens
        found[CHAT, "nanousd"] += tokens(37_500, 150_000, 18_750)(whole)
    return found


def test_the_settled_totals_are_the_stand_ins_own(make_client: Callable[..., Client]) -> None:
    client = make_client(with_batches, keys="key_env: GROQ_API_KEY, batch_poll_s: 1")
    client.issue("media")
    groq = client.stack.groq
    with httpx.Client(base_url=client.stack.url + PREFIX, headers=_only_key(client), timeout=30) as http:

        def worker(seed: int) -> Counter[int]:
            chance = random.Random(seed)
            statuses: Counter[int] = Counter()
            for number in range(REQUESTS // THREADS):
                if seed == 0 and number % 20 == 10:
                    groq.behave(
                        Behaviour(status=chance.choice([429, 500]), times=3), Behaviour(usage=Usage(90, 7, 60), times=3)
                    )
                statuses[one(http, chance)] += 1
            return statuses

        with ThreadPoolExecutor(THREADS) as pool:
            statuses = sum(pool.map(worker, range(THREADS)), Counter[int]())
    assert statuses[200] > REQUESTS // 2
    assert statuses[404] > 0 < statuses[429] + statuses[500]

    store = open_store(client.stack.settings.store)
    try:
        days = "2000-01-01", "2999-12-31"
        wait_for("nothing pending", lambda: not any(row.pending_requests for row in store.usage(*days)), 90)
        expected = counted(groq.received(), list(groq.desk.used.values()))
        found: Counter[tuple[str, str]] = Counter()
        for row in store.usage("2000-01-01", "2999-12-31"):
            found[row.model, "requests"] += row.requests
            found[row.model, "input"] += row.input_tokens
            found[row.model, "cached"] += row.cached_tokens
            found[row.model, "output"] += row.output_tokens
            found[row.model, "nanousd"] += row.cost_nanousd
    finally:
        store.close()
    assert +found == +expected
    assert {model for model, _ in expected} == COST.keys()
    assert sum(expected[model, "cached"] for model in COST) > 0
    assert len(groq.desk.used) > REQUESTS // 30


def _only_key(client: Client) -> dict[str, str]:
    return {"authorization": client.headers("media")["authorization"]}
