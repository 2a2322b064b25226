"""What Envoy is told: the one place where a decision leaves for the wire."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import assert_never

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given

from authz.answers import CLIENT_CREDENTIALS, body
from authz.envoy.answer import encode
from authz.envoy.wire import base_pb2, check_pb2
from authz.model import Allow, Decision, Deny, Reply, Secret
from authz.reasons import SPEC, Reason
from tests.envoy.sidecar import RECORD, UPSTREAM_KEY, allow, deny

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


# ---- the bytes are those of protobuf


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=300)
NAME = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=200)
HEADERS = st.lists(st.tuples(NAME, TEXT), max_size=8).map(tuple)
DECISIONS: st.SearchStrategy[Decision] = st.one_of(
    st.builds(Allow, NAME, NAME.map(Secret), HEADERS, st.just(RECORD), TEXT),
    st.builds(Deny, st.sampled_from(Reason), st.integers(100, 599), NAME, TEXT, st.none() | TEXT, HEADERS, st.just(RECORD)),
    st.builds(Reply, (TEXT | st.just("x" * 20_000)).map(str.encode), HEADERS, st.just(RECORD)),
)


@given(DECISIONS)
def test_what_is_written_is_what_protobuf_writes(decision: Decision) -> None:
    expected = by_protobuf(decision)
    written = encode(decision)
    assert check_pb2.CheckResponse.FromString(written) == expected
    assert len(written) == expected.ByteSize()


@given(DECISIONS)
def test_field_by_field_it_is_the_same_bytes(decision: Decision) -> None:
    """All but the order of the metadata, which is a map's."""
    expected = by_protobuf(decision)
    expected.ClearField("dynamic_metadata")
    written = encode(decision)
    head = expected.SerializeToString()
    assert written[: len(head)] == head


def by_protobuf(decision: Decision) -> check_pb2.CheckResponse:
    json_type = ("content-type", "application/json")
    match decision:
        case Allow():
            made = check_pb2.CheckResponse(
                status=check_pb2.Status(code=0),
                ok_response=check_pb2.OkHttpResponse(
                    headers=overwriting([("authorization", f"Bearer {decision.upstream_key.reveal()}")]),
                    headers_to_remove=CLIENT_CREDENTIALS,
                    response_headers_to_add=overwriting(decision.headers),
                ),
            )
            made.dynamic_metadata["reservation"] = decision.reservation_id
            if decision.upstream:
                made.dynamic_metadata["upstream"] = decision.upstream
            return made
        case Deny():
            made = denied(decision.status, [*decision.headers, json_type], body(decision).decode())
            made.dynamic_metadata["reason"] = decision.reason.value
            return made
        case Reply():
            return denied(200, [*decision.headers, json_type], decision.body.decode())
        case _:
            assert_never(decision)


def denied(status: int, headers: Iterable[tuple[str, str]], content: str) -> check_pb2.CheckResponse:
    return check_pb2.CheckResponse(
        status=check_pb2.Status(code=7),
        denied_response=check_pb2.DeniedHttpResponse(
            status=check_pb2.HttpStatus(code=status), headers=overwriting(headers), body=content
        ),
    )


def overwriting(headers: Iterable[tuple[str, str]]) -> list[base_pb2.HeaderValueOption]:
    return [
        base_pb2.HeaderValueOption(header=base_pb2.HeaderValue(key=key, value=value), append_action=OVERWRITE)
        for key, value in headers
    ]
