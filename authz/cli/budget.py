"""`authz budget`: how the budgets stand, and changing one by hand, for the period that it is in."""

from __future__ import annotations

import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import click

from authz.cli import acting, options, show

if TYPE_CHECKING:
    from authz.administration import BudgetDesk
    from authz.model import QuotaState
    from authz.quota.path import Applied
    from authz.reporting.budgets import BudgetRow


@click.group()
def budget() -> None:
    """Show budgets, raise one, or let it resume."""


@budget.command("show")
@click.argument("quota", required=False)
@options.config
@acting.as_user
@click.option("--all", "every", is_flag=True, help="Also the members of a budget by key, user or team that have used nothing.")
@options.as_json
def show_budgets(quota: str | None, config: Path, user: str | None, every: bool, as_json: bool) -> None:
    """Every budget, or QUOTA: limit, use, what is left, and when it resets. Exits with 1 where one is reached."""
    with _opened(config, user) as desk:
        rows = desk.rows(quota, every=every)
    if as_json:
        show.as_json({"budgets": rows})
    else:
        _print(rows)
    show.leave(findings=any(row.reached and row.enforced for row in rows))


@budget.command("raise")
@click.argument("quota")
@options.config
@click.option("--to", help="The limit for the rest of the period, such as `600 USD`.")
@click.option("--by", help="What to add to it, such as `100 USD`; a negative amount takes back.")
@click.option("--why", required=True, help="For the record.")
@acting.as_user
@click.option("--scope", help='Whose, where QUOTA has a budget for each key, user or team, such as `Key::"batch"`.')
@options.as_json
def raise_budget(
    quota: str, config: Path, to: str | None, by: str | None, why: str, user: str | None, scope: str | None, as_json: bool
) -> None:
    """Change the limit of QUOTA for the rest of its period. A running sidecar feels it at its next decision."""
    from authz.quota.definitions import parse_usd

    if (to is None) == (by is None):
        raise click.UsageError("expected exactly one of --to and --by")
    try:
        amount = parse_usd(to if to is not None else by or "")
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="--to" if to is not None else "--by") from None
    if to is not None and amount < 0:
        raise click.BadParameter(f"found `{to}`, expected 0 USD or more", param_hint="--to")
    with _opened(config, user) as desk, _told():
        changed = desk.raise_limit(
            quota, scope, to=amount if to is not None else None, by=amount if to is None else None, why=why
        )
    _tell(*changed, as_json=as_json)


@budget.command()
@click.argument("quota")
@options.config
@click.option("--why", required=True, help="For the record.")
@acting.as_user
@click.option("--scope", help='Whose, where QUOTA has a budget for each key, user or team, such as `Key::"batch"`.')
@options.as_json
def resume(quota: str, config: Path, why: str, user: str | None, scope: str | None, as_json: bool) -> None:
    """Give QUOTA its whole limit again for the rest of its period, beside what is used already."""
    with _opened(config, user) as desk, _told():
        changed = desk.resume(quota, scope, why=why)
    _tell(*changed, as_json=as_json)


@contextmanager
def _opened(config: Path, user: str | None) -> Iterator[BudgetDesk]:
    from authz.administration import BudgetDesk
    from authz.bundle import load_bundle
    from authz.errors import ConfigError
    from authz.settings import read_settings
    from authz.store import open_store

    settings = read_settings(config)
    if settings.store.endswith(":memory:"):
        raise ConfigError(
            str(config), "store: the budgets are in the memory of another process, expected a store that is shared"
        )
    bundle = load_bundle(Path(settings.bundle))
    administrator = acting.administrator(settings, bundle, user, time.time_ns())
    store = open_store(settings.store)
    try:
        yield BudgetDesk(bundle, store, administrator, new_id=lambda: secrets.token_hex(8), login=acting.login())
    finally:
        store.close()


@contextmanager
def _told() -> Iterator[None]:
    """What cannot be done, as a slip in the command."""
    try:
        yield
    except ValueError as error:
        raise click.UsageError(str(error)) from None


def _tell(applied: Applied, before: QuotaState, after: QuotaState, *, as_json: bool) -> None:
    from authz.answers import usd

    if as_json:
        amounts = {"was_usd": before.limit, "limit_usd": after.limit, "used_usd": after.used, "left_usd": after.remaining}
        named = {"quota": applied.quota.id, "scope": applied.scope, "period": after.window}
        show.as_json(named | {name: usd(amount) for name, amount in amounts.items()})
        return
    was = f" (was {usd(before.limit)})" if after != before else ", as before"
    click.echo(
        f"{applied.quota.id} of {applied.scope}: {usd(after.limit)} USD this {after.window}{was},"
        f" {usd(after.used)} used, {usd(after.remaining)} left"
    )


def _print(rows: list[BudgetRow]) -> None:
    from rich.markup import escape

    table = show.table(
        "quota",
        "scope",
        "limit",
        "raised",
        "used",
        "left",
        "share",
        "resets at",
        "alerts reached",
        title="Budgets, USD",
    )
    for row in rows:
        share = "–" if row.percent is None else f"{row.percent} %"
        table.add_row(
            escape(row.quota + ("" if row.enforced else " (shadow)")),
            escape(row.scope),
            f"{row.limit_usd} / {row.period}",
            row.raised_usd if row.changes else "",
            row.used_usd,
            row.left_usd,
            f"[bold red]{share}, reached[/]" if row.reached else share,
            _minute(row.resets_at),
            ", ".join(row.alerts_reached_usd),
        )
    show.console().print(table)
    if any(row.changes for row in rows):
        changed = show.table("quota", "scope", "time", "by", "who", "why", title="Changed by hand in this period")
        for row in rows:
            for change in row.changes:
                cells = (row.quota, row.scope, _minute(change.time), change.by_usd, change.who, change.why)
                changed.add_row(*map(escape, cells))
        show.console().print(changed)


def _minute(moment: str) -> str:
    """`2026-12-01 00:00 +01:00` of an ISO 8601 moment with seconds and an offset."""
    return f"{moment[:10]} {moment[11:16]} {moment[19:]}"
