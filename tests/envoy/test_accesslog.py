"""How an entry of the access log becomes a receipt."""

from __future__ import annotations

import pytest
from google.protobuf.any_pb2 import Any
from google.protobuf.struct_pb2 import Struct

from authz.envoy.accesslog import read_stream_message, stream_response
from authz.envoy.wire import accesslog_pb2, base_pb2
from authz.errors import Refused
from authz.inference.reported import MAX_TOKENS
from authz.model import Named, Outcome, Receipt, Usage

Entry = accesslog_pb2.HTTPAccessLogEntry
STREAMED = '{"prompt_tokens":8,"completion_tokens":19,"total_tokens":27,"prompt_tokens_details":{"cached_tokens":3}}'


def entry(
    *,
    status: int = 200,
    details: str = "via_upstream",
    sent: bool = True,
    answered: bool = True,
    flag: str = "",
    reservation: str = "rsv-1",
    stream: dict[str, str] | None = None,
    plain: accesslog_pb2.TokenUsage | None = None,
) -> Entry:
    """An entry as Envoy 1.40 sends it."""
    made = Entry()
    common = made.common_properties
    common.route_name = b"openai"
    if sent:
        common.time_to_first_upstream_tx_byte.nanos = 1
    if answered:
        common.time_to_first_upstream_rx_byte.nanos = 2
    if flag:
        setattr(common.response_flags, flag, True)
    if reservation:
        common.metadata.filter_metadata["envoy.filters.http.ext_authz"].update({"reservation": reservation})
    if stream is not None:
        said: Struct = common.metadata.filter_metadata["groq.usage"]
        said.update(stream)
    if plain is not None:
        packed = Any(type_url="type.googleapis.com/envoy.data.ai.v3.TokenUsage", value=plain.SerializeToString())
        common.metadata.typed_filter_metadata["envoy.ai.token_usage"].CopyFrom(packed)
    made.request.request_id = b"req-1"
    made.response.response_code.value = status
    made.response.response_code_details = details.encode()
    return made


def tokens(
    input_tokens: int | None, output_tokens: int | None, cached: int = 0, total: int | None = None
) -> accesslog_pb2.TokenUsage:
    said = accesslog_pb2.TokenUsage(extraction_status=accesslog_pb2.TokenUsage.COMPLETE)
    if input_tokens is not None:
        said.input_tokens.value = input_tokens
    if output_tokens is not None:
        said.output_tokens.value = output_tokens
    if total is not None:
        said.provider_total_tokens.value = total
    said.input_token_details.cached_tokens.value = cached
    return said


def message(*entries: Entry) -> bytes:
    logs = accesslog_pb2.StreamAccessLogsMessage.HTTPAccessLogEntries(log_entry=entries)
    return accesslog_pb2.StreamAccessLogsMessage(http_logs=logs).SerializeToString()


def receipt(one: Entry) -> Receipt:
    (only,) = read_stream_message(message(one))
    return only


def test_a_receipt_names_its_request() -> None:
    assert receipt(entry(plain=tokens(8, 19))) == Receipt("rsv-1", "req-1", Outcome.ANSWERED, 200, Usage(8, 19))
    assert receipt(entry(reservation="")).reservation_id == ""


def test_entries_keep_their_order_and_an_empty_message_has_none() -> None:
    receipts = read_stream_message(message(entry(reservation="a"), entry(reservation="b")))
    assert [one.reservation_id for one in receipts] == ["a", "b"]
    assert read_stream_message(b"") == []
    assert stream_response() == b""


def test_without_a_route_the_request_id_is_the_clients_and_counts_for_nothing() -> None:
    early = entry(reservation="", sent=False, answered=False, status=400, details="path_normalization_failed")
    early.common_properties.route_name = b""
    assert read_stream_message(message(early)) == []


def test_a_request_under_way_is_no_receipt() -> None:
    periodic = entry()
    periodic.common_properties.intermediate_log_entry = True
    assert read_stream_message(message(periodic)) == []


def test_an_unreadable_message_is_refused() -> None:
    with pytest.raises(Refused):
        read_stream_message(b"\xff")


def test_bytes_a_client_chose_cannot_spoil_a_batch() -> None:
    user_agent = b"\x32\x02\xff\xfe"  # field 6 of the request's properties, text that is not UTF-8
    spoiled = entry()
    spoiled.request.MergeFromString(user_agent)
    spoiled.request.request_id = b"\xff"
    assert [one.reservation_id for one in read_stream_message(message(spoiled, entry(reservation="b")))] == ["rsv-1", "b"]


RESET = "upstream_reset_after_response_started{protocol_error}"


@pytest.mark.parametrize(
    ("one", "outcome"),
    [
        pytest.param(entry(), Outcome.ANSWERED, id="answered"),
        pytest.param(entry(status=429), Outcome.UPSTREAM_ERROR, id="upstream 429"),
        pytest.param(entry(status=503), Outcome.UPSTREAM_ERROR, id="upstream 503"),
        pytest.param(
            entry(status=429, details="downstream_remote_disconnect", flag="downstream_connection_termination"),
            Outcome.UPSTREAM_ERROR,
            id="upstream 429, and then the client left",
        ),
        pytest.param(
            entry(details="downstream_remote_disconnect", flag="downstream_connection_termination"),
            Outcome.ABANDONED,
            id="the client left amid the stream",
        ),
        pytest.param(
            entry(status=0, details="downstream_remote_disconnect", answered=False), Outcome.ABANDONED, id="left before headers"
        ),
        pytest.param(
            entry(status=0, details="downstream_remote_disconnect", sent=False, answered=False, reservation=""),
            Outcome.NOT_SENT,
            id="left during the Check",
        ),
        pytest.param(entry(details=RESET, flag="upstream_protocol_error"), Outcome.ABANDONED, id="the stream broke"),
        pytest.param(entry(flag="upstream_remote_reset"), Outcome.ABANDONED, id="via upstream, and reset"),
        pytest.param(entry(flag="stream_idle_timeout", details="stream_idle_timeout"), Outcome.ABANDONED, id="idle"),
        pytest.param(
            entry(status=504, details="response_timeout", flag="upstream_request_timeout", answered=False),
            Outcome.ABANDONED,
            id="no answer in time",
        ),
        pytest.param(
            entry(status=503, details="upstream_reset_before_response_started{connection_termination}", answered=False),
            Outcome.ABANDONED,
            id="reset once it had the request",
        ),
        pytest.param(
            entry(status=502, details="upstream_reset_before_response_started{protocol_error}"),
            Outcome.ABANDONED,
            id="an answer that Envoy could not read",
        ),
        pytest.param(
            entry(
                status=503,
                details="upstream_reset_before_response_started{remote_connection_failure}",
                flag="upstream_connection_failure",
                sent=False,
                answered=False,
            ),
            Outcome.NOT_SENT,
            id="unreachable",
        ),
        pytest.param(
            entry(status=503, details="ext_authz_error", sent=False, answered=False, reservation=""),
            Outcome.NOT_SENT,
            id="our answer was never applied",
        ),
    ],
)
def test_how_it_ended(one: Entry, outcome: Outcome) -> None:
    assert receipt(one).outcome is outcome


def test_every_source_of_usage() -> None:
    counted = Usage(8, 19, 3)
    responses = '{"input_tokens":8,"input_tokens_details":{"cached_tokens":3},"output_tokens":19}'
    assert receipt(entry(stream={"x_groq": STREAMED})).usage == counted
    assert receipt(entry(stream={"usage": STREAMED})).usage == counted
    assert receipt(entry(stream={"response": responses})).usage == counted
    assert receipt(entry(plain=tokens(8, 19, 3))).usage == counted
    assert receipt(entry(plain=tokens(9, None, total=9))).usage == Usage(9, 0), "embeddings have no output"


def test_usage_that_came_twice_counts_once() -> None:
    twice = entry(stream={"x_groq": STREAMED, "usage": STREAMED}, plain=tokens(8, 19, 3))
    assert receipt(twice).usage == Usage(8, 19, 3)


def test_the_best_believable_source_counts() -> None:
    assert receipt(entry(stream={"x_groq": "null", "usage": STREAMED}, plain=tokens(1, 1))).usage == Usage(8, 19, 3)
    assert receipt(entry(stream={"x_groq": '{"prompt_tokens":-1}'}, plain=tokens(1, 1))).usage == Usage(1, 1)


@pytest.mark.parametrize(
    "said",
    [
        "",
        "null",
        "[]",
        "text",
        "{}",
        '{"dram_cached_tokens":0,"sram_cached_tokens":0}',
        '{"prompt_tokens":8}',
        '{"prompt_tokens":0,"completion_tokens":0}',
        '{"prompt_tokens":-8,"completion_tokens":19}',
        '{"prompt_tokens":8,"completion_tokens":-1}',
        f'{{"prompt_tokens":8,"completion_tokens":{MAX_TOKENS + 1}}}',
        '{"prompt_tokens":8,"completion_tokens":1e400}',
        '{"prompt_tokens":8.5,"completion_tokens":19}',
        '{"prompt_tokens":"8","completion_tokens":"19"}',
        '{"prompt_tokens":true,"completion_tokens":true}',
    ],
)
def test_implausible_usage_of_a_stream_is_none(said: str) -> None:
    assert receipt(entry(stream={"x_groq": said})).usage is None


@pytest.mark.parametrize(
    "said",
    [tokens(None, None), tokens(8, None), tokens(None, 19), tokens(0, 0), tokens(MAX_TOKENS + 1, 1), tokens(8, None, total=9)],
)
def test_implausible_usage_of_a_plain_answer_is_none(said: accesslog_pb2.TokenUsage) -> None:
    assert receipt(entry(plain=said)).usage is None


def test_usage_that_was_not_read_whole_is_none() -> None:
    partial = tokens(8, 19)
    partial.extraction_status = accesslog_pb2.TokenUsage.PARTIAL
    assert receipt(entry(plain=partial)).usage is None
    unreadable = entry(plain=tokens(8, 19))
    unreadable.common_properties.metadata.typed_filter_metadata["envoy.ai.token_usage"].value = b"\xff"
    assert receipt(unreadable).usage is None
    other = entry(plain=tokens(8, 19))
    other.common_properties.metadata.typed_filter_metadata["envoy.ai.token_usage"].type_url = "type.googleapis.com/other"
    assert receipt(other).usage is None


def test_cached_tokens_never_exceed_the_input() -> None:
    assert receipt(entry(plain=tokens(8, 19, cached=9))).usage == Usage(8, 19, 0)


def test_usage_counts_only_where_something_is_owed() -> None:
    assert receipt(entry(status=500, plain=tokens(8, 19))).usage is None
    left_late = entry(details="downstream_remote_disconnect", stream={"x_groq": STREAMED})
    assert receipt(left_late).usage == Usage(8, 19, 3), "it left after the last chunk: the count is whole"


def test_metadata_of_another_filter_is_no_reservation() -> None:
    foreign = entry(reservation="")
    foreign.common_properties.metadata.CopyFrom(base_pb2.Metadata())
    foreign.common_properties.metadata.filter_metadata["envoy.filters.http.other"].update({"reservation": "rsv-9"})
    assert receipt(foreign).reservation_id == ""


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({"object": "file", "id": "file-1"}, Named("file", "file-1")),
        ({"object": "batch", "id": "b", "output_file_id": "o", "error_file_id": "a/b"}, Named("batch", "b", ("o",))),
        ({"object": "list", "id": "x"}, None),
        ({"object": "file"}, None),
        ({"object": 1.0, "id": 2.0}, None),
        ({}, None),
    ],
)
def test_a_file_or_a_batch_is_known_by_what_the_answer_calls_it(said: dict[str, str], expected: Named | None) -> None:
    made = entry()
    made.common_properties.metadata.filter_metadata["groq.named"].update(said)
    assert receipt(made).named == expected
