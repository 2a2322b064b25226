"""Serves the admin application on a thread and a loop of its own, so that a page never holds up a decision's loop."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import uvicorn

from authz.api.admin.app import Chance, build
from authz.compose import Engine
from authz.errors import ConfigError
from authz.settings import UNIX, AdminFront

_BACKLOG: Final = 100
_GRACE_S: Final = 2
_MODE: Final = 0o600

_log = logging.getLogger(__name__)

logging.getLogger("uvicorn").setLevel(logging.WARNING)  # that it starts and stops is said here


@contextmanager
def serving(engine: Engine, front: AdminFront, chance: Chance, environ: Mapping[str, str], *, watched: bool) -> Iterator[None]:
    """Serves until the end of the `with`; does nothing where the settings name no address.

    Raises `ConfigError` where the address cannot be had, or our secret at the identity provider is not set.
    """
    if not front.listen:
        yield
        return
    client_secret = ""
    if front.oidc is not None and front.oidc.client_secret_env:
        client_secret = environ.get(front.oidc.client_secret_env, "").strip()
        if not client_secret:
            problem = f"the environment variable `{front.oidc.client_secret_env}` is not set, expected our secret there"
            raise ConfigError("admin.oidc.client_secret_env", problem)
    listener = _listen(front.listen)
    draining = asyncio.Event()
    app, recent = build(engine, front, chance, client_secret=client_secret, watched=watched, draining=draining)
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            http="h11",
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=200,
            timeout_graceful_shutdown=_GRACE_S,
        )
    )
    loop = asyncio.new_event_loop()

    def run() -> None:
        try:
            loop.run_until_complete(server.serve(sockets=[listener]))
            loop.run_until_complete(loop.shutdown_asyncgens())
            loop.run_until_complete(loop.shutdown_default_executor())
        finally:
            loop.close()

    def stop() -> None:
        draining.set()
        server.should_exit = True

    thread = threading.Thread(target=run, name="authz-admin", daemon=True)
    engine.watched.add(recent)
    thread.start()
    _log.info("the admin page is served", extra={"listen": front.listen})
    try:
        yield
    finally:
        if thread.is_alive():
            loop.call_soon_threadsafe(stop)
            thread.join()
        engine.watched.remove(recent)
        listener.close()
        if front.listen.startswith(UNIX):
            Path(front.listen.removeprefix(UNIX)).unlink(missing_ok=True)


def _listen(listen: str) -> socket.socket:
    try:
        return _on_path(Path(listen.removeprefix(UNIX))) if listen.startswith(UNIX) else _on_port(listen)
    except OSError as error:
        raise ConfigError(listen, f"the admin page cannot be served: {(error.strerror or str(error)).lower()}") from None


def _on_port(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    made = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.bind((host, int(port)))
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made


def _on_path(path: Path) -> socket.socket:
    """Made for nobody but us before anybody can connect: it does not listen before its mode is set."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_socket():
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise OSError(0, "another process serves on it")
        path.unlink()
    made = socket.socket(socket.AF_UNIX)
    try:
        made.bind(str(path))
        os.chmod(path, _MODE)
        made.listen(_BACKLOG)
    except OSError:
        made.close()
        raise
    return made
