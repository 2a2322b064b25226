"""`authz usage`: what was used and what it cost, and how good the estimates were."""

from __future__ import annotations

import csv
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from authz.cli import acting, options, show

if TYPE_CHECKING:
    from authz.quota.calibration import Calibrated
    from authz.quota.ledger import Ledger
    from authz.reporting.usage import KeyUsage, UsageReport


_PAGE: Final = 5_000
_BY: Final = ("key", "user", "team", "model", "day", "month")


@click.command()
@options.config
@acting.as_user
@click.option("--by", type=click.Choice(_BY), help="The full report, by this, with budgets and when they run out.")
@click.option("--from", "first_day", default="", help="First day of the report, YYYY-MM-DD; of this month by default.")
@click.option("--to", "last_day", default="", help="Last day of the report; today by default.")
@click.option("--day", help="YYYY-MM-DD in the organisation's time zone; today by default.")
@click.option("--estimates", is_flag=True, help="How what was reserved compares with what was used, for each key and model.")
@options.as_json
@click.option("--csv", "as_csv", is_flag=True, help="CSV instead of a table.")
def usage(
    config: Path,
    user: str | None,
    by: str | None,
    first_day: str,
    last_day: str,
    day: str | None,
    estimates: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Requests, tokens and estimated cost today of each key whose use you may see.

    With --by: between two days, by key, user, team, model, day or month, what was estimated and what it cost, the share of each
    budget, and the day on which a budget runs out at the rate of the last seven days.
    """
    from authz.bundle import load_bundle
    from authz.reporting import usage as reporting
    from authz.settings import read_settings
    from authz.store import open_store

    _check(by, first_day or last_day, day, estimates=estimates, as_json=as_json, as_csv=as_csv)
    settings = read_settings(config)
    bundle = load_bundle(Path(settings.bundle))
    now_ns = time.time_ns()
    administrator = acting.administrator(settings, bundle, user, now_ns)
    if estimates:
        _show_estimates(settings.store, administrator.sees, as_json=as_json)
        return
    store = open_store(settings.store)
    try:
        if by is not None:
            try:
                asked = reporting.query(reporting.By(by), first_day, last_day, now_ns, bundle.time_zone)
            except ValueError as error:
                raise click.UsageError(f"--from, --to: {error}") from None
            reads = lambda resource: administrator.may("usage.read", resource)  # noqa: E731  # nothing but a name for it
            _show(
                reporting.gather(bundle, store, asked, now_ns, sees=administrator.sees, reads=reads),
                as_json=as_json,
                as_csv=as_csv,
            )
            return
        shown = day or reporting.today(now_ns, bundle.time_zone)
        rows = [row for row in store.usage(shown, shown) if administrator.sees(row.key, row.team)]
    finally:
        store.close()
    _show_day(shown, reporting.usage_by_key(rows), as_json=as_json, as_csv=as_csv)


def _check(by: str | None, between: str, day: str | None, *, estimates: bool, as_json: bool, as_csv: bool) -> None:
    from authz.reporting.usage import is_day

    if estimates and (day is not None or by is not None or as_csv):
        raise click.UsageError("expected --estimates without --day, --by and --csv: what was learned is of no one day")
    if as_json and as_csv:
        raise click.UsageError("--csv and --json, expected one of them")
    if by is not None and day is not None:
        raise click.UsageError("expected --day or --by: a report by something goes --from a day --to another")
    if between and by is None:
        raise click.UsageError("expected --by with --from and --to, or --day")
    if day is not None and not is_day(day):
        raise click.BadParameter(f"`{day}`, expected YYYY-MM-DD", param_hint="--day")


def _show_day(day: str, rows: list[KeyUsage], *, as_json: bool, as_csv: bool) -> None:
    from rich.markup import escape

    if as_json:
        show.as_json({"day": day, "usage_by_key": rows})
        return
    if as_csv:
        out = csv.writer(sys.stdout, lineterminator="\n")
        out.writerow(("key_name", "requests_today", "tokens_today", "estimated_cost_usd"))
        out.writerows((row.key_name, row.requests_today, row.tokens_today, row.estimated_cost_usd) for row in rows)
        return
    table = show.table("key", "requests today", "tokens today", "estimated cost (USD)", title=f"Usage on {day}")
    for row in rows:
        table.add_row(escape(row.key_name), f"{row.requests_today:,}", f"{row.tokens_today:,}", row.estimated_cost_usd)
    show.console().print(table)


def _show(report: UsageReport, *, as_json: bool, as_csv: bool) -> None:
    if as_json:
        show.as_json(report)
    elif as_csv:
        _csv(report)
    else:
        _print(report)


_FIGURES: Final = (
    "requests",
    "pending_requests",
    "input_tokens",
    "cached_tokens",
    "output_tokens",
    "estimated_usd",
    "settled_usd",
    "pending_usd",
)


def _csv(report: UsageReport) -> None:
    """A column for each budget, with the share of it in per cent; empty where the line takes nothing of it."""
    budgets = [(each.quota, each.scope) for each in report.budgets]
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow((report.by.value, *_FIGURES, *(f"{quota} {scope} %" for quota, scope in budgets)))
    for line in report.lines:
        shares = {(each.quota, each.scope): each.percent for each in line.budgets}
        out.writerow((line.name, *(getattr(line, name) for name in _FIGURES), *(shares.get(each) for each in budgets)))


def _print(report: UsageReport) -> None:
    from rich.markup import escape

    columns = ("requests", "tokens in", "cached", "out", "estimated", "settled", "pending", "share of budgets now")
    title = f"Usage by {report.by.value}, {report.first_day} to {report.last_day}, cost in USD"
    table = show.table(report.by.value, *columns, title=title)
    for line in (*report.lines, report.total):
        shares = (f"{each.quota} {each.percent:.1f} %" for each in line.budgets if each.percent)
        table.add_row(
            escape(line.name or "–") if line is not report.total else "[bold]total[/]",
            f"{line.requests:,}",
            f"{line.input_tokens:,}",
            f"{line.cached_tokens:,}",
            f"{line.output_tokens:,}",
            line.estimated_usd,
            line.settled_usd,
            line.pending_usd,
            escape("\n".join(shares)),
        )
    show.console().print(table)
    budgets = show.table("budget", "scope", "limit", "used", "share", "a day", "runs out", "resets at", title="Budgets, USD")
    for each in report.budgets:
        share = "–" if each.percent is None else f"{each.percent} %"
        runs_out = f"[bold red]{each.runs_out}[/]" if each.runs_out else "not in this period"
        cells = (each.quota, each.scope, f"{each.limit_usd} / {each.period}", each.used_usd, share, each.per_day_usd)
        budgets.add_row(*map(escape, cells), runs_out, each.resets_at)
    if report.budgets:
        show.console().print(budgets)


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
