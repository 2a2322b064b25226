"""Answers of the upstream, plain and streamed, however they are cut: a count that can be believed, or none."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from authz.inference.reported import MAX_TOKENS, BodyReader, StreamReader, from_body, from_usage
from authz.model import Usage

_USAGE: Final = '{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13,"prompt_tokens_details":{"cached_tokens":3}}'
_RESPONSE: Final = '{"input_tokens":9,"output_tokens":4,"input_tokens_details":{"cached_tokens":3},"total_tokens":13}'
_ANSWERS: Final = (
    f'{{"usage":{_USAGE}}}',
    f'data: {{"x_groq":{{"id":"r","usage":{_USAGE}}}}}\n\ndata: [DONE]\n\n',
    f'data: {{"usage":{_USAGE},"choices":[]}}\r\n\r\n',
    f'event: response.completed\ndata: {{"response":{{"usage":{_RESPONSE}}}}}\n\n',
    'data: {"choices":[{"delta":{"content":"\\"usage\\":{\\"prompt_tokens\\":1}"}}]}\n\n',
    '{"usage":{"prompt_tokens":-1,"completion_tokens":1e999}}',
    '{"usage":{"prompt_tokens":8,"total_tokens":8}}',
    _USAGE,
    _RESPONSE,
    '{"usage":' + "[" * 2_000,
    'data: {"usage":' + '{"a":' * 700 + "\n",
)
SEEDS: Final = tuple(bytes([cut]) + text.encode() for text in _ANSWERS for cut in (0, 7))


def target() -> Callable[[bytes], str]:
    def one(data: bytes) -> str:
        """The first byte says how long the pieces of a stream are."""
        cut, answer = (data[0] or len(data), data[1:]) if data else (1, b"")
        whole, pieces, body = StreamReader(), StreamReader(), BodyReader()
        whole.feed(answer)
        for start in range(0, len(answer), cut):
            pieces.feed(answer[start : start + cut])
            body.feed(answer[start : start + cut])
        assert (pieces.usage, pieces.done) == (whole.usage, whole.done), "how it is cut changes what it says"
        found = (whole.usage, from_body(answer), from_usage(answer), body.usage)
        assert found[1] == found[3]
        for usage in found:
            if usage is not None:
                _believable(usage)
        if found[1] is not None:
            json.loads(answer.decode("utf-8", "replace"))  # what is no JSON says nothing
        return "usage" if any(usage is not None for usage in found) else "none"

    return one


def _believable(usage: Usage) -> None:
    assert 0 < usage.input_tokens <= MAX_TOKENS
    assert 0 <= usage.output_tokens <= MAX_TOKENS
    assert 0 <= usage.cached_tokens <= usage.input_tokens
