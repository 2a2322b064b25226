"""`authz admin`: what the admin page needs before anybody can sign in."""

from __future__ import annotations

import click


@click.group()
def admin() -> None:
    """Prepare the admin page."""


@admin.command()
@click.argument("user")
def secret(user: str) -> None:
    """Make a secret with which USER of the directory signs in: printed once, and the line for the settings with its digest."""
    import secrets

    from authz.identity.keys import digest, mint

    made = mint(secrets.choice)
    click.echo(made)
    click.echo(f'admin: {{secrets: [{{user: {user}, digest: "sha256:{digest(made)}"}}]}}', err=True)
