"""Files of batches and the call that runs one: as many asks as a plain reader finds lines, or a refusal."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Final

from authz.errors import Refused
from authz.inference import batch

_BODY: Final = '{"model":"m","messages":[{"role":"user","content":"x"}],"max_tokens":4}'
_HEAD: Final = b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\n'
_FILE: Final = b'Content-Disposition: form-data; name="file"; filename="a.jsonl"\r\n\r\n'


def _line(name: str, body: str = _BODY, url: str = "/v1/chat/completions") -> str:
    return f'{{"custom_id":"{name}","method":"POST","url":"{url}","body":{body}}}'


_CREATE: Final = '{"input_file_id":"file_1","endpoint":"/v1/chat/completions","completion_window":"24h","metadata":{"a":"b"}}'
SEEDS: Final = (
    b"\x00" + _line("1").encode(),
    b"\x00" + f"{_line('1')}\n{_line('2')}\n".encode(),
    b"\x00" + f"{_line('1')}\r\n{_line('1')}".encode(),
    b"\x00" + _line("1", '{"model":"m","input":["a"]}', "/v1/embeddings").encode(),
    b"\x00" + _line("1", '{"model":"m","input":"a","max_output_tokens":9}', "/v1/responses").encode(),
    b"\x00" + b"\n\n",
    b"\x01" + _CREATE.encode(),
    b"\x01" + _CREATE.replace("24h", "9d").encode(),
)


def target() -> Callable[[bytes], str]:
    def one(data: bytes) -> str:
        """The first byte says whether the rest is a file or a call."""
        rest = data[1:]
        try:
            if data[:1] == b"\x01":
                ask = batch.read_create(rest)
                assert ask.named == json.loads(rest)["input_file_id"]
                return "create"
            ask = batch.read_upload(_HEAD + _FILE + rest + b"\r\n--b--\r\n", "b")
        except Refused as refused:
            return refused.reason.value
        rows = [json.loads(row) for row in rest.decode().splitlines()]
        assert len(rows) == len(ask.lines), "another reader finds other lines"
        assert {row["body"]["model"] for row in rows} == set(ask.models)
        return "upload"

    return one
