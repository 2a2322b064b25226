"""Messages of Envoy's access log: receipts, or one refusal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from authz.envoy.accesslog import read_stream_message
from authz.envoy.wire import accesslog_pb2
from authz.errors import Refused
from authz.model import MAX_AMOUNT, Outcome

_USAGE: Final = '{"prompt_tokens":9,"completion_tokens":4,"total_tokens":13}'


def _messages() -> Iterator[bytes]:
    for key in ("x_groq", "usage", "response", ""):
        message = accesslog_pb2.StreamAccessLogsMessage()
        entry = message.http_logs.log_entry.add()
        common = entry.common_properties
        common.route_name = b"openai"
        common.start_time.seconds = 1_795_996_800
        common.time_to_first_upstream_tx_byte.nanos = 1
        common.time_to_first_upstream_rx_byte.nanos = 2
        metadata = common.metadata.filter_metadata
        metadata["envoy.filters.http.ext_authz"]["reservation"] = "0" * 32
        metadata["envoy.filters.http.ext_authz"]["upstream"] = "default"
        for name in ("limit", "remaining", "reset"):
            metadata["groq.limits"][f"{name}-tokens"] = "2m59.56s" if name == "reset" else "250000"
        if key:
            metadata["groq.usage"][key] = _USAGE
        else:
            said = accesslog_pb2.TokenUsage()
            said.extraction_status = accesslog_pb2.TokenUsage.COMPLETE
            said.input_tokens.value, said.output_tokens.value = 9, 4
            packed = common.metadata.typed_filter_metadata["envoy.ai.token_usage"]
            packed.type_url, packed.value = "type.googleapis.com/envoy.data.ai.v3.TokenUsage", said.SerializeToString()
        entry.request.request_id = b"00000000-0000-4000-8000-000000000000"
        entry.response.response_code.value = 200
        entry.response.response_code_details = b"via_upstream"
        yield message.SerializeToString()


SEEDS: Final = tuple(_messages())


def target() -> Callable[[bytes], str]:
    def one(data: bytes) -> str:
        try:
            receipts = read_stream_message(data)
        except Refused as refused:
            return refused.reason.value
        for receipt in receipts:
            if receipt.usage is not None:
                assert receipt.outcome in (Outcome.ANSWERED, Outcome.ABANDONED)
                assert receipt.usage.input_tokens > 0
            for limit in receipt.limits:
                assert 0 <= limit.remaining <= limit.limit <= MAX_AMOUNT
        return receipts[0].outcome.value if receipts else "nothing"

    return one
