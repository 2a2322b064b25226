"""The golden table: what is asked, and what every door has to answer. The records that belong to it stand in `records.json`."""

from __future__ import annotations

import json
from typing import Any, Final

from msgspec import Struct

from authz.model import Request
from authz.reasons import Reason
from tests.inference.sounds import wav

CHAT: Final = "/openai/v1/chat/completions"
JSON: Final = "application/json"
LARGE_BYTES: Final = 32 * 1024
"""More than the Envoy of the golden stack reads."""

Effect = Reason | str
"""A `Reason` to deny, `allow`, or `reply` for what is answered here."""


class Case(Struct, frozen=True, kw_only=True):
    """One request, and what it comes to.

    key      of the bundle's directory, by whose secret it is asked; empty for none
    headers  more of them · credential: in place of the key's
    before   how many of the same were allowed and are under way
    whole    False where the body is larger than the enforcement point reads; Envoy then answers without asking
    outage   the store does not answer
    """

    name: str
    expect: Effect
    status: int = 200
    key: str = "web"
    body: bytes = b""
    method: str = "POST"
    path: str = CHAT
    content_type: str = JSON
    headers: tuple[tuple[str, str], ...] = ()
    credential: str | None = None
    before: int = 0
    whole: bool = True
    outage: bool = False

    def request(self, secret: str, request_id: str = "", source_ip: str = "127.0.0.1") -> Request:
        return Request(
            self.method,
            self.path,
            (*self.credentials(secret), ("content-type", self.content_type), *self.headers),
            self.body if self.whole else None,
            request_id=request_id,
            source_ip=source_ip,
        )

    def credentials(self, secret: str) -> tuple[tuple[str, str], ...]:
        if self.credential is not None:
            return (("authorization", self.credential),)
        return (("authorization", f"Bearer {secret}"),) if self.key else ()


def chat(model: str = "small", **fields: Any) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16} | fields).encode()


def form(model: str) -> bytes:
    parts = [
        f'--b\r\ncontent-disposition: form-data; name="model"\r\n\r\n{model}\r\n'.encode(),
        b'--b\r\ncontent-disposition: form-data; name="file"; filename="a.wav"\r\ncontent-type: audio/wav\r\n\r\n',
        wav(1.0),
        b"\r\n--b--\r\n",
    ]
    return b"".join(parts)


def _twice() -> bytes:
    return chat().replace(b'"messages"', b'"\\u006dodel": "large", "messages"')


TOOLS: Final = [{"type": "function", "function": {"name": "look_up", "parameters": {"type": "object", "properties": {}}}}]
FORM: Final = "multipart/form-data; boundary=b"

CASES: Final = (
    # allowed
    Case(name="a plain chat", expect="allow", key="plain", body=chat()),
    Case(name="a stream", expect="allow", key="streaming", body=chat(stream=True)),
    Case(name="with tools", expect="allow", key="tooled", body=chat(tools=TOOLS)),
    Case(name="on the flex tier", expect="allow", key="flexible", body=chat(service_tier="flex")),
    Case(name="without a ceiling", expect="allow", key="unbounded", body=chat(max_tokens=None)),
    Case(
        name="a key of JSON that is escaped", expect="allow", key="escaped", body=chat().replace(b'"model"', b'"\\u006dodel"')
    ),
    Case(name="by a role", expect="allow", key="of-ana", body=chat("large")),
    Case(name="with a secret that another has replaced", expect="allow", key="replaced", body=chat()),
    Case(
        name="the responses API",
        expect="allow",
        key="responding",
        path="/openai/v1/responses",
        body=json.dumps({"model": "small", "input": "hello", "max_output_tokens": 16}).encode(),
    ),
    Case(
        name="an embedding",
        expect="allow",
        key="embedding",
        path="/openai/v1/embeddings",
        body=json.dumps({"model": "embeds", "input": ["one", "another"]}).encode(),
    ),
    Case(
        name="a transcription",
        expect="allow",
        key="hearing",
        path="/openai/v1/audio/transcriptions",
        content_type=FORM,
        body=form("hears"),
    ),
    Case(
        name="speech",
        expect="allow",
        key="speaking",
        path="/openai/v1/audio/speech",
        body=json.dumps({"model": "speaks", "input": "hello", "voice": "troy", "response_format": "wav"}).encode(),
    ),
    Case(name="past a policy and a quota in shadow", expect="allow", key="shadowed", body=chat(), before=1),
    Case(name="the second of two", expect="allow", key="passed-over", body=chat(), before=1),
    # answered here
    Case(name="the list of models", expect="reply", key="listing", method="GET", path="/openai/v1/models"),
    Case(name="one model", expect="reply", key="listing", method="GET", path="/openai/v1/models/small"),
    # who
    Case(name="nobody", expect=Reason.INVALID_API_KEY, status=401, key="", body=chat()),
    Case(name="an unknown key", expect=Reason.INVALID_API_KEY, status=401, credential="Bearer authz_" + "x" * 40, body=chat()),
    Case(name="a key of someone else's", expect=Reason.INVALID_API_KEY, status=401, credential="Bearer gsk_wrong", body=chat()),
    Case(name="another scheme", expect=Reason.INVALID_API_KEY, status=401, credential="Basic YTpi", body=chat()),
    Case(
        name="two credentials",
        expect=Reason.INVALID_API_KEY,
        status=401,
        body=chat(),
        headers=(("authorization", "Bearer another"),),
    ),
    Case(name="a revoked secret", expect=Reason.INVALID_API_KEY, status=401, key="revoked", body=chat()),
    Case(name="an expired secret", expect=Reason.INVALID_API_KEY, status=401, key="expired", body=chat()),
    Case(name="a disabled key", expect=Reason.INVALID_API_KEY, status=401, key="disabled", body=chat()),
    Case(name="the key of a disabled user", expect=Reason.INVALID_API_KEY, status=401, key="orphan", body=chat()),
    # what
    Case(name="an unknown path", expect=Reason.UNKNOWN_URL, status=404, path="/openai/v1/fine_tuning/jobs", body=b"{}"),
    Case(name="the right path with a query", expect=Reason.UNKNOWN_URL, status=404, path=CHAT + "?a=b", body=chat()),
    Case(name="the wrong method", expect=Reason.UNKNOWN_URL, status=404, method="PUT", body=chat()),
    Case(name="everybody's batches", expect=Reason.UNKNOWN_URL, status=404, method="GET", path="/openai/v1/batches"),
    Case(
        name="a batch of a file that nobody here has uploaded",
        expect=Reason.NOT_KNOWN_HERE,
        status=409,
        path="/openai/v1/batches",
        body=b'{"input_file_id":"file_1","endpoint":"/v1/chat/completions","completion_window":"24h"}',
    ),
    Case(name="a file of somebody's", expect=Reason.NOT_KNOWN_HERE, status=409, method="GET", path="/openai/v1/files/file_1"),
    Case(name="a text", expect=Reason.UNSUPPORTED_MEDIA_TYPE, status=415, content_type="text/plain", body=chat()),
    Case(
        name="another charset",
        expect=Reason.UNSUPPORTED_MEDIA_TYPE,
        status=415,
        body=chat(),
        content_type="application/json; charset=utf-16",
    ),
    Case(
        name="an encoded body",
        expect=Reason.UNSUPPORTED_MEDIA_TYPE,
        status=415,
        body=chat(),
        headers=(("content-encoding", "gzip"),),
    ),
    Case(
        name="a form without a boundary",
        expect=Reason.UNSUPPORTED_MEDIA_TYPE,
        status=415,
        body=form("hears"),
        path="/openai/v1/audio/transcriptions",
        content_type="multipart/form-data",
    ),
    Case(name="no JSON", expect=Reason.INVALID_REQUEST, status=400, body=b"{"),
    Case(name="an empty body", expect=Reason.INVALID_REQUEST, status=400, body=b""),
    Case(name="the model twice", expect=Reason.INVALID_REQUEST, status=400, body=_twice()),
    Case(name="a name in capitals", expect=Reason.INVALID_REQUEST, status=400, body=chat(Model="large")),
    Case(name="two answers", expect=Reason.INVALID_REQUEST, status=400, body=chat(n=2)),
    Case(name="a negative ceiling", expect=Reason.INVALID_REQUEST, status=400, body=chat(max_tokens=-1)),
    Case(name="not UTF-8", expect=Reason.INVALID_REQUEST, status=400, body=chat().replace(b"hello", b"\xff\xfe")),
    Case(
        name="nested too deep", expect=Reason.INVALID_REQUEST, status=400, body=chat(metadata=json.loads("[" * 70 + "]" * 70))
    ),
    Case(
        name="a body that was not read whole",
        expect=Reason.REQUEST_TOO_LARGE,
        status=413,
        whole=False,
        body=chat(user="x" * LARGE_BYTES),
    ),
    # which model
    Case(name="an unknown model", expect=Reason.MODEL_NOT_FOUND, status=404, body=chat("gpt-9")),
    Case(name="a model in other letters", expect=Reason.MODEL_NOT_FOUND, status=404, body=chat("Small")),
    Case(name="a model that would break out", expect=Reason.MODEL_NOT_FOUND, status=404, body=chat('x"::Model\n')),
    Case(name="a retired model", expect=Reason.MODEL_DECOMMISSIONED, status=400, body=chat("retired")),
    Case(name="a retired model that nothing replaces", expect=Reason.MODEL_DECOMMISSIONED, status=400, body=chat("forgotten")),
    Case(name="a model without a price for this", expect=Reason.MODEL_NOT_PRICED, status=403, body=chat("hears")),
    Case(name="a tier without a price", expect=Reason.MODEL_NOT_PRICED, status=403, body=chat(service_tier="performance")),
    Case(name="another team's model", expect=Reason.MODEL_NOT_AVAILABLE, status=403, body=chat("large")),
    Case(
        name="another team's model, looked up",
        expect=Reason.MODEL_NOT_AVAILABLE,
        status=403,
        key="listing",
        method="GET",
        path="/openai/v1/models/large",
    ),
    Case(
        name="with a role that was left out", expect=Reason.MODEL_NOT_AVAILABLE, status=403, key="narrowed", body=chat("large")
    ),
    # policies
    Case(name="a forbid", expect=Reason.POLICY_DENIED, status=403, key="forbidden", body=chat(tools=TOOLS)),
    Case(name="a forbid on what is spent", expect=Reason.POLICY_DENIED, status=403, key="spent", body=chat(), before=1),
    Case(name="a forbid that errs", expect=Reason.POLICY_ERROR, status=403, key="erring", body=chat()),
    # what fits
    Case(name="a full window", expect=Reason.RATE_LIMIT_EXCEEDED, status=429, key="few", body=chat(), before=2),
    Case(name="a window full of tokens", expect=Reason.RATE_LIMIT_EXCEEDED, status=429, key="tokens", body=chat(), before=2),
    Case(
        name="a request larger than its window", expect=Reason.RATE_LIMIT_EXCEEDED, status=413, key="small-window", body=chat()
    ),
    Case(name="one too many under way", expect=Reason.TOO_MANY_IN_FLIGHT, status=429, key="single", body=chat(), before=1),
    Case(name="no money", expect=Reason.SPEND_CAP_REACHED, status=403, key="poor", body=chat()),
    # what else it takes
    Case(name="no key to go with", expect=Reason.UPSTREAM_KEY_UNAVAILABLE, status=503, key="keyless", body=chat()),
    Case(name="no store", expect=Reason.STORE_UNAVAILABLE, status=503, key="outage", body=chat(), outage=True),
)
