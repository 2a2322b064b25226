"""Bytes of a Check, through the whole of a decision: an allow, a denial in Groq's form, or a list of models."""

from __future__ import annotations

import atexit
import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from authz.bundle import load_bundle
from authz.compose import Engine
from authz.envoy.answer import encode
from authz.envoy.check import decode_check
from authz.envoy.wire import check_pb2
from authz.errors import Refused
from authz.identity.keys import mint
from authz.model import Allow, Decision, Deny, Outcome, Receipt, Reply
from authz.settings import read_settings
from tests.place import ROOT, UPSTREAM_KEY, Place, Time

SECRET: Final = mint(random.Random(7).choice)
_CHAT: Final = {"model": "llama-3.1-8b-instant", "messages": [{"role": "user", "content": "x"}], "max_tokens": 4}
_TIDY_EVERY: Final = 4_000


def _checks() -> Iterator[bytes]:
    bodies = {
        "/openai/v1/chat/completions": _CHAT,
        "/openai/v1/responses": {"model": "openai/gpt-oss-20b", "input": "x"},
        "/openai/v1/embeddings": {"model": "m", "input": ["x"]},
        "/openai/v1/audio/speech": {"model": "canopylabs/orpheus-v1-english", "input": "x", "voice": "a"},
        "/openai/v1/models": None,
        "/openai/v1/batches": {},
    }
    for path, fields in bodies.items():
        for raw_headers in (True, False):
            check = check_pb2.CheckRequest()
            http = check.attributes.request.http
            http.method, http.path = "GET" if fields is None else "POST", path
            http.raw_body = b"" if fields is None else json.dumps(fields).encode()
            http.size = len(http.raw_body)
            headers = {"authorization": f"Bearer {SECRET}", "content-type": "application/json", "x-request-id": "r"}
            if raw_headers:
                for name, value in headers.items():
                    header = http.header_map.headers.add()
                    header.key, header.raw_value = name, value.encode()
            else:
                http.headers.update(headers)
            check.attributes.source.address.socket_address.address = "127.0.0.1"
            yield check.SerializeToString()


SEEDS: Final = tuple(_checks())


def target() -> Callable[[bytes], str]:
    resources = ExitStack()
    atexit.register(resources.close)
    folder = Path(resources.enter_context(tempfile.TemporaryDirectory()))
    shutil.copytree(ROOT / "policies", folder / "policies")
    config = folder / "authz.yaml"
    config.write_text("store: 'sqlite:///:memory:'\nrecords: {file: ''}\n")
    time = Time()
    made = Engine(read_settings(config), environ={"GROQ_API_KEY": UPSTREAM_KEY}, clock=time, load=load_bundle)
    engine = resources.enter_context(made)
    assert Place(folder, engine, time).issue("chatbot-prod") == SECRET
    count = 0

    def one(data: bytes) -> str:
        nonlocal count
        count += 1
        if count % _TIDY_EVERY == 0:
            time.pass_s(100_000)
            engine.tick()
        time.pass_s(0.01)
        decision: Decision
        try:
            request = decode_check(data)
        except Refused as refused:
            decision = engine.pdp.reject(refused)
        else:
            decision = engine.pdp.decide(request)
        answer = check_pb2.CheckResponse.FromString(encode(decision))
        match decision:
            case Allow():
                assert answer.HasField("ok_response")
                assert f"Bearer {SECRET}".encode() in data or SECRET.encode() in data, "an allow without a credential"
                engine.settle(Receipt(decision.reservation_id, "", Outcome.NOT_SENT, 0, None))
                return "allow"
            case Deny():
                assert not answer.HasField("ok_response")
                assert json.loads(answer.denied_response.body)["error"]["code"] == decision.reason.value
                return decision.reason.value
            case Reply():
                assert answer.denied_response.status.code == 200
                return "reply"

    return one
