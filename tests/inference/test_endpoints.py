"""The other bodies in JSON (responses, embeddings, speech), and what each row of the table costs."""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from authz import inference
from authz.errors import Refused
from authz.inference import embeddings, endpoints, estimate, responses, speech
from authz.inference.estimate import METERED
from authz.inference.pricebook import ModelSpec
from authz.model import Ask, Meter, Price, Request
from authz.policy import ACTIONS
from authz.reasons import Reason

RESPONSE: dict[str, Any] = {"model": "openai/gpt-oss-20b", "input": "hello"}
EMBEDDING: dict[str, Any] = {"model": "embedder", "input": "hello"}
SPEECH: dict[str, Any] = {"model": "canopylabs/orpheus-v1-english", "input": "hello", "voice": "troy"}


def body(fields: dict[str, Any], **changes: Any) -> bytes:
    return json.dumps({name: value for name, value in {**fields, **changes}.items() if value != "absent"}).encode()


def refused(reader: Any, raw: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        reader(raw)
    return caught.value


# ---- responses


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"instructions": "be brief", "reasoning": {"effort": "low"}, "text": {"format": {"type": "text"}}, "store": False},
        {"input": [{"role": "user", "content": "hi"}, {"type": "message", "role": "assistant", "content": [
            {"type": "output_text", "text": "yes"}]}]},
        {"input": [{"role": "user", "content": [{"type": "input_text", "text": "hi"}]}]},
        {"input": [
            {"type": "reasoning", "summary": [{"type": "summary_text", "text": "x"}], "content": [
                {"type": "reasoning_text", "text": "y"}]},
            {"type": "function_call", "name": "f", "arguments": "{}", "call_id": "c"},
            {"type": "function_call_output", "call_id": "c", "output": "1"}]},
        {"tools": [{"type": "function", "name": "f"}], "tool_choice": {"type": "function", "name": "f"}},
        {"tool_choice": "auto", "service_tier": "flex", "stream": True, "max_output_tokens": 7},
        {"previous_response_id": None, "background": None},
    ],
)  # fmt: skip
def test_a_response_is_read(changes: dict[str, Any]) -> None:
    raw = body(RESPONSE, **changes)
    assert responses.read(raw) == Ask(
        endpoint="responses",
        action="respond",
        models=("openai/gpt-oss-20b",),
        stream=changes.get("stream", False),
        input_bytes=len(raw),
        max_output_tokens=changes.get("max_output_tokens"),
        service_tier=changes.get("service_tier", "on_demand"),
        tools="tools" in changes,
    )


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"model": "absent"}, "model"),
        ({"model": ["a"]}, "model"),
        ({"Model": "x"}, "Model"),
        ({"models": ["x"]}, "models"),
        ({"fallback_model": "x"}, "fallback_model"),
        ({"max_tokens": 5}, "max_tokens"),
        ({"n": 1}, "n"),
        ({"input": "absent"}, "input"),
        ({"input": ""}, "input"),
        ({"input": []}, "input"),
        ({"input": [1]}, "input"),
        ({"input": [{"role": "user", "content": 1}]}, "input"),
        ({"input": [{"type": "function_call", "arguments": {}}]}, "input"),
        ({"instructions": ["x"]}, "instructions"),
        ({"stream": "yes"}, "stream"),
        ({"tools": {}}, "tools"),
        *(({"max_output_tokens": value}, "max_output_tokens") for value in (-1, 0, 1.5, True, "9", 2**31)),
    ],
)
def test_a20_a33_what_a_response_cannot_be_is_400(changes: dict[str, Any], param: str) -> None:
    found = refused(responses.read, body(RESPONSE, **changes))
    assert (found.reason, found.param) == (Reason.INVALID_REQUEST, param)


@pytest.mark.parametrize(
    ("changes", "param"),
    [
        ({"previous_response_id": "resp_1"}, "previous_response_id"),
        ({"conversation": "conv_1"}, "conversation"),
        ({"prompt": {"id": "p"}}, "prompt"),
        ({"background": True}, "background"),
        ({"service_tier": "priority"}, "service_tier"),
        *(({"tools": [{"type": kind}]}, "tools") for kind in ("web_search", "browser_search", "code_interpreter", "mcp", 1)),
        ({"tools": ["web_search"]}, "tools"),
        ({"tool_choice": {"type": "mcp"}}, "tool_choice"),
        ({"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "http://x"}]}]}, "input"),
        ({"input": [{"role": "user", "content": [{"type": "input_file", "file_id": "f"}]}]}, "input"),
        ({"input": [{"role": "user", "content": ["text"]}]}, "input"),
        ({"input": [{"type": "item_reference", "id": "i"}]}, "input"),
        ({"input": [{"type": "reasoning", "encrypted_content": "x"}]}, "input"),
        ({"input": [{"type": ["message"], "content": "x"}]}, "input"),
        ({"input": [{"type": "function_call_output", "output": [{"type": "input_image"}]}]}, "input"),
    ],
)  # fmt: skip
def test_a30_a31_what_has_no_price_in_a_response_is_denied_by_name(changes: dict[str, Any], param: str) -> None:
    found = refused(responses.read, body(RESPONSE, **changes))
    assert (found.reason, found.param) == (Reason.MODEL_NOT_PRICED, param)


# ---- embeddings and speech


def test_an_embedding_is_read_with_the_number_of_its_texts() -> None:
    raw = body(EMBEDDING, input=["a", "b", ""], dimensions=8, encoding_format="base64", user="u")
    assert embeddings.read(raw) == Ask("embeddings", "embed", ("embedder",), input_bytes=len(raw), inputs=3)
    assert embeddings.read(body(EMBEDDING)).inputs == 1


@pytest.mark.parametrize("given", ["absent", "", [], [1], [[1, 2]], [None], ["a", 1], {"text": "a"}, ["a"] * 2049])
def test_an_embedding_of_anything_but_texts_is_400(given: Any) -> None:
    assert refused(embeddings.read, body(EMBEDDING, input=given)).param == "input"


@pytest.mark.parametrize(("text", "characters"), [("hello", 5), ("ü" * 10, 10), ("😀", 2), ("مرحبا", 5)])
def test_speech_costs_its_characters(text: str, characters: int) -> None:
    assert speech.read(body(SPEECH, input=text, response_format="wav", speed=1.5)).characters == characters


@pytest.mark.parametrize(
    ("changes", "param"),
    [({"input": ""}, "input"), ({"input": ["a"]}, "input"), ({"voice": "absent"}, "voice"), ({"voice": {"id": "x"}}, "voice"),
     ({"instructions": "sing"}, "instructions"), ({"model": None}, "model"), ({"model_id": "x"}, "model_id")],
)  # fmt: skip
def test_what_a_speech_cannot_be_is_400(changes: dict[str, Any], param: str) -> None:
    found = refused(speech.read, body(SPEECH, **changes))
    assert (found.reason, found.param) == (Reason.INVALID_REQUEST, param)


@pytest.mark.parametrize("reader", [responses.read, embeddings.read, speech.read])
@pytest.mark.parametrize(
    "raw",
    [b"", b"[]", b'{"model":"a","model":"b","input":"x"}', b'{"model":"a","\\u006dodel":"b","input":"x"}', b"\xef\xbb\xbf{}"],
)
def test_a17_a18_a21_every_reader_of_json_is_the_strict_one(reader: Any, raw: bytes) -> None:
    assert refused(reader, raw).reason is Reason.INVALID_REQUEST


# ---- the table


def test_a37_every_row_has_an_action_a_meter_and_a_reader() -> None:
    for (method, path), row in endpoints.TABLE.items():
        assert method in ("GET", "POST")
        assert path.startswith("/openai/v1/")
        assert row.action in ACTIONS
        assert row.action in METERED
    assert set(METERED) == {row.action for row in endpoints.TABLE.values()}


def test_the_documented_table_is_the_one_in_force() -> None:
    text = (Path(inference.__file__).parents[2] / "docs/endpoints.md").read_text()
    lines = text.partition("|---|---|---|---|---|---|---|\n")[2].partition("\n\n")[0].splitlines()
    told = [tuple(cell.strip() for cell in line.strip("|").split("|"))[:5] for line in lines]
    assert [row[:4] for row in told] == [
        (method, path.removeprefix(endpoints.PREFIX), row.name, row.action) for method, path, row in endpoints.rows()
    ]
    for _, _, name, action, metered in told:
        free = action == "batch" and name != "batches.create"
        assert metered == ("one request" if free else METERED[action].value)


def test_a39_a40_no_tokeniser_and_no_pattern_stands_in_the_path() -> None:
    for file in Path(inference.__file__).parent.glob("*.py"):
        names = {
            alias.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.Import) for alias in node.names
        }
        assert names.isdisjoint({"re", "regex", "tiktoken", "tokenizers", "transformers"}), file.name


@pytest.mark.parametrize("path", ["/batches", "/batches?limit=1", "/files", "/files?purpose=batch"])
def test_a35_lists_of_files_and_batches_are_denied_and_told_so(path: str) -> None:
    found = refused(endpoints.read, Request("GET", endpoints.PREFIX + path, (), b""))  # type: ignore[arg-type]
    assert found.reason is Reason.UNKNOWN_URL
    assert found.message.startswith("A list would show what is other teams'")
    other = refused(endpoints.read, Request("GET", f"{endpoints.PREFIX}/filesystem", (), b""))  # type: ignore[arg-type]
    assert other.message.startswith("Unknown request URL")


@pytest.mark.parametrize("path", [path for method, path in endpoints.TABLE if method == "POST"])
def test_a26_an_encoded_body_is_415_on_every_endpoint(path: str) -> None:
    headers = (("content-type", "application/json"), ("content-encoding", "gzip"))
    assert refused(endpoints.read, Request("POST", path, headers, b"{}")).reason is Reason.UNSUPPORTED_MEDIA_TYPE  # type: ignore[arg-type]


@pytest.mark.parametrize("path", [path for method, path in endpoints.TABLE if method == "POST"])
def test_a5_a_partial_or_empty_body_is_refused_on_every_endpoint(path: str) -> None:
    form = path.endswith(("/files", "/transcriptions", "/translations"))
    kind = "multipart/form-data; boundary=b" if form else "application/json"
    headers = (("content-type", kind),)
    assert refused(endpoints.read, Request("POST", path, headers, None)).reason is Reason.REQUEST_TOO_LARGE  # type: ignore[arg-type]
    assert refused(endpoints.read, Request("POST", path, headers, b"")).reason is Reason.INVALID_REQUEST  # type: ignore[arg-type]


# ---- what it costs

SPEC = ModelSpec(
    id="m",
    groups=(),
    actions=frozenset({"chat", "embed", "transcribe", "speak"}),
    price=Price(input=50_000_000, output=80_000_000, cached_input=25_000_000),
    audio_hour=111_000_000,
    million_characters=22_000_000_000,
    context_tokens=1000,
    max_output_tokens=500,
    prompt_overhead_tokens=10,
    expected_output_tokens=100,
    minimum_audio_seconds=10,
    tiers={"on_demand": Price(input=50_000_000, output=80_000_000, cached_input=25_000_000)},
)


def test_embeddings_are_bounded_text_by_text_and_have_no_output() -> None:
    found, price = estimate.of(Ask("embeddings", "embed", ("m",), input_bytes=2500, inputs=3), SPEC)
    assert price == SPEC.price
    assert found.at_most[Meter.INPUT_TOKENS] == 2530
    assert found.at_most[Meter.OUTPUT_TOKENS] == found.expected[Meter.OUTPUT_TOKENS] == 0
    assert found.at_most[Meter.SPEND] == 2530 * 50
    huge, _ = estimate.of(Ask("embeddings", "embed", ("m",), input_bytes=10**6, inputs=3), SPEC)
    assert huge.at_most[Meter.INPUT_TOKENS] == 3000


@pytest.mark.parametrize(("seconds", "billed"), [(1, 10), (10, 10), (11, 11), (3600, 3600)])
def test_audio_costs_its_seconds_and_at_least_the_upstreams_minimum(seconds: int, billed: int) -> None:
    found, price = estimate.of(Ask("audio.transcriptions", "transcribe", ("m",), audio_seconds=seconds), SPEC)
    assert price is None
    assert found.at_most == found.expected
    assert found.at_most[Meter.AUDIO_SECONDS] == billed
    assert found.at_most[Meter.SPEND] == -(-billed * 111_000_000 // 3600)


def test_speech_costs_its_characters_rounded_up() -> None:
    odd = Ask("audio.speech", "speak", ("m",), characters=3)
    assert estimate.of(odd, SPEC)[0].at_most[Meter.SPEND] == 66_000
    cheap = ModelSpec(**{name: getattr(SPEC, name) for name in SPEC.__struct_fields__} | {"million_characters": 1})
    assert estimate.of(odd, cheap)[0].at_most[Meter.SPEND] == 1


@pytest.mark.parametrize(
    ("action", "without"),
    [("chat", "price"), ("embed", "price"), ("transcribe", "audio_hour"), ("speak", "million_characters")],
)
def test_a34_a_use_without_its_own_price_is_denied(action: str, without: str) -> None:
    ask = Ask("x", action, ("m",), input_bytes=1, audio_seconds=1, characters=1)
    assert estimate.of(ask, SPEC)
    bare = ModelSpec(**{name: getattr(SPEC, name) for name in SPEC.__struct_fields__} | {without: None})
    for asked, model in ((ask, bare), (Ask("x", "respond", ("m",)), SPEC), (Ask("x", "batch", ("m",)), SPEC)):
        with pytest.raises(Refused) as caught:
            estimate.of(asked, model)
        assert caught.value.reason is Reason.MODEL_NOT_PRICED


@pytest.mark.parametrize("action", ["chat", "embed"])
def test_a31_a_tier_is_priced_or_denied(action: str) -> None:
    flex = Price(input=100_000_000, output=160_000_000, cached_input=50_000_000)
    tiered = msgspec.structs.replace(SPEC, tiers=SPEC.tiers | {"flex": flex})
    ask = Ask("x", action, ("m",), input_bytes=100, max_output_tokens=10, service_tier="flex")
    found, price = estimate.of(ask, tiered)
    on_demand, _ = estimate.of(msgspec.structs.replace(ask, service_tier="on_demand"), tiered)
    assert price == flex
    assert found.at_most[Meter.SPEND] == 2 * on_demand.at_most[Meter.SPEND]
    assert found.at_most[Meter.TOKENS] == on_demand.at_most[Meter.TOKENS]
    for tier in ("auto", "performance"):
        with pytest.raises(Refused) as caught:
            estimate.of(msgspec.structs.replace(ask, service_tier=tier), tiered)
        assert (caught.value.reason, caught.value.param) == (Reason.MODEL_NOT_PRICED, "service_tier")
