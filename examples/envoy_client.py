"""Through Envoy: an SDK as it is, with another base URL and a virtual key. Nothing of authz is imported here."""

from __future__ import annotations

import os

import groq


def main() -> None:
    with groq.Groq(api_key=os.environ["AUTHZ_KEY"], base_url=os.environ["AUTHZ_URL"]) as client:
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
