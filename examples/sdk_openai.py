"""OpenAI's SDK against Groq, authorised and settled in this process, for tasks."""

from __future__ import annotations

import asyncio
import os

import httpx
import openai

from authz import AsyncAuthorizedTransport, AsyncAuthorizer


async def main() -> None:
    authorizer = AsyncAuthorizer.open(os.environ["AUTHZ_CONFIG"])
    through = httpx.AsyncClient(transport=AsyncAuthorizedTransport(authorizer))
    # Where requests go stands in authz.yaml; of this address only the path is judged.
    base_url = f"{authorizer.upstream.url}/openai/v1"
    async with (
        authorizer,
        openai.AsyncOpenAI(
            api_key=os.environ["AUTHZ_KEY"],
            base_url=base_url,
            http_client=through,  # type: ignore[arg-type]  # it takes a client of httpx as well; its types say httpx2 alone
        ) as client,
    ):
        answer = await client.chat.completions.create(
            model="llama-3.1-8b-instant", messages=[{"role": "user", "content": "Say hello"}], max_tokens=32
        )
        print(answer.choices[0].message.content)

        stream = await client.chat.completions.create(
            model="llama-3.1-8b-instant", messages=[{"role": "user", "content": "Say hello"}], max_tokens=32, stream=True
        )
        print("".join([chunk.choices[0].delta.content or "" async for chunk in stream if chunk.choices]))

        try:
            await client.chat.completions.create(
                model="openai/gpt-oss-120b", messages=[{"role": "user", "content": "Say hello"}], max_tokens=32
            )
        except openai.PermissionDeniedError as denied:
            print(denied.message)


if __name__ == "__main__":
    asyncio.run(main())
