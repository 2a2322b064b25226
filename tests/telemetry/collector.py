"""A collector on a loopback port: takes traces, metrics and logs over OTLP, as the protocol has them, and keeps them."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc
from opentelemetry.proto.collector.logs.v1 import logs_service_pb2 as logs
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2 as metrics
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as traces

_PACKAGE = "opentelemetry.proto.collector"


class Collector:
    """metadata  of every call · refuses: a code to answer with instead of taking anything"""

    def __init__(self) -> None:
        self.port = 0
        self.metadata: list[dict[str, str | bytes]] = []
        self.raw: list[bytes] = []
        self.refuses: grpc.StatusCode | None = None
        self._lock = threading.Lock()
        self._traces: list[Any] = []
        self._metrics: list[Any] = []
        self._logs: list[Any] = []

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def spans(self) -> list[Any]:
        return [
            span
            for request in self._traces
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def logs(self) -> list[Any]:
        return [
            record
            for request in self._logs
            for resource in request.resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def metric_names(self) -> set[str]:
        return {
            metric.name
            for request in self._metrics
            for resource in request.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def resources(self) -> list[dict[str, Any]]:
        found = [each.resource for request in self._traces for each in request.resource_spans]
        return [values(resource.attributes) for resource in found]

    def handlers(self) -> tuple[grpc.GenericRpcHandler, ...]:
        return (
            self._handler("trace.v1.TraceService", traces.ExportTraceServiceRequest, self._traces),
            self._handler("metrics.v1.MetricsService", metrics.ExportMetricsServiceRequest, self._metrics),
            self._handler("logs.v1.LogsService", logs.ExportLogsServiceRequest, self._logs),
        )

    def _handler(self, service: str, message: Any, kept: list[Any]) -> grpc.GenericRpcHandler:
        def export(raw: bytes, context: grpc.ServicerContext) -> bytes:
            with self._lock:
                self.metadata.append(dict(context.invocation_metadata() or ()))
                if self.refuses is not None:
                    context.abort(self.refuses, "refused by the test")
                self.raw.append(raw)
                kept.append(message.FromString(raw))
            return b""

        method: Any = grpc.unary_unary_rpc_method_handler(export)
        return grpc.method_handlers_generic_handler(f"{_PACKAGE}.{service}", {"Export": method})


def values(attributes: Any) -> dict[str, Any]:
    """OTLP's attributes as a dictionary."""
    return {each.key: _value(each.value) for each in attributes}


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    if kind == "array_value":
        return [_value(each) for each in value.array_value.values]
    return getattr(value, kind)


@contextmanager
def collecting() -> Iterator[Collector]:
    collector = Collector()
    server = grpc.server(futures.ThreadPoolExecutor(2))
    server.add_generic_rpc_handlers(collector.handlers())
    collector.port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield collector
    finally:
        server.stop(None).wait()
