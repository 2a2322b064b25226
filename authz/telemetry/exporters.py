"""Where telemetry goes. Of `authz serve`: metrics to whoever scrapes a loopback port, and all of it to a collector over OTLP.
Of a library: to the providers that its host has set for OpenTelemetry. Or nowhere, which costs nothing.

No export is on a decision's path: metrics are collected, spans and records are queued, and a collector that does not answer
costs what does not fit into the queues.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import grpc
from msgspec import Struct
from opentelemetry import metrics, trace
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.metrics import AlwaysOffExemplarFilter
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from opentelemetry.sdk.metrics.export import MetricReader, PeriodicExportingMetricReader
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider as SdkTracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, ParentBased
from prometheus_client import CollectorRegistry, start_http_server

from authz.errors import ConfigError
from authz.model import Record, SettlementRecord
from authz.settings import Otlp, Records, Settings
from authz.telemetry.metrics import Metrics
from authz.telemetry.otlp import EXPORT_S, RecordExporter, RecordSink
from authz.telemetry.records import RecordWriter, Sink
from authz.telemetry.sinks import FileSink, standard_output
from authz.telemetry.traces import Tracer

_TIMEOUT_S: Final = 5.0
_SPAN_QUEUE: Final = 8_192


class Telemetry(Struct, frozen=True):
    """What one engine tells. `tracer` is None where nothing is traced; `writers` take the records, one for each sink."""

    meters: MeterProvider
    metrics: Metrics
    tracer: Tracer | None
    writers: tuple[RecordWriter, ...]

    def record(self, record: Record) -> None:
        for writer in self.writers:
            writer.write(record)

    def tell(self, record: Record, now_ns: int) -> None:
        """To every sink; what a settlement says is counted and traced too."""
        self.record(record)
        if isinstance(record, SettlementRecord):
            self.metrics.settled(record)
            if self.tracer is not None:
                self.tracer.settled(record, now_ns)


def open_telemetry(
    settings: Settings,
    *,
    environ: Mapping[str, str],
    instance: str,
    chance: Callable[[], float],
    bundle: Callable[[], tuple[str, bool]],
    serving: bool,
    stack: ExitStack,
) -> Telemetry:
    """Everything as the settings say; what was opened is closed by the stack. Raises `ConfigError`.

    instance  names this process among the replicas
    chance    a random number from 0 up to 1
    bundle    as for `Metrics`
    serving   metrics and traces are this process's own; otherwise those of its host
    """
    otlp = settings.otlp
    options = _options(otlp, environ) if otlp.endpoint else {}
    resource = Resource.create({"service.name": "authz", "service.version": version("authz"), "service.instance.id": instance})
    if serving:
        meters, tracer = _own(settings, options, resource, chance, stack)
    else:
        meters, tracer = _host()
    counted = Metrics(meters, bundle, names=settings.metrics.names)
    writers = [stack.enter_context(RecordWriter(sink, counted.recorded)) for sink in _sinks(settings.records)]
    if otlp.endpoint and otlp.records:
        sink = RecordSink(RecordExporter(resource, **options))
        writers.append(stack.enter_context(RecordWriter(sink, counted.recorded, gather_s=EXPORT_S)))
    return Telemetry(meters, counted, tracer, tuple(writers))


def _host() -> tuple[MeterProvider, Tracer | None]:
    """What the host has set by now; what it has not set is nowhere."""
    meters, traces = metrics.get_meter_provider(), trace.get_tracer_provider()
    return (
        meters if isinstance(meters, SdkMeterProvider) else NoOpMeterProvider(),
        None if isinstance(traces, trace.ProxyTracerProvider | trace.NoOpTracerProvider) else Tracer(traces),
    )


def _own(
    settings: Settings, options: dict[str, Any], resource: Resource, chance: Callable[[], float], stack: ExitStack
) -> tuple[MeterProvider, Tracer | None]:
    otlp = settings.otlp
    readers: list[MetricReader] = []
    if settings.metrics.listen:
        readers.append(_served(settings.metrics.listen, stack))
    if otlp.endpoint and otlp.metrics:
        readers.append(PeriodicExportingMetricReader(OTLPMetricExporter(**options), otlp.every_s * 1000))
    tracer = None
    if otlp.endpoint and otlp.traces:
        traces = SdkTracerProvider(ParentBased(ALWAYS_ON), resource, shutdown_on_exit=False)
        traces.add_span_processor(BatchSpanProcessor(OTLPSpanExporter(**options), max_queue_size=_SPAN_QUEUE))
        stack.callback(traces.shutdown)
        tracer = Tracer(traces, trace.SpanKind.SERVER, sampled=lambda: chance() < otlp.sample)
    if not readers:
        return NoOpMeterProvider(), tracer
    meters = SdkMeterProvider(readers, resource, AlwaysOffExemplarFilter(), shutdown_on_exit=False)
    stack.callback(meters.shutdown)
    return meters, tracer


def _sinks(records: Records) -> list[Sink]:
    match records.file:
        case "":
            return []
        case "-":
            return [standard_output()]
        case file:
            return [FileSink(Path(file), max_bytes=records.max_bytes, keep=records.keep)]


def _served(listen: str, stack: ExitStack) -> MetricReader:
    """`listen` as `127.0.0.1:9464`. Raises `ConfigError` where the port cannot be had."""
    host, _, port = listen.rpartition(":")
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry)
    try:
        server, thread = start_http_server(int(port), addr=host.strip("[]"), registry=registry)
    except OSError as error:
        raise ConfigError(listen, f"metrics cannot be served: {(error.strerror or str(error)).lower()}") from None
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    return reader


def _options(otlp: Otlp, environ: Mapping[str, str]) -> dict[str, Any]:
    """What each exporter is made with. Never says a header's value: there is a secret in it."""
    options: dict[str, Any] = {"endpoint": otlp.endpoint, "insecure": otlp.endpoint.startswith("http://")}
    options["timeout"] = _TIMEOUT_S
    if otlp.headers_env:
        headers = environ.get(otlp.headers_env, "").strip()
        if not headers:
            problem = f"the environment variable `{otlp.headers_env}` is not set, expected `name=value` pairs"
            raise ConfigError("otlp.headers_env", problem)
        pairs = [pair.partition("=") for pair in headers.split(",")]
        options["headers"] = tuple((name.strip().lower(), value.strip()) for name, _, value in pairs)
    if not options["insecure"]:
        try:
            roots = Path(otlp.ca_file).read_bytes() if otlp.ca_file else None
        except OSError as error:
            raise ConfigError(otlp.ca_file, f"cannot be read: {(error.strerror or '').lower()}") from None
        options["credentials"] = grpc.ssl_channel_credentials(roots)
    return options
