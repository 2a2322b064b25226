"""`authz serve`: the sidecar."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from authz.cli import options


@click.command()
@options.config
@click.option("--socket", help="The Unix socket to serve on, in place of the one in the settings.")
@options.workers
@click.option("--worker", type=int, hidden=True, help="The number of this process among the workers; their supervisor says it.")
@click.option("--log-level", default="INFO", show_default=True, help="DEBUG, INFO, WARNING or ERROR.")
def serve(config: Path, socket: str | None, workers: int | None, worker: int | None, log_level: str) -> None:
    """Serve Check and the access log to Envoy on Unix sockets until SIGTERM, then drain.

    Several workers are a process each, started again where one ends by itself, and drained in turn.
    """
    import asyncio
    import gc
    import os
    import resource
    import secrets

    import uvloop
    from msgspec.structs import replace

    from authz import server, supervisor
    from authz.api.admin.app import Chance
    from authz.api.admin.serving import serving
    from authz.compose import open_engine
    from authz.settings import of_worker, read_settings
    from authz.telemetry import logs

    # The loop gives the interpreter's lock away at each call of the kernel, and a thread beside it (records, say) then keeps it
    # for this long: with Python's own 5 ms a decision would wait for a multiple of what it takes.
    sys.setswitchinterval(_SWITCH_S)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))  # what is in this memory are secrets
    logs.configure(log_level.upper())
    settings = read_settings(config)
    (listen,) = options.listens(replace(settings.listen, workers=1), (socket,) if socket else ())
    count = 1 if socket else workers or settings.listen.workers
    settings = replace(settings, listen=replace(listen, workers=count))
    if worker is None and count > 1:
        mine = [sys.executable, "-m", "authz", "serve", "--config", str(config), "--log-level", log_level]
        mine += ["--workers", str(count), "--worker"]
        of_worker(settings, 0)  # what does not go with several workers is told here, once
        commands = [[*mine, str(number)] for number in range(count)]
        sys.exit(asyncio.run(supervisor.run(commands, patience_s=listen.drain_s + listen.grace_s + _SPARE_S)))
    if worker is not None:
        settings = of_worker(settings, worker)
    chance = Chance(token=lambda: secrets.token_urlsafe(32), choice=secrets.choice)
    with (
        open_engine(settings, serving=True).start() as engine,
        serving(engine, settings.admin, chance, os.environ, watched=settings.reload.watch),
    ):
        gc.collect()
        gc.freeze()  # the bundle and the keys stay: a collection that looked through them would hold decisions up
        sidecar = server.run(engine, settings.listen, supervised=worker is not None)
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(sidecar)


_SWITCH_S = 0.0005
_SPARE_S = 10.0
"""For a worker to close its store and its telemetry, after its drain and its grace."""
