"""What a Check becomes, and what it must not become."""

from __future__ import annotations

import pytest

from authz.envoy.check import decode_check
from authz.envoy.wire import base_pb2, check_pb2
from authz.errors import Refused
from authz.reasons import Reason

BODY = b'{"model":"m"}'


def check(
    *headers: tuple[str, str | bytes], body: bytes = BODY, size: int | None = None, joined: dict[str, str] | None = None
) -> check_pb2.CheckRequest:
    """A Check as Envoy 1.40 makes it from our bootstrap."""
    raw = [base_pb2.HeaderValue(key=key, raw_value=v.encode() if isinstance(v, str) else v) for key, v in headers]
    http = check_pb2.AttributeContext.HttpRequest(
        id="123",
        method="POST",
        path="/openai/v1/chat/completions?x=1",
        host="gateway",
        size=len(body) if size is None else size,
        raw_body=body,
        header_map=base_pb2.HeaderMap(headers=raw),
        headers=joined,
    )
    address = base_pb2.Address(socket_address=base_pb2.SocketAddress(address="192.0.2.7", port_value=1234))
    source = check_pb2.AttributeContext.Peer(address=address)
    return check_pb2.CheckRequest(
        attributes=check_pb2.AttributeContext(source=source, request=check_pb2.AttributeContext.Request(http=http))
    )


def test_everything_arrives() -> None:
    request = decode_check(
        check((":path", "/x"), ("X-Request-Id", "r1"), ("authorization", "a"), ("authorization", "b")).SerializeToString()
    )
    assert (request.method, request.path) == ("POST", "/openai/v1/chat/completions?x=1")
    assert request.headers == (("x-request-id", "r1"), ("authorization", "a"), ("authorization", "b"))
    assert request.header("authorization") == ("a", "b")
    assert (request.body, request.request_id, request.source_ip) == (BODY, "r1", "192.0.2.7")


def test_joined_headers_of_another_bootstrap_are_read_too() -> None:
    request = decode_check(check(joined={"authorization": "a,b"}).SerializeToString())
    assert request.headers == (("authorization", "a,b"),)


def test_two_lists_of_headers_are_refused() -> None:
    with pytest.raises(Refused):
        decode_check(check(("authorization", "a"), joined={"authorization": "b"}).SerializeToString())


def test_two_request_ids_are_none() -> None:
    assert decode_check(check(("x-request-id", "a"), ("x-request-id", "b")).SerializeToString()).request_id == ""


@pytest.mark.parametrize(
    ("headers", "body", "size", "whole"),
    [
        pytest.param((), BODY, None, True, id="nothing speaks against it"),
        pytest.param((("x-envoy-auth-partial-body", "false"), ("content-length", "13")), BODY, 13, True, id="all agree"),
        pytest.param((), b"", 0, True, id="no body"),
        pytest.param((("content-length", "0"),), b"", 0, True, id="an empty body"),
        pytest.param((), BODY, -1, True, id="size unknown"),
        pytest.param((("x-envoy-auth-partial-body", "true"),), BODY, None, False, id="marked partial"),
        pytest.param((("x-envoy-auth-partial-body", "False"),), BODY, None, False, id="a mark that is not Envoy's"),
        pytest.param(
            (("x-envoy-auth-partial-body", "false"), ("x-envoy-auth-partial-body", "true")), BODY, None, False, id="two marks"
        ),
        pytest.param((("content-length", "14"),), BODY, None, False, id="announced longer"),
        pytest.param((("content-length", "12"),), BODY, None, False, id="announced shorter"),
        pytest.param((("content-length", "+13"),), BODY, None, False, id="a length that is spelled otherwise"),
        pytest.param((("content-length", "13"), ("content-length", "13")), BODY, None, False, id="two lengths"),
        pytest.param((("content-length", "13"),), b"", 0, False, id="not buffered at all"),
        pytest.param((), BODY, 14, False, id="more was received"),
    ],
)
def test_a_body_that_may_not_be_whole_is_none(
    headers: tuple[tuple[str, str], ...], body: bytes, size: int | None, whole: bool
) -> None:
    request = decode_check(check(*headers, body=body, size=size).SerializeToString())
    assert request.body == (body if whole else None)


def test_a_body_passed_as_text_is_none() -> None:
    message = check()
    message.attributes.request.http.raw_body = b""
    message.attributes.request.http.body = "mended!"
    assert decode_check(message.SerializeToString()).body is None


def test_a_body_keeps_every_byte() -> None:
    body = bytes(range(256))
    assert decode_check(check(body=body).SerializeToString()).body == body


@pytest.mark.parametrize("field", ["method", "path", "host"])
def test_text_that_is_not_utf8_is_refused(field: str) -> None:
    message = check()
    setattr(message.attributes.request.http, field, "MARK")
    refused(message.SerializeToString().replace(b"MARK", b"M\xff\xfeK"))


def test_a_header_that_is_not_utf8_is_refused() -> None:
    refused(check(("x-any", b"\xff")).SerializeToString())
    refused(check(("MARK", "v")).SerializeToString().replace(b"MARK", b"M\xff\xfeK"))


@pytest.mark.parametrize("raw", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"GET / HTTP/1.1"])
def test_what_is_no_check_is_refused(raw: bytes) -> None:
    refused(raw)


def test_an_empty_check_allows_nothing_by_itself() -> None:
    request = decode_check(b"")
    assert (request.method, request.path, request.headers, request.body) == ("", "", (), b"")


def refused(raw: bytes) -> None:
    with pytest.raises(Refused) as caught:
        decode_check(raw)
    assert caught.value.reason is Reason.INVALID_REQUEST
