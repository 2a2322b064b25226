"""`authz health`: what a container's health check runs."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from authz.cli import options

_FINDINGS = 1


@click.command()
@options.config
@click.option("--timeout-s", default=1.0, show_default=True, help="How long to wait for the answer.")
@options.as_json
def health(config: Path, timeout_s: float, as_json: bool) -> None:
    """Ask the sidecar on the settings' socket whether it is SERVING; exit 1 where it is not.

    A bundle that was refused is told and is no failure: the last good one is in force. What Groq's own limits have left is
    told as the process on this socket knows it.
    """
    import grpc
    import msgspec
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    from authz.api import status
    from authz.settings import read_settings

    with grpc.insecure_channel(f"unix:{read_settings(config).listen.socket}") as channel:
        try:
            ask = health_pb2_grpc.HealthStub(channel).Check  # type: ignore[attr-defined]  # made at run time, not in the stubs
            answer = ask(health_pb2.HealthCheckRequest(), timeout=timeout_s)
            bundle, rooms = status.ask(channel, timeout_s)
        except grpc.RpcError as error:
            click.echo(f"no answer: {error.code().name}", err=True)
            sys.exit(_FINDINGS)
    serving = health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)
    if as_json:
        click.echo(msgspec.json.encode({"status": serving, "bundle": bundle, "upstream": rooms}))
    else:
        click.echo(f"{serving} {bundle.digest}" + (f"\nrefused: {bundle.refused}" if bundle.refused else ""))
        for room in rooms:
            click.echo(f"{room.upstream} {room.model}: {room.left} of {room.limit} {room.meter.value} left at the upstream")
    if answer.status != health_pb2.HealthCheckResponse.SERVING:
        sys.exit(_FINDINGS)
