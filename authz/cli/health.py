"""`authz health`: what a container's health check runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from authz.cli import options

if TYPE_CHECKING:
    from authz.bundle import Status
    from authz.model import UpstreamRoom

_FINDINGS = 1


@click.command()
@options.config
@options.workers
@click.option("--timeout-s", default=1.0, show_default=True, help="How long to wait for an answer.")
@options.as_json
def health(config: Path, workers: int | None, timeout_s: float, as_json: bool) -> None:
    """Ask the sidecar on the settings' sockets whether it is SERVING; exit 1 where it is not, of several workers where none is.

    A bundle that was refused is told and is no failure: the last good one is in force. What Groq's own limits have left is
    told as the process on this socket knows it.
    """
    import msgspec

    from authz.settings import read_settings

    listens = options.listens(read_settings(config).listen, (), workers)
    found = [_ask(listen.socket, listen.check_socket, timeout_s) for listen in listens]
    if as_json:
        told = [each.as_json() for each in found]
        click.echo(msgspec.json.encode(told[0] if len(told) == 1 else {"workers": told}))
    else:
        for number, each in enumerate(found):
            each.show(f"worker {number}: " if len(found) > 1 else "")
    if not any(each.serving for each in found):
        sys.exit(_FINDINGS)


def _ask(socket: str, check_socket: str, timeout_s: float) -> _Found:
    """Both sockets have to serve: Envoy asks each."""
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from authz.api import status

    try:
        names = []
        for path in {socket, check_socket}:
            with grpc.insecure_channel(f"unix:{path}") as channel:
                ask = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # made at run time
                names.append(ask(health_pb2.HealthCheckRequest(), timeout=timeout_s).status)
        with grpc.insecure_channel(f"unix:{socket}") as channel:
            bundle, rooms = status.ask(channel, timeout_s)
    except grpc.RpcError as error:
        return _Found(problem=f"no answer: {error.code().name}")
    serving = health_pb2.HealthCheckResponse.SERVING
    worst = next((name for name in names if name != serving), serving)
    return _Found(health_pb2.HealthCheckResponse.ServingStatus.Name(worst), worst == serving, bundle, rooms)


class _Found(NamedTuple):
    status: str = "UNKNOWN"
    serving: bool = False
    bundle: Status | None = None
    rooms: tuple[UpstreamRoom, ...] = ()
    problem: str = ""

    def as_json(self) -> dict[str, Any]:
        return {"status": self.status, "bundle": self.bundle, "upstream": self.rooms}

    def show(self, who: str) -> None:
        if self.bundle is None:
            click.echo(f"{who}{self.problem}", err=True)
            return
        click.echo(f"{who}{self.status} {self.bundle.digest}")
        if self.bundle.refused:
            click.echo(f"refused: {self.bundle.refused}")
        for room in self.rooms:
            click.echo(f"{room.upstream} {room.model}: {room.left} of {room.limit} {room.meter.value} left at the upstream")
