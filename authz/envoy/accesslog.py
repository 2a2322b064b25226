"""Envoy's access log, as receipts: how each request ended and what the upstream says it used.

An outcome rests on what Envoy itself saw (bytes sent and received, flags, details), never on text of the upstream's. Usage is
taken from one source only, the first of those below that can be believed, so what a stream says twice counts once:

    groq.usage x_groq      the last chunk of Groq's streams
    groq.usage usage       a stream with `stream_options.include_usage`
    groq.usage response    a stream of the Responses API
    envoy.ai.token_usage   a plain answer

What the upstream says of its own limits comes from headers that Envoy keeps from the client, in `groq.limits`; what it calls a
file or a batch that it answers about, from its answer, in `groq.named`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

from google.protobuf.message import DecodeError

from authz.envoy.answer import RESERVATION, UPSTREAM
from authz.envoy.wire import accesslog_pb2
from authz.errors import Refused
from authz.inference.reported import from_usage, named, plausible
from authz.model import MAX_AMOUNT, Meter, Named, Outcome, Receipt, UpstreamLimit, Usage
from authz.reasons import Reason

AUTHZ_NAMESPACE: Final = "envoy.filters.http.ext_authz"
STREAM_NAMESPACE: Final = "groq.usage"
STREAM_KEYS: Final = ("x_groq", "usage", "response")
LIMITS_NAMESPACE: Final = "groq.limits"
NAMED_NAMESPACE: Final = "groq.named"
NAMED_KEYS: Final = ("object", "id", "output_file_id", "error_file_id")
LIMITED: Final = (Meter.REQUESTS, Meter.TOKENS)
PLAIN_NAMESPACE: Final = "envoy.ai.token_usage"
PLAIN_TYPE: Final = "type.googleapis.com/envoy.data.ai.v3.TokenUsage"

VIA_UPSTREAM: Final = b"via_upstream"
DOWNSTREAM_LEFT: Final = b"downstream_"
"""Details of an answer that ran its course, and the beginning of those where it is the client that went."""

Entry = accesslog_pb2.HTTPAccessLogEntry


def read_stream_message(raw: bytes) -> list[Receipt]:
    """The receipts of one serialized StreamAccessLogsMessage. Raises Refused(INVALID_REQUEST) when it cannot be read."""
    message = accesslog_pb2.StreamAccessLogsMessage()
    try:
        message.ParseFromString(raw)
    except DecodeError:
        raise Refused(Reason.INVALID_REQUEST, "the access log message cannot be read") from None
    return decode_entries(message)


def decode_entries(message: accesslog_pb2.StreamAccessLogsMessage) -> list[Receipt]:
    """A receipt for each entry of a request that has ended and may have a reservation, in order."""
    return [_receipt(entry) for entry in message.http_logs.log_entry if _concerns_us(entry.common_properties)]


def stream_response() -> bytes:
    """The answer that ends an access log stream."""
    return accesslog_pb2.StreamAccessLogsResponse().SerializeToString()


def _concerns_us(common: accesslog_pb2.AccessLogCommon) -> bool:
    # INVARIANT: a request id is Envoy's own only once there is a route. Before that it is what the client sent, who could
    # name another request with it and have that one's reservation given back.
    return bool(common.route_name) and not common.intermediate_log_entry


def _receipt(entry: Entry) -> Receipt:
    outcome = _outcome(entry)
    return Receipt(
        reservation_id=_said(entry, RESERVATION),
        request_id=entry.request.request_id.decode("ascii", "replace"),
        outcome=outcome,
        status=entry.response.response_code.value,
        usage=_usage(entry) if outcome in (Outcome.ANSWERED, Outcome.ABANDONED) else None,
        upstream=_said(entry, UPSTREAM),
        limits=tuple(_limits(entry)),
        named=_named(entry),
    )


def _named(entry: Entry) -> Named | None:
    metadata = entry.common_properties.metadata.filter_metadata
    if NAMED_NAMESPACE not in metadata:
        return None
    fields = metadata[NAMED_NAMESPACE].fields
    kind, identity, *outputs = (fields[name].string_value if name in fields else "" for name in NAMED_KEYS)
    return named(kind, identity, outputs)


def _said(entry: Entry, name: str) -> str:
    """What our answer gave Envoy to keep under this name."""
    metadata = entry.common_properties.metadata.filter_metadata
    if AUTHZ_NAMESPACE not in metadata:  # reading a missing key of a protobuf map would add it
        return ""
    fields = metadata[AUTHZ_NAMESPACE].fields
    return fields[name].string_value if name in fields else ""


def _outcome(entry: Entry) -> Outcome:
    """How it ended. Where that is in doubt the estimate stands, unless surely nothing was sent or the upstream refused."""
    common, response = entry.common_properties, entry.response
    details, flags = response.response_code_details, common.response_flags
    if not common.HasField("time_to_first_upstream_tx_byte"):
        return Outcome.NOT_SENT
    ran_its_course = details == VIA_UPSTREAM
    # Once the upstream has answered, a client that leaves changes the details and not the status.
    upstream_status = ran_its_course or (
        details.startswith(DOWNSTREAM_LEFT) and common.HasField("time_to_first_upstream_rx_byte")
    )
    if upstream_status and response.response_code.value >= 300:
        return Outcome.UPSTREAM_ERROR
    broken = (
        flags.downstream_connection_termination
        or flags.downstream_remote_reset
        or flags.upstream_connection_termination
        or flags.upstream_remote_reset
        or flags.upstream_protocol_error
        or flags.upstream_max_stream_duration_reached
        or flags.stream_idle_timeout
        or flags.duration_timeout
        or flags.local_reset
    )
    return Outcome.ANSWERED if ran_its_course and not broken else Outcome.ABANDONED


_RESET: Final = re.compile(
    r"(?:(?P<h>\d{1,5})h)?(?:(?P<m>\d{1,6})m)?(?:(?P<s>\d{1,8}(?:\.\d{1,12})?)s)?(?:(?P<ms>\d{1,9}(?:\.\d{1,12})?)ms)?",
    re.ASCII,
)
_UNIT_NS: Final = {"h": 3600 * 10**9, "m": 60 * 10**9, "s": 10**9, "ms": 10**6}


def _limits(entry: Entry) -> Iterator[UpstreamLimit]:
    """Each limit of which all three headers can be read; its time is that of the answer's first byte."""
    common = entry.common_properties
    metadata = common.metadata.filter_metadata
    if LIMITS_NAMESPACE not in metadata or not common.HasField("time_to_first_upstream_rx_byte"):
        return
    at_ns = common.start_time.ToNanoseconds() + common.time_to_first_upstream_rx_byte.ToNanoseconds()
    said = metadata[LIMITS_NAMESPACE].fields
    for meter in LIMITED:
        texts = [said[name].string_value if name in said else "" for name in _limit_names(meter)]
        limit, remaining, reset_ns = _whole(texts[0]), _whole(texts[1]), _duration_ns(texts[2])
        if limit and remaining is not None and reset_ns is not None:
            yield UpstreamLimit(meter, limit, min(remaining, limit), reset_ns, at_ns)


def _limit_names(meter: Meter) -> tuple[str, str, str]:
    return f"limit-{meter.value}", f"remaining-{meter.value}", f"reset-{meter.value}"


def _whole(text: str) -> int | None:
    found = int(text) if 0 < len(text) <= 16 and text.isascii() and text.isdigit() else None
    return found if found is not None and found <= MAX_AMOUNT else None


def _duration_ns(text: str) -> int | None:
    """`2m59.56s`, `7.66s`, `1h0m12s`, `120ms`."""
    match = _RESET.fullmatch(text) if 0 < len(text) <= 40 else None
    if match is None:
        return None
    return sum(round(float(number) * _UNIT_NS[unit]) for unit, number in match.groupdict().items() if number is not None)


def _usage(entry: Entry) -> Usage | None:
    return next(_usages(entry), None)


def _usages(entry: Entry) -> Iterator[Usage]:
    """Every believable count in the entry, best source first."""
    metadata = entry.common_properties.metadata
    if STREAM_NAMESPACE in metadata.filter_metadata:
        said = metadata.filter_metadata[STREAM_NAMESPACE].fields
        for key in STREAM_KEYS:
            if key in said and (usage := from_usage(said[key].string_value)) is not None:
                yield usage
    if PLAIN_NAMESPACE in metadata.typed_filter_metadata:
        packed = metadata.typed_filter_metadata[PLAIN_NAMESPACE]
        if packed.type_url == PLAIN_TYPE and (usage := _from_typed(packed.value)) is not None:
            yield usage


def _from_typed(raw: bytes) -> Usage | None:
    said = accesslog_pb2.TokenUsage()
    try:
        said.ParseFromString(raw)
    except DecodeError:
        return None
    if said.extraction_status != accesslog_pb2.TokenUsage.COMPLETE:
        return None
    input_tokens = said.input_tokens.value if said.HasField("input_tokens") else None
    output_tokens = said.output_tokens.value if said.HasField("output_tokens") else None
    if output_tokens is None and said.provider_total_tokens.value == input_tokens:
        output_tokens = 0  # embeddings: the input is all there is, and the total says so
    return plausible(input_tokens, output_tokens, said.input_token_details.cached_tokens.value)
