"""In process, for threads: reserve, call Groq, settle what it really used."""

from __future__ import annotations

import os
from typing import Any

import httpx

from authz import Authorizer, Denied, Usage, chat_request


def ask(authorizer: Authorizer, model: str) -> str:
    body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 32}
    with authorizer.reserve(chat_request(os.environ["AUTHZ_KEY"], body)) as call:
        headers = {"authorization": f"Bearer {call.upstream_key.reveal()}"}
        answer = httpx.post(f"{authorizer.upstream.url}/openai/v1/chat/completions", json=body, headers=headers)
        if answer.is_error:
            call.void()  # refused there: nothing is owed
            answer.raise_for_status()
        said = answer.json()
        # A block that says nothing, or ends by an exception, pays the estimate.
        call.settle(Usage(said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"]))
    return f"{said['choices'][0]['message']['content']}"


def main() -> None:
    with Authorizer.open(os.environ["AUTHZ_CONFIG"]) as authorizer:
        print(ask(authorizer, "llama-3.1-8b-instant"))
        try:
            ask(authorizer, "openai/gpt-oss-120b")
        except Denied as denied:
            print(denied)


if __name__ == "__main__":
    main()
