"""What Envoy is told: the one place where a decision leaves for the wire."""

from __future__ import annotations

import json
from collections.abc import Iterable

import msgspec
import pytest

from authz.envoy.answer import encode
from authz.envoy.wire import base_pb2, check_pb2
from authz.reasons import SPEC, Reason
from tests.envoy.sidecar import UPSTREAM_KEY, allow, deny

OVERWRITE = base_pb2.HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD


def test_an_allow_swaps_the_credential() -> None:
    answer = check_pb2.CheckResponse.FromString(encode(allow("rsv-1", (("x-ratelimit-limit-requests", "5"),))))
    assert answer.status.code == 0
    assert answer.WhichOneof("http_response") == "ok_response"
    ok = answer.ok_response
    assert pairs(ok.headers) == [("authorization", f"Bearer {UPSTREAM_KEY}")]
    assert "authorization" not in ok.headers_to_remove  # removing wins over setting
    assert set(ok.headers_to_remove) == {"api-key", "cookie", "proxy-authorization", "x-api-key"}
    assert pairs(ok.response_headers_to_add) == [("x-test-reservation", "rsv-1"), ("x-ratelimit-limit-requests", "5")]
    assert {header.append_action for header in (*ok.headers, *ok.response_headers_to_add)} == {OVERWRITE}
    assert dict(answer.dynamic_metadata) == {"reservation": "rsv-1"}


@pytest.mark.parametrize("reason", Reason)
def test_a_denial_is_an_ok_rpc_in_groqs_error_format(reason: Reason) -> None:
    answer = check_pb2.CheckResponse.FromString(encode(deny(reason, (("retry-after", "7"),))))
    assert answer.status.code != 0
    assert answer.WhichOneof("http_response") == "denied_response"
    denied = answer.denied_response
    assert denied.status.code == SPEC[reason].status
    assert json.loads(denied.body) == {
        "error": {"message": f"refused: {reason.value}", "type": SPEC[reason].type, "code": reason.value}
    }
    assert pairs(denied.headers) == [("retry-after", "7"), ("content-type", "application/json")]
    assert {header.append_action for header in denied.headers} == {OVERWRITE}
    assert dict(answer.dynamic_metadata) == {"reason": reason.value}


def test_a_denial_names_the_parameter_and_keeps_any_text() -> None:
    message = 'a "quoted" line\r\nwith a break, and ünïcode'
    denial = msgspec.structs.replace(deny(Reason.INVALID_REQUEST), message=message, param="model")
    body = check_pb2.CheckResponse.FromString(encode(denial)).denied_response.body
    assert json.loads(body)["error"] == {
        "message": message,
        "type": "invalid_request_error",
        "code": "invalid_request_error",
        "param": "model",
    }


def test_a_denial_carries_no_key() -> None:
    for reason in Reason:
        assert UPSTREAM_KEY.encode() not in encode(deny(reason))


def pairs(headers: Iterable[base_pb2.HeaderValueOption]) -> list[tuple[str, str]]:
    return [(option.header.key, option.header.value) for option in headers]
