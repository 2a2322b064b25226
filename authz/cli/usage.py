"""`authz usage`: what each key has used and what it cost."""

from __future__ import annotations

import time
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click
from msgspec import Struct

from authz.cli import options

if TYPE_CHECKING:
    from authz.quota.ledger import UsageRow


class KeyUsage(Struct, frozen=True):
    """One key's day. Tokens are input and output; the cost is posted plus what is held for requests under way, in USD."""

    key_name: str
    requests_today: int
    tokens_today: int
    estimated_cost_usd: str


@click.command()
@options.config
@click.option("--day", help="YYYY-MM-DD in the organisation's time zone; today by default.")
@options.as_json
def usage(config: Path, day: str | None, as_json: bool) -> None:
    """Requests, tokens and estimated cost of each key today."""
    import msgspec
    from rich.console import Console
    from rich.table import Table

    from authz.bundle import load_bundle
    from authz.settings import read_settings
    from authz.store import open_store

    settings = read_settings(config)
    if day is None:
        zone = load_bundle(Path(settings.bundle)).time_zone
        day = datetime.fromtimestamp(time.time(), zone).date().isoformat()
    elif not _is_day(day):
        raise click.BadParameter(f"`{day}`, expected YYYY-MM-DD", param_hint="--day")
    store = open_store(settings.store)
    try:
        rows = by_key(store.usage(day, day))
    finally:
        store.close()
    if as_json:
        click.echo(msgspec.json.encode({"day": day, "usage_by_key": rows}))
        return
    table = Table("key", "requests today", "tokens today", "estimated cost (USD)", title=f"Usage on {day}")
    for row in rows:
        table.add_row(row.key_name, f"{row.requests_today:,}", f"{row.tokens_today:,}", row.estimated_cost_usd)
    Console().print(table)


def by_key(rows: tuple[UsageRow, ...]) -> list[KeyUsage]:
    """The report's rows: a key's models added up, keys in order."""
    from authz.answers import usd

    found: dict[str, list[UsageRow]] = {}
    for row in rows:
        found.setdefault(row.key, []).append(row)
    return [
        KeyUsage(
            key_name=key,
            requests_today=sum(row.requests + row.pending_requests for row in group),
            tokens_today=sum(row.input_tokens + row.output_tokens for row in group),
            estimated_cost_usd=usd(sum(row.cost_nanousd + row.pending_nanousd for row in group)),
        )
        for key, group in sorted(found.items())
    ]


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
