"""In process, for tasks: several requests are decided in one go, and only those that are allowed are sent."""

from __future__ import annotations

import asyncio
import os
from typing import Any

import httpx

from authz import Allow, AsyncAuthorizer, Deny, Usage, chat_request

MODELS = ("llama-3.1-8b-instant", "openai/gpt-oss-120b", "llama-3.3-70b-versatile")


async def send(authorizer: AsyncAuthorizer, client: httpx.AsyncClient, allow: Allow, body: dict[str, Any]) -> str:
    headers = {"authorization": f"Bearer {allow.upstream_key.reveal()}"}
    answer = await client.post("/openai/v1/chat/completions", json=body, headers=headers)
    if answer.is_error:
        await authorizer.void(allow.reservation_id)
        answer.raise_for_status()
    said = answer.json()
    await authorizer.settle(allow.reservation_id, Usage(said["usage"]["prompt_tokens"], said["usage"]["completion_tokens"]))
    return f"{said['choices'][0]['message']['content']}"


async def main() -> None:
    bodies: list[dict[str, Any]] = [
        {"model": model, "messages": [{"role": "user", "content": "Say hello"}], "max_tokens": 32} for model in MODELS
    ]
    async with (
        AsyncAuthorizer.open(os.environ["AUTHZ_CONFIG"]) as authorizer,
        httpx.AsyncClient(base_url=authorizer.upstream.url) as client,
    ):
        # One call of the store for all; one denial touches no other. For one at a time there is `reserve`, as for threads.
        decisions = await authorizer.decide_many([chat_request(os.environ["AUTHZ_KEY"], body) for body in bodies])
        sending = []
        for decision, body in zip(decisions, bodies, strict=True):
            match decision:
                case Allow():
                    sending.append(send(authorizer, client, decision, body))
                case Deny():
                    print(f"{decision.reason}: {decision.message}")
        for said in await asyncio.gather(*sending):
            print(said)


if __name__ == "__main__":
    asyncio.run(main())
