"""Records as OTLP logs: the JSON line as the body, so that it is the same record wherever it is read."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Final

import msgspec
from opentelemetry._logs import LogRecord, SeverityNumber
from opentelemetry.context import Context
from opentelemetry.sdk._logs import ReadableLogRecord
from opentelemetry.sdk._logs.export import LogRecordExporter, LogRecordExportResult
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, set_span_in_context

from authz.model import DecisionRecord, Record

_SCOPE: Final = InstrumentationScope("authz")
_encode: Final = msgspec.json.Encoder().encode


class RecordSink:
    """A batch is one export: it arrives as a whole, or is lost as a whole once the exporter has given up on it."""

    name: Final = "otlp"

    def __init__(self, exporter: LogRecordExporter, resource: Resource) -> None:
        self._exporter, self._resource = exporter, resource

    def write(self, records: Sequence[Record]) -> int:
        batch = [ReadableLogRecord(_log_record(record), self._resource, _SCOPE) for record in records]
        return 0 if self._exporter.export(batch) is LogRecordExportResult.SUCCESS else len(records)

    def close(self) -> int:
        self._exporter.shutdown()  # type: ignore[no-untyped-call]  # the library's base class has no types
        return 0


def _log_record(record: Record) -> LogRecord:
    decided = isinstance(record, DecisionRecord)
    at_ns = round(datetime.fromisoformat(record.time).timestamp() * 1000) * 1_000_000
    return LogRecord(
        timestamp=at_ns,
        observed_timestamp=at_ns,
        context=_context(record),
        severity_text="INFO",
        severity_number=SeverityNumber.INFO,
        body=_encode(record).decode(),
        attributes={"authz.effect": record.effect} if isinstance(record, DecisionRecord) else {},
        event_name="authz.decision" if decided else "authz.settlement",
    )


def _context(record: Record) -> Context:
    """The decision's span, where it has one. Never whatever else is under way in this thread."""
    if not isinstance(record, DecisionRecord) or not record.trace_id:
        return Context()
    span = SpanContext(int(record.trace_id, 16), int(record.span_id, 16), is_remote=False, trace_flags=TraceFlags(1))
    return set_span_in_context(NonRecordingSpan(span), Context())
