"""Bodies in JSON, of each endpoint that takes one: what they ask for, read as the plainest parser reads them, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from authz.errors import Refused
from authz.inference import chat, embeddings, responses, speech

READERS: Final = (chat.read, responses.read, embeddings.read, speech.read)

_TEXTS: Final = (
    '{"model":"m","messages":[{"role":"user","content":"x"}]}',
    '{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x"}]}],"max_tokens":1,"n":1,"stream":true}',
    '{"\\u006dodel":"m","messages":[{"role":"user","content":null}],"tools":[{"type":"function","function":{"name":"f"}}]}',
    '{"model":"m","messages":[{"content":"\\ud83d\\ude00"}],"service_tier":"flex","stream_options":{"include_usage":true}}',
    '{"model":"m","model":"n"}',
    '{"model":"m","input":"x","max_output_tokens":16,"reasoning":{"effort":"low"}}',
    '{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"x"}]}],"instructions":"y"}',
    '{"model":"m","input":["a","b"],"encoding_format":"float"}',
    '{"model":"m","input":"x","voice":"troy","response_format":"wav"}',
    '{"a":[1e999,NaN,-Infinity,12345678901234567890,[[[[[[]]]]]]]}',
    '{"a":"\\ud800","b\\u0000":1}',
)
SEEDS: Final = tuple(bytes([number]) + text.encode() for text in _TEXTS for number in range(len(READERS)))


def target() -> Callable[[bytes], str]:
    def one(data: bytes) -> str:
        """The first byte says which endpoint's."""
        read, body = READERS[data[0] % len(READERS)] if data else READERS[0], data[1:]
        try:
            ask = read(body)
        except Refused as refused:
            return refused.reason.value
        plain = json.loads(body)
        assert ask.models == (plain["model"],), "read in two ways"
        assert ask.input_bytes <= len(body)
        assert ask.stream == bool(plain.get("stream"))
        return ask.action

    return one
