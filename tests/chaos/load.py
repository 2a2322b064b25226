"""Steady requests through Envoy from several threads, each with a number that the upstream sees too."""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any, Final, Self

import httpx
from msgspec import Struct

CHAT: Final = "/openai/v1/chat/completions"
PROMPT: Final = "canary5e1d77b0c4"
"""Stands in every prompt, and must never be seen again."""

TIMEOUT_S: Final = 10.0
_AFTER_A_REFUSED_CONNECTION_S: Final = 0.02


class Caller(Struct, frozen=True):
    """Who asks, and for what. may: False for what must never reach the upstream, whatever fails."""

    name: str
    secret: str
    model: str
    max_tokens: int = 32
    may: bool = True
    stream: bool = False


class Sent(Struct, frozen=True):
    """One request and what came of it.

    status    0 where there was no answer
    code      of the error; `broken` where the answer did not come to its end
    degraded  it passed without the store
    began_s, ended_s  by the monotonic clock
    """

    number: int
    caller: Caller
    status: int
    code: str
    degraded: bool
    began_s: float
    ended_s: float

    @property
    def took_s(self) -> float:
        return self.ended_s - self.began_s


class Load:
    """`with Load(url, callers): …` sends until the end of the block; `sent` has everything.

    threads  requests under way at once, each caller in turn at random
    pause_s  of a thread after each answer
    """

    _numbers = itertools.count(1)

    def __init__(self, url: str, callers: Sequence[Caller], *, threads: int = 6, pause_s: float = 0.01) -> None:
        self._url, self._callers, self._pause_s = url, callers, pause_s
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._sent: list[Sent] = []
        self._threads = [threading.Thread(target=self._run, args=(seed,), daemon=True) for seed in range(threads)]

    @property
    def sent(self) -> list[Sent]:
        with self._lock:
            return list(self._sent)

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _run(self, seed: int) -> None:
        chance = random.Random(seed)
        with httpx.Client(base_url=self._url, timeout=TIMEOUT_S, trust_env=False) as client:
            while not self._stopping.is_set():
                sent = send(client, chance.choice(self._callers), next(self._numbers))
                with self._lock:
                    self._sent.append(sent)
                self._stopping.wait(self._pause_s if sent.status else _AFTER_A_REFUSED_CONNECTION_S)


def send(client: httpx.Client, caller: Caller, number: int) -> Sent:
    """One request to its end."""
    headers = {"authorization": f"Bearer {caller.secret}"}
    body: dict[str, Any] = {
        "model": caller.model,
        "messages": [{"role": "user", "content": f"{PROMPT} {number};"}],
        "max_tokens": caller.max_tokens,
        "stream": caller.stream,
    }
    began_s, status, code, degraded = time.monotonic(), 0, "", False
    try:
        with client.stream("POST", CHAT, json=body, headers=headers) as answer:
            status, degraded = answer.status_code, "x-authz-degraded" in answer.headers
            said = answer.read()
            if status >= 300:
                code = _code(answer)
            elif caller.stream and not said.endswith(b"data: [DONE]\n\n"):
                code = "broken"
    except httpx.HTTPError as error:
        code = "broken" if status else type(error).__name__
    return Sent(number, caller, status, code, degraded, began_s, time.monotonic())


def _code(answer: httpx.Response) -> str:
    try:
        return str(answer.json()["error"]["code"])
    except (ValueError, KeyError, TypeError):
        return "not our error"


def numbers(body: bytes) -> Iterator[int]:
    """Of the requests whose prompt stands in this body."""
    for piece in body.split(PROMPT.encode() + b" ")[1:]:
        yield int(piece.partition(b";")[0])
