"""The command `authz`. Exit codes everywhere: 0 clean, 1 findings, 2 cannot run."""

from __future__ import annotations

import sys

import click

from authz.cli.admin import admin
from authz.cli.audit import audit
from authz.cli.budget import budget
from authz.cli.check import check
from authz.cli.diff import diff
from authz.cli.envoy_config import envoy_config
from authz.cli.explain import explain
from authz.cli.fmt import fmt
from authz.cli.health import health
from authz.cli.keys import keys
from authz.cli.matrix import matrix
from authz.cli.prices import prices
from authz.cli.publish import publish
from authz.cli.replay import replay
from authz.cli.review import review
from authz.cli.schema import schema
from authz.cli.serve import serve
from authz.cli.show import CANNOT_RUN
from authz.cli.test import test
from authz.cli.usage import usage
from authz.errors import AuthzError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="authz")
def cli() -> None:
    """Authorization, quotas and budgets for LLM inference behind Envoy."""


for command in (
    budget,
    serve,
    envoy_config,
    health,
    keys,
    audit,
    admin,
    usage,
    prices,
    check,
    fmt,
    schema,
    test,
    explain,
    replay,
    diff,
    matrix,
    review,
    publish,
):
    cli.add_command(command)


def main() -> None:
    """The entry point: what authz raises on purpose is one line on standard error, everything else is a defect and shows."""
    try:
        cli()
    except AuthzError as error:
        click.echo(f"authz: {error}", err=True)
        sys.exit(CANNOT_RUN)
