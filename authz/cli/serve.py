"""`authz serve`: the sidecar."""

from __future__ import annotations

from pathlib import Path

import click

from authz.cli import options


@click.command()
@options.config
@click.option("--socket", help="The Unix socket to serve on, in place of the one in the settings.")
@click.option("--log-level", default="INFO", show_default=True, help="DEBUG, INFO, WARNING or ERROR.")
def serve(config: Path, socket: str | None, log_level: str) -> None:
    """Serve Check and the access log to Envoy on a Unix socket until SIGTERM, then drain."""
    import asyncio
    import gc
    import os
    import resource
    import secrets

    from authz.api.admin.app import Chance
    from authz.api.admin.serving import serving
    from authz.compose import open_engine
    from authz.server import run
    from authz.settings import read_settings
    from authz.telemetry import logs

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what is in this memory are secrets
    logs.configure(log_level.upper())
    settings = read_settings(config)
    (listen,) = options.listens(settings.listen, (socket,) if socket else ())
    chance = Chance(token=lambda: secrets.token_urlsafe(32), choice=secrets.choice)
    with (
        open_engine(settings, serving=True).start() as engine,
        serving(engine, settings.admin, chance, os.environ, watched=settings.reload.watch),
    ):
        gc.collect()
        gc.freeze()  # the bundle and the keys stay: a collection that looked through them would hold decisions up
        asyncio.run(run(engine, listen))
