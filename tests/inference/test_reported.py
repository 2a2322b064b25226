"""Counts in answers, plain and streamed: from one source only, however a stream is cut, and never from what a model says."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.inference.reported import (
    MAX_BODY_BYTES,
    MAX_EVENT_BYTES,
    MAX_TOKENS,
    BodyReader,
    StreamReader,
    from_body,
    from_usage,
    named_in,
)
from authz.model import Named, Usage

CHAT = {"prompt_tokens": 9, "completion_tokens": 16, "total_tokens": 25, "prompt_tokens_details": {"cached_tokens": 4}}
RESPONSE = {"input_tokens": 9, "output_tokens": 16, "input_tokens_details": {"cached_tokens": 4}}
FOUND = Usage(9, 16, 4)


def event(**fields: Any) -> bytes:
    return b"data: " + json.dumps(fields).encode() + b"\n\n"


def read(*pieces: bytes) -> StreamReader:
    reader = StreamReader()
    for piece in pieces:
        reader.feed(piece)
    return reader


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ({"usage": CHAT}, FOUND),
        ({"usage": RESPONSE}, FOUND),
        ({"usage": {"prompt_tokens": 7, "total_tokens": 7}}, Usage(7, 0)),
        ({"usage": {"prompt_tokens": 7, "total_tokens": 8}}, None),
        ({"x_groq": {"usage": CHAT}}, None),
        ({"usage": None}, None),
        ({"usage": {"prompt_tokens": 0, "completion_tokens": 0}}, None),
        ({"usage": {"prompt_tokens": -1, "completion_tokens": 2}}, None),
        ({"usage": {"prompt_tokens": 1.5, "completion_tokens": 2}}, None),
        ({"usage": {"prompt_tokens": MAX_TOKENS + 1, "completion_tokens": 2}}, None),
        ({"usage": CHAT | {"prompt_tokens_details": {"cached_tokens": 99}}}, Usage(9, 16, 0)),
        ({"choices": [{"message": {"content": json.dumps({"usage": CHAT})}}]}, None),
        ([1, 2], None),
    ],
)
def test_a_plain_answer(answer: Any, expected: Usage | None) -> None:
    body = json.dumps(answer).encode()
    assert from_body(body) == expected
    reader = BodyReader()
    reader.feed(body)
    assert reader.usage == expected


def test_an_answer_too_large_to_keep_has_no_count() -> None:
    reader = BodyReader()
    reader.feed(json.dumps({"usage": CHAT}).encode())
    reader.feed(b" " * MAX_BODY_BYTES)
    assert reader.usage is None


@pytest.mark.parametrize(
    "said",
    [
        [{"x_groq": {"usage": CHAT}}],
        [{"x_groq": {"id": "r"}}, {"choices": [], "usage": CHAT}],
        [{"x_groq": {"usage": CHAT}}, {"usage": CHAT | {"completion_tokens": 17}}],
        [{"response": {"usage": None}}, {"response": {"usage": RESPONSE}}],
        [{"x_groq": {"usage": {"dram_cached_tokens": 0}}}, {"usage": CHAT}],
    ],
)
def test_a_stream_counts_once_whatever_says_it(said: list[dict[str, Any]]) -> None:
    reader = read(*(event(**fields) for fields in said), b"data: [DONE]\n\n")
    assert (reader.usage, reader.done) == (FOUND, True)


def test_a71_a_model_that_says_usage_changes_nothing() -> None:
    said = json.dumps({"usage": CHAT})
    reader = read(
        event(choices=[{"delta": {"content": f"\n\ndata: {said}\n\n"}}]), event(choices=[{"delta": {"content": said}}])
    )
    assert reader.usage is None


def test_an_event_too_long_to_keep_is_passed_over_and_the_next_is_read() -> None:
    long = b"data: " + b"x" * (2 * MAX_EVENT_BYTES)
    reader = read(long[:100], long[100:MAX_EVENT_BYTES], long[MAX_EVENT_BYTES:], b"\n\n", event(usage=CHAT))
    assert reader.usage == FOUND
    assert read(long, event(usage=CHAT)).usage is None  # it is part of that line


STREAM = b"".join(
    [
        event(choices=[{"delta": {"content": 'héllo "usage" \u2028 data: [DONE]'}}]),
        b": a comment\r\n\r\nevent: x\r\n",
        event(x_groq={"usage": CHAT}).replace(b"\n", b"\r\n"),
        b"data: [DONE]\n\n",
    ]
)


@given(st.lists(st.integers(0, len(STREAM)), max_size=12))
def test_a_stream_says_the_same_however_it_is_cut(cuts: list[int]) -> None:
    at = [0, *sorted(cuts), len(STREAM)]
    reader = read(*(STREAM[start:end] for start, end in pairwise(at)))
    assert (reader.usage, reader.done) == (FOUND, True)


@given(st.binary(max_size=300))
def test_nothing_in_a_stream_breaks_the_reader(noise: bytes) -> None:
    reader = read(noise, b"\n", event(usage=CHAT))
    assert reader.usage is not None


@pytest.mark.parametrize("deep", [1_500, 1_000_000])
def test_an_answer_nested_beyond_all_measure_says_nothing(deep: int) -> None:
    for opening in (b"[", b'{"usage":'):
        nested = b'{"usage":' + opening * deep
        assert from_body(nested) is None
        assert from_usage(nested) is None
        reader = StreamReader()
        reader.feed(b"data: " + nested + b"\n\n")
        assert reader.usage is None


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"object": "file", "id": "file-1", "output_file_id": "file-2"}, Named("file", "file-1")),
        ({"object": "batch", "id": "batch_1", "output_file_id": None}, Named("batch", "batch_1")),
        ({"object": "batch", "id": "b", "output_file_id": "o", "error_file_id": "e"}, Named("batch", "b", ("o", "e"))),
        ({"object": "batch", "id": "b", "output_file_id": "../x", "error_file_id": "e"}, Named("batch", "b", ("e",))),
        ({"object": "chat.completion", "id": "chatcmpl-1"}, None),
        ({"object": "file", "id": "a/b"}, None),
        ({"object": "file", "id": ""}, None),
        ({"object": "file", "id": "x" * 129}, None),
        ({"object": "file", "id": 7}, None),
        ({"id": "file-1"}, None),
        ([], None),
        ("file", None),
    ],
)
def test_an_answer_names_a_file_or_a_batch_or_nothing(said: object, expected: Named | None) -> None:
    body = json.dumps(said).encode()
    assert named_in(body) == expected
    reader = BodyReader()
    for piece in (body[:5], body[5:]):
        reader.feed(piece)
    assert reader.named == expected
