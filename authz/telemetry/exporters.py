"""Where metrics go: to whoever scrapes a loopback port, or nowhere."""

from __future__ import annotations

from contextlib import ExitStack

from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import MeterProvider, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider as SdkMeterProvider
from prometheus_client import CollectorRegistry, start_http_server

from authz.errors import ConfigError


def meter_provider(listen: str, stack: ExitStack) -> MeterProvider:
    """`listen` as `127.0.0.1:9464`, or empty for no metrics. Raises `ConfigError` where the port cannot be had."""
    if not listen:
        return NoOpMeterProvider()
    host, _, port = listen.rpartition(":")
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(registry=registry)
    try:
        server, thread = start_http_server(int(port), addr=host, registry=registry)
    except OSError as error:
        raise ConfigError(listen, f"metrics cannot be served: {(error.strerror or str(error)).lower()}") from None
    stack.callback(thread.join)
    stack.callback(server.server_close)
    stack.callback(server.shutdown)
    provider = SdkMeterProvider([reader])
    stack.callback(provider.shutdown)
    return provider
