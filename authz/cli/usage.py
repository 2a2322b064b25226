"""`authz usage`: what each key has used and what it cost, and how good the estimates were."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from authz.cli import acting, options, show

if TYPE_CHECKING:
    from authz.quota.calibration import Calibrated
    from authz.quota.ledger import Ledger, UsageRow


_PAGE: Final = 5_000


class KeyUsage(Struct, frozen=True):
    """One key's day. Tokens are input and output; the cost is posted plus what is held for requests under way, in USD."""

    key_name: str
    requests_today: int
    tokens_today: int
    estimated_cost_usd: str


@click.command()
@options.config
@acting.as_user
@click.option("--day", help="YYYY-MM-DD in the organisation's time zone; today by default.")
@click.option("--estimates", is_flag=True, help="How what was reserved compares with what was used, for each key and model.")
@options.as_json
def usage(config: Path, user: str | None, day: str | None, estimates: bool, as_json: bool) -> None:
    """Requests, tokens and estimated cost today of each key whose use you may see."""

    from authz.bundle import load_bundle
    from authz.settings import read_settings
    from authz.store import open_store

    settings = read_settings(config)
    bundle = load_bundle(Path(settings.bundle))
    sees = acting.administrator(settings, bundle, user, time.time_ns()).sees
    if estimates:
        if day is not None:
            raise click.UsageError("expected one of --day and --estimates: what was learned is of no one day")
        _show_estimates(settings.store, sees, as_json=as_json)
        return
    if day is None:
        day = datetime.fromtimestamp(time.time(), bundle.time_zone).date().isoformat()
    elif not _is_day(day):
        raise click.BadParameter(f"`{day}`, expected YYYY-MM-DD", param_hint="--day")
    store = open_store(settings.store)
    try:
        rows = by_key(tuple(row for row in store.usage(day, day) if sees(row.key, row.team)))
    finally:
        store.close()
    if as_json:
        show.as_json({"day": day, "usage_by_key": rows})
        return
    table = show.table("key", "requests today", "tokens today", "estimated cost (USD)", title=f"Usage on {day}")
    for row in rows:
        table.add_row(row.key_name, f"{row.requests_today:,}", f"{row.tokens_today:,}", row.estimated_cost_usd)
    show.console().print(table)


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


class EstimateRow(Struct, frozen=True):
    """What a rate limit reserves for a key on a model, and how that came out.

    expected_output_tokens  null while there are too few samples, and the price book's figure is used
    used_percent_p50/p90    what was used, in per cent of what was reserved: above 100 is an overshoot
    overshoots              requests that used more than was reserved, overshoot_percent by how much in all
    """

    key_name: str
    model: str
    samples: int
    expected_output_tokens: int | None
    used_percent_p50: float
    used_percent_p90: float
    overshoots: int
    overshoot_percent: float


def estimates_of(ledger: Ledger) -> list[EstimateRow]:
    """All that was learned, by key and model."""
    from authz.quota.calibration import calibrated

    found: list[EstimateRow] = []
    sequence = 0
    while rows := ledger.learned_since(sequence, _PAGE):
        found += [_estimate(calibrated(row)) for row in rows]
        sequence = rows[-1].sequence
    return sorted(found, key=lambda row: (row.key_name, row.model))


def _estimate(row: Calibrated) -> EstimateRow:
    return EstimateRow(
        key_name=row.key,
        model=row.model,
        samples=row.samples,
        expected_output_tokens=row.expectation.output_tokens if row.expectation is not None else None,
        used_percent_p50=row.error_p50_permille / 10,
        used_percent_p90=row.error_p90_permille / 10,
        overshoots=row.overshots,
        overshoot_percent=row.overshoot_permille / 10,
    )


def _show_estimates(uri: str, sees: Callable[[str], bool], *, as_json: bool) -> None:
    from rich.markup import escape

    from authz.store import open_store

    store = open_store(uri)
    try:
        rows = [row for row in estimates_of(store) if sees(row.key_name)]
    finally:
        store.close()
    if as_json:
        show.as_json({"estimates": rows})
        return
    columns = ("key", "model", "samples", "expected output", "used of reserved, p50", "p90", "overshoots", "overshoot")
    table = show.table(*columns, title="Learned estimates, tokens")
    for row in rows:
        table.add_row(
            escape(row.key_name),
            escape(row.model),
            f"{row.samples:,}",
            "price book" if row.expected_output_tokens is None else f"{row.expected_output_tokens:,}",
            f"{row.used_percent_p50:.1f} %",
            f"{row.used_percent_p90:.1f} %",
            f"{row.overshoots:,}",
            f"{row.overshoot_percent:.1f} %",
        )
    show.console().print(table)


def _is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False
