"""Groq's own SDK, authorised and settled in this process: what changes is its `http_client`."""

from __future__ import annotations

import os

import groq
import httpx

from authz import AuthorizedTransport, Authorizer


def main() -> None:
    with (
        Authorizer.open(os.environ["AUTHZ_CONFIG"]) as authorizer,
        httpx.Client(transport=AuthorizedTransport(authorizer)) as through,
        groq.Groq(api_key=os.environ["AUTHZ_KEY"], http_client=through) as client,
    ):
        answer = client.chat.completions.create(
            model="llama-3.1-8b-instant", messages=[{"role": "user", "content": "Say hello"}], max_tokens=32
        )
        print(answer.choices[0].message.content)

        stream = client.chat.completions.create(
            model="llama-3.1-8b-instant", messages=[{"role": "user", "content": "Say hello"}], max_tokens=32, stream=True
        )
        print("".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices))

        try:
            client.chat.completions.create(
                model="openai/gpt-oss-120b", messages=[{"role": "user", "content": "Say hello"}], max_tokens=32
            )
        except groq.PermissionDeniedError as denied:
            print(denied.message)


if __name__ == "__main__":
    main()
