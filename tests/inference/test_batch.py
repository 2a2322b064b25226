"""A file of requests is read as strictly as each of them, and a line of it is one line to every reader."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.errors import Refused
from authz.inference import batch, estimate
from authz.inference.endpoints import PREFIX, read
from authz.inference.pricebook import ModelSpec
from authz.model import Ask, Meter, Price, Request
from authz.reasons import Reason

BODY = {"model": "m", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 10}


def line(name: str = "a", **changes: Any) -> dict[str, Any]:
    return {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": BODY} | changes


def jsonl(*rows: dict[str, Any]) -> bytes:
    return b"\n".join(json.dumps(row).encode() for row in rows)


def form(file: bytes, *, purpose: bytes = b"batch", more: bytes = b"") -> bytes:
    return (
        b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\n' + purpose + b"\r\n" + more
        + b'--b\r\nContent-Disposition: form-data; name="file"; filename="b.jsonl"\r\n'
        + b"Content-Type: application/octet-stream\r\n\r\n" + file + b"\r\n--b--\r\n"
    )  # fmt: skip


def uploaded(file: bytes, **fields: bytes) -> Ask:
    headers = (("content-type", "multipart/form-data; boundary=b"),)
    return read(Request("POST", f"{PREFIX}/files", headers, form(file, **fields)))


def refused(file: bytes, **fields: bytes) -> Refused:
    with pytest.raises(Refused) as caught:
        uploaded(file, **fields)
    return caught.value


def test_a_file_is_the_asks_of_its_lines() -> None:
    ask = uploaded(jsonl(line("a"), line("b", body=BODY | {"tools": [{"type": "function"}]})) + b"\n")
    assert (ask.endpoint, ask.action, ask.models) == ("files.create", "batch", ("m",))
    assert [(each.action, each.endpoint, each.max_output_tokens, each.tools) for each in ask.lines] == [
        ("chat", "chat.completions", 10, False),
        ("chat", "chat.completions", 10, True),
    ]
    assert all(each.input_bytes > len(json.dumps(BODY)) for each in ask.lines)


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n"])
def test_lines_may_end_as_on_any_system(end: bytes) -> None:
    assert len(uploaded(jsonl(line("a")) + b"\r\n" + jsonl(line("b")) + end).lines) == 2


@pytest.mark.parametrize(
    ("file", "says"),
    [
        (b"", "Line 1: We could not parse the body of your request: the body is empty"),
        (b"\n\n", "Line 1: "),
        (jsonl(line()) + b"\n\n", "Line 2: "),
        (jsonl(line()) + b"\n\n" + jsonl(line("b")), "Line 2: "),
        (jsonl(line()) + jsonl(line("b")), "Line 1: "),
        (b"[" + jsonl(line()) + b"]", "Line 1: "),
        (b"\xef\xbb\xbf" + jsonl(line()), "Line 1: "),
        (json.dumps(line(), indent=1).encode(), "Line 1: "),
        (jsonl(line()).replace(b'"custom_id"', b'"custom_id":"b","custom_id"'), "Line 1: We could not"),
        (jsonl(line()).replace(b'"model"', b'"model":"n","\\u006dodel"'), "Line 1: We could not"),
        (jsonl(line()).replace(b" ", b"\r", 1), "Line 1: `file`: a character"),
        (json.dumps(line(body=BODY | {"user": "a\u2028b"}), ensure_ascii=False).encode(), "Line 1: `file`: a character"),
        (json.dumps(line(body=BODY | {"user": "a\x85b"}), ensure_ascii=False).encode(), "Line 1: `file`: a character"),
        (jsonl({"body": BODY}), "Line 1: `file`: expected exactly"),
        (jsonl(line(custom_id="")), "Line 1: `custom_id`"),
        (jsonl(line(custom_id=1)), "Line 1: `custom_id`"),
        (jsonl(line(custom_id="x" * 513)), "Line 1: `custom_id`"),
        (jsonl(line(), line()), "Line 2: `custom_id`"),
        (jsonl(line(method="post")), "Line 1: `method`"),
        (jsonl(line(url="/openai/v1/chat/completions")), "Line 1: `url`"),
        (jsonl(line(url=["/v1/chat/completions"])), "Line 1: `url`"),
        (jsonl(line(body=json.dumps(BODY))), "Line 1: `body`"),
        (jsonl(line(body=BODY | {"surprise": 1})), "Line 1: `surprise`"),
        (jsonl(line(body=BODY | {"service_tier": "flex"})), "Line 1: `service_tier`"),
        (jsonl(line(body=BODY | {"service_tier": "batch"})), "Line 1: `service_tier`"),
        (jsonl(line(), line("b", body=BODY | {"model": "n"})), "Line 2: `model`"),
        (jsonl(line(), line("b", url="/v1/embeddings", body={"model": "m", "input": "x"})), "Line 2: `model`"),
    ],
)
def test_a35_what_two_readers_could_take_for_two_files_is_refused(file: bytes, says: str) -> None:
    found = refused(file)
    assert found.reason is Reason.INVALID_REQUEST
    assert found.message.startswith(says)


def test_a35_there_is_one_file_one_purpose_and_nothing_else() -> None:
    good = jsonl(line())
    assert refused(good, purpose=b"fine-tune").param == "purpose"
    for name, part in (("purpose", b"batch"), ("file", good), ("expires_after[anchor]", b"x")):
        head = f'--b\r\nContent-Disposition: form-data; name="{name}"'.encode()
        filename = b'; filename="x"' if name == "file" else b""
        assert refused(good, more=head + filename + b"\r\n\r\n" + part + b"\r\n").param == name


def test_a_file_is_bounded_in_size_and_in_lines() -> None:
    assert len(uploaded(b"\n".join(jsonl(line(str(number))) for number in range(batch.MAX_LINES))).lines) == batch.MAX_LINES
    for file in (b"{}\n" * (batch.MAX_LINES + 1), b"x" * (batch.MAX_FILE_BYTES + 1)):
        assert refused(file).reason is Reason.REQUEST_TOO_LARGE


_texts = st.text(max_size=20)


@given(st.lists(st.tuples(_texts, _texts, st.sampled_from(["\n", "\r\n", "\r", "\u2028", "", " "])), min_size=1, max_size=4))
def test_what_is_taken_is_as_many_lines_to_every_reader(rows: list[tuple[str, str, str]]) -> None:
    text = "".join(json.dumps(line(name, body=BODY | {"user": user}), ensure_ascii=False) + end for name, user, end in rows)
    try:
        ask = uploaded(text.encode())
    except (Refused, UnicodeEncodeError):
        return
    for split in (
        text.splitlines(),
        text.encode().splitlines(),
        list(io.StringIO(text, newline=None)),
        text.rstrip().split("\n"),
    ):
        assert [json.loads(each)["custom_id"] for each in split] == [name for name, _, _ in rows][: len(ask.lines)]


# ---- the calls


def created(**changes: Any) -> Ask:
    fields = {"input_file_id": "file-1", "endpoint": "/v1/embeddings", "completion_window": "24h"} | changes
    return batch.read_create(json.dumps(fields).encode())


def test_a_batch_names_its_file_and_its_window() -> None:
    ask = created(metadata={"a": "b"})
    assert (ask.named, ask.url, ask.window_s, ask.models) == ("file-1", "/v1/embeddings", 86_400, ())
    assert created(completion_window="7d").window_s == 7 * 86_400


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("input_file_id", value) for value in (None, "", 1, "a/b", "a?b", "é", "x" * 129, ["f"])),
        *(("endpoint", value) for value in (None, "", "/v1/audio/transcriptions", "/openai/v1/embeddings", ["x"])),
        *(
            ("completion_window", value)
            for value in (None, "", "24", "h", "0h", "8d", "169h", "-1h", "1.5h", "24H", "٢h", "9999h", 24)
        ),
        ("metadata", "x"),
        ("model", "m"),
    ],
)
def test_anything_else_of_a_batch_is_refused(field: str, value: Any) -> None:
    with pytest.raises(Refused) as caught:
        created(**{field: value})
    assert (caught.value.reason, caught.value.param) == (Reason.INVALID_REQUEST, field)


@pytest.mark.parametrize(
    ("method", "path", "endpoint"),
    [
        ("GET", "/files/file-1", "files.retrieve"),
        ("DELETE", "/files/file-1", "files.delete"),
        ("GET", "/files/file-1/content", "files.content"),
        ("GET", "/batches/batch_1", "batches.retrieve"),
        ("POST", "/batches/batch_1/cancel", "batches.cancel"),
    ],
)
def test_what_is_asked_by_id(method: str, path: str, endpoint: str) -> None:
    ask = read(Request(method, PREFIX + path, (), b""))
    assert (ask.endpoint, ask.action, ask.named) == (endpoint, "batch", path.split("/")[2])
    for other in (
        f"{path}/",
        f"{path}?a=b",
        f"{path}%20",
        path.replace("1", "%31"),
        path.replace("1", "1;"),
        f"{path}/content/x",
    ):
        for verb in ("GET", "POST", "DELETE", "PUT"):
            with pytest.raises(Refused) as caught:
                read(Request(verb, PREFIX + other, (), b""))
            assert caught.value.reason is Reason.UNKNOWN_URL
    with pytest.raises(Refused) as caught:
        read(Request(method, PREFIX + path, (), b"{}"))
    assert caught.value.reason is Reason.INVALID_REQUEST


# ---- what it costs

HALF = Price(input=25_000_000, output=40_000_000, cached_input=12_500_000)
SPEC = ModelSpec(
    id="m",
    groups=(),
    actions=frozenset({"chat", "batch"}),
    price=Price(input=50_000_000, output=80_000_000, cached_input=25_000_000),
    audio_hour=None,
    million_characters=None,
    context_tokens=1000,
    max_output_tokens=500,
    prompt_overhead_tokens=10,
    expected_output_tokens=100,
    tiers={"on_demand": Price(input=50_000_000, output=80_000_000, cached_input=25_000_000), "batch": HALF},
)


def test_a_batch_costs_what_its_lines_may_use_at_its_own_price() -> None:
    lines = [
        Ask("chat.completions", "chat", ("m",), input_bytes=size, max_output_tokens=most, url="/u")
        for size, most in ((100, 10), (2000, None))
    ]
    work = estimate.work_of(lines, [estimate.of_line(each, SPEC) for each in lines])
    assert (work.lines, work.input_tokens, work.output_tokens) == (2, 110 + 1000, 10 + 500)
    assert (work.largest_input_tokens, work.largest_output_tokens) == (1000, 500)
    found = estimate.of_work(work, HALF)
    assert found.at_most[Meter.SPEND] == -(-(1110 * 25_000_000 + 510 * 40_000_000) // 1_000_000)
    assert (found.at_most[Meter.REQUESTS], found.at_most[Meter.IN_FLIGHT]) == (2, 0)
    assert found.expected[Meter.TOKENS] < found.at_most[Meter.TOKENS] == 1620


@pytest.mark.parametrize("without", [{"actions": frozenset({"chat"})}, {"tiers": {"on_demand": SPEC.tiers["on_demand"]}}])
def test_a34_a_model_without_a_price_for_batches_is_in_none(without: dict[str, Any]) -> None:
    bare = ModelSpec(**{name: getattr(SPEC, name) for name in SPEC.__struct_fields__} | without)
    assert estimate.batch_price(SPEC) == HALF
    with pytest.raises(Refused) as caught:
        estimate.batch_price(bare)
    assert caught.value.reason is Reason.MODEL_NOT_PRICED
