"""`authz envoy-config`: Envoy's bootstrap, written from the settings."""

from __future__ import annotations

from pathlib import Path

import click
from msgspec import structs

from authz.cli import options as shared

_MAX_STREAM_S = 600
"""How long an answer may take; a reservation has to outlive it."""


@click.command("envoy-config")
@shared.config
@click.option("--socket", "sockets", multiple=True, help="A sidecar's socket, once for each process; by default the settings'.")
@shared.workers
def envoy_config(config: Path, sockets: tuple[str, ...], workers: int | None) -> None:
    """Print the bootstrap that makes Envoy ask this sidecar: `authz envoy-config > envoy.yaml; envoy -c envoy.yaml`."""
    from authz.envoy.bootstrap import EnvoyOptions, Tls, Upstream, render
    from authz.settings import read_settings

    settings = read_settings(config)
    listens = shared.listens(settings.listen, sockets, workers)
    upstream, tls = settings.upstream, settings.envoy.tls
    options = EnvoyOptions(
        listen=settings.envoy.listen,
        admin_socket=settings.envoy.admin_socket,
        sidecar_sockets=tuple(listen.check_socket for listen in listens),
        sidecar_address=settings.listen.address,
        sidecar_tls=settings.envoy.sidecar,
        tls=Tls(**structs.asdict(tls)) if tls is not None else None,
        upstream=Upstream(host=upstream.host, port=upstream.port, tls=upstream.tls),
        max_body_bytes=settings.envoy.max_body_bytes,
        trace_to=settings.envoy.trace_to,
        trace_share=settings.otlp.sample,
        max_stream_s=_MAX_STREAM_S if settings.reservation_ttl_s > _MAX_STREAM_S else settings.reservation_ttl_s - 1 or 1,
    )
    click.echo(render(options), nl=False)
