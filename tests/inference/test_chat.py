"""Reading and estimating a chat (A20, A26, A27, A29 to A33), and the exact table of endpoints (A9, A11)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from authz.errors import Refused
from authz.inference import chat, endpoints, estimate
from authz.model import Ask, Meter, Price, Request, Usage
from authz.reasons import Reason

MESSAGES = [{"role": "user", "content": "hello"}]


def read(**fields: Any) -> Ask:
    return chat.read(json.dumps({"model": "m", "messages": MESSAGES} | fields).encode())


def request(
    method: str = "POST",
    path: str = "/openai/v1/chat/completions",
    *headers: tuple[str, str],
    body: bytes | None = b'{"model":"m","messages":[{"role":"user","content":"x"}]}',
) -> Request:
    return Request(method, path, headers or (("content-type", "application/json"),), body)


def test_what_a_plain_chat_asks() -> None:
    fields = {"model": "m", "messages": MESSAGES, "stream": True, "temperature": 0.5, "max_tokens": None}
    ask = chat.read(json.dumps(fields).encode())
    assert (ask.models, ask.action, ask.stream, ask.max_output_tokens, ask.tools) == (("m",), "chat", True, None, False)
    assert ask.input_bytes == len(json.dumps(fields))
    assert (ask.endpoint, ask.service_tier) == ("chat.completions", "on_demand")
    assert read(service_tier="flex").service_tier == "flex"


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"model": ["m"]}, "model"),
        ({"model": ""}, "model"),
        ({"model": None}, "model"),
        ({"Model": "other"}, "Model"),
        ({"MODEL": "other"}, "MODEL"),
        ({"models": ["other"]}, "models"),
        ({"fallback_model": "other"}, "fallback_model"),
        ({"n": 2}, "n"),
        ({"n": True}, "n"),
        ({"n": 0}, "n"),
        ({"stream": "true"}, "stream"),
        ({"stream": 1}, "stream"),
        ({"messages": []}, "messages"),
        ({"messages": "hello"}, "messages"),
        ({"messages": ["hello"]}, "messages"),
        ({"tools": {"type": "function"}}, "tools"),
        *(
            ({key: value}, key)
            for key in ("max_tokens", "max_completion_tokens")
            for value in (-1, 0, 1.5, True, "9", 2**31, 10**15)
        ),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        read(**fields)
    assert (caught.value.reason, caught.value.param) == (Reason.INVALID_REQUEST, param)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"service_tier": "default"}, "service_tier"),
        ({"service_tier": 1}, "service_tier"),
        ({"compound_custom": {"models": {"answering_model": "other"}}}, "compound_custom"),
        ({"search_settings": {}}, "search_settings"),
        ({"documents": [{"text": "x"}]}, "documents"),
        ({"tools": [{"type": "browser_search"}]}, "tools"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "http://x"}}]}]}, "messages"),
    ],
)
def test_what_has_no_price_is_denied_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(Refused) as caught:
        read(**fields)
    assert (caught.value.reason, caught.value.param) == (Reason.MODEL_NOT_PRICED, param)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"n": 2}, "`n`: expected 1."),
        ({"stream": 1}, "`stream`: expected true or false."),
        ({"model": 1}, "`model`: expected the name of a model as text."),
        ({"messages": []}, "`messages`: expected a list of at least one message."),
        ({"messages": ["hello"]}, "`messages`: expected messages whose content is text."),
        ({"messages": [{"content": [{"type": "image_url"}]}]}, "`messages`: only text is priced here."),
        ({"tools": {}}, "`tools`: expected a list of functions."),
        ({"tools": ["f"]}, "`tools`: only functions of the client's own are priced here."),
        ({"max_tokens": 0}, "`max_tokens`: expected a whole number from 1 to 2147483647."),
        ({"documents": []}, "`documents`: has no price here."),
        (
            {"service_tier": "fast"},
            "`service_tier`: has no price here: expected auto, on_demand, flex or performance.",
        ),
        ({"x" * 41: 1}, f"`{'x' * 40}`: is not a parameter that this endpoint takes."),
        ({"a\nb": 1}, "`a?b`: is not a parameter that this endpoint takes."),
    ],
)
def test_a_refusal_says_what_was_expected(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(Refused) as caught:
        read(**fields)
    assert caught.value.message == message


def test_a_name_that_is_the_callers_alone_is_private() -> None:
    with pytest.raises(Refused) as caught:
        read(secret=1)
    assert caught.value.private == "secret"


@pytest.mark.parametrize(
    "content",
    [
        [{"type": "text", "text": "x"}, {"type": "image_url"}],
        [{"type": "TEXT"}],
        [{"kind": "text"}],
        ["text"],
    ],
)
def test_every_part_of_every_message_is_looked_at(content: Any) -> None:
    assert read(messages=[{"content": None}, {"content": [{"type": "text", "text": "x"}]}])
    with pytest.raises(Refused) as caught:
        read(messages=[{"content": "hello"}, {"content": None}, {"content": content}])
    assert caught.value.reason is Reason.MODEL_NOT_PRICED


def test_the_ends_of_what_a_ceiling_may_be_are_taken() -> None:
    assert read(max_tokens=1).max_output_tokens == 1
    assert read(max_tokens=2**31 - 1).max_output_tokens == 2**31 - 1


def test_the_larger_of_the_two_ceilings_counts() -> None:
    assert read(max_tokens=10, max_completion_tokens=20).max_output_tokens == 20
    assert read(max_tokens=30, max_completion_tokens=20).max_output_tokens == 30


def test_functions_of_the_client_are_tools() -> None:
    assert read(tools=[{"type": "function", "function": {"name": "f"}}]).tools
    assert read(functions=[{"name": "f"}]).tools
    assert not read(tools=[]).tools


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/openai/v1/chat/completions"),
        ("DELETE", "/openai/v1/chat/completions"),
        ("post", "/openai/v1/chat/completions"),
        ("CONNECT", "/openai/v1/chat/completions"),
        *(
            ("POST", path)
            for path in (
                "/",
                "/openai/v1/chat/completions/",
                "/openai/v1/chat/completions?",
                "/openai/v1/chat/completions?a=b",
                "/openai/v1/chat/completions#x",
                "/openai/v1/chat/completions%23",
                "/openai/v1/chat/completions;a",
                "/openai/v1//chat/completions",
                "/openai/v1/x/../chat/completions",
                "/openai/v1/chat%2Fcompletions",
                "/openai/v1/Chat/Completions",
                "/openai/v1/fine_tuning/jobs",
                "openai/v1/chat/completions",
            )
        ),
    ],
)
def test_what_is_not_in_the_table_to_the_byte_is_unknown(method: str, path: str) -> None:
    with pytest.raises(Refused) as caught:
        endpoints.read(request(method, path))
    assert caught.value.reason is Reason.UNKNOWN_URL


@pytest.mark.parametrize(
    "headers",
    [
        (),
        (("content-type", "text/plain"),),
        (("content-type", "application/x-www-form-urlencoded"),),
        (("content-type", "application/json; charset=utf-16"),),
        (("content-type", "application/json"), ("content-type", "application/json")),
        (("content-type", "application/json,application/json"),),
        (("content-type", "application/json"), ("content-encoding", "gzip")),
        (("content-type", "application/json"), ("content-encoding", "identity, br")),
    ],
)
def test_a_second_way_to_read_the_body_is_415(headers: tuple[tuple[str, str], ...]) -> None:
    body = b'{"model":"m","messages":[{"role":"user","content":"x"}]}'
    with pytest.raises(Refused) as caught:
        endpoints.read(Request("POST", "/openai/v1/chat/completions", headers, body))
    assert caught.value.reason is Reason.UNSUPPORTED_MEDIA_TYPE


def test_a_charset_of_utf_8_is_taken() -> None:
    assert endpoints.read(request("POST", "/openai/v1/chat/completions", ("content-type", 'application/json; charset="UTF-8"')))


def test_a_body_that_is_not_whole_is_refused() -> None:
    with pytest.raises(Refused) as caught:
        endpoints.read(request(body=None))
    assert caught.value.reason is Reason.REQUEST_TOO_LARGE
    with pytest.raises(Refused) as caught:
        endpoints.read(
            request("POST", "/openai/v1/chat/completions", ("content-type", "application/json"), ("content-length", "7"))
        )
    assert caught.value.reason is Reason.INVALID_REQUEST


PRICE = Price(input=50_000_000, output=80_000_000, cached_input=25_000_000)


def test_the_bound_covers_the_ceiling_and_the_expectation_does_not() -> None:
    ask = Ask("chat.completions", "chat", ("m",), input_bytes=300, max_output_tokens=None)
    found = estimate.bound(
        ask, PRICE, context_tokens=1000, max_output_tokens=500, overhead_tokens=50, expected_output_tokens=100
    )
    assert found.at_most[Meter.INPUT_TOKENS] == 350
    assert found.at_most[Meter.OUTPUT_TOKENS] == 500
    assert found.at_most[Meter.TOKENS] == 850
    assert found.at_most[Meter.SPEND] == 350 * 50 + 500 * 80
    assert found.expected[Meter.TOKENS] == 100 + 100
    assert found.at_most[Meter.REQUESTS] == found.expected[Meter.REQUESTS] == 1


def test_a_client_cannot_ask_for_more_than_the_model_has() -> None:
    ask = Ask("chat.completions", "chat", ("m",), input_bytes=10**9, max_output_tokens=10**9)
    found = estimate.bound(
        ask, PRICE, context_tokens=1000, max_output_tokens=500, overhead_tokens=50, expected_output_tokens=100
    )
    assert (found.at_most[Meter.INPUT_TOKENS], found.at_most[Meter.OUTPUT_TOKENS]) == (1000, 500)


def test_cost_is_exact_and_rounded_up_once() -> None:
    odd = Price(input=75_000_000, output=300_000_000, cached_input=37_500_000)
    assert estimate.amounts(Usage(input_tokens=3, output_tokens=1, cached_tokens=1), odd)[Meter.SPEND] == 2 * 75 + 38 + 300
    assert estimate.amounts(Usage(input_tokens=4, output_tokens=0, cached_tokens=2), odd)[Meter.SPEND] == 2 * 75 + 75
    assert estimate.amounts(Usage(input_tokens=10, output_tokens=5, cached_tokens=4), odd)[Meter.TOKENS] == 11
