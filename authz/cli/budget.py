"""`authz budget`: how the budgets stand, and changing one by hand, for the period that it is in."""

from __future__ import annotations

import math
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click
from msgspec import Struct

from authz.cli import acting, options, show

if TYPE_CHECKING:
    from zoneinfo import ZoneInfo

    from authz.administration import Administrator
    from authz.bundle import Bundle
    from authz.model import QuotaState, Uid
    from authz.quota.ledger import Ledger, Raise
    from authz.quota.path import Applied
    from authz.store import Store

_AT_ONCE: Final = 500
_LONGEST_PERIOD_NS: Final = 32 * 86_400 * 1_000_000_000


class Change(Struct, frozen=True):
    """A raise, as the report shows it."""

    time: str
    by_usd: str
    who: str
    why: str


class Row(Struct, frozen=True):
    """A budget in the period that it is in. Money is decimal text in USD.

    limit_usd   as quotas.yaml has it, raised_usd what was added by hand; used_usd is posted and pending
    percent     of the limit in force that is used, rounded down; null where that is nothing
    resets_at   when the period ends: until then, without a raise, a budget that is reached stays reached
    """

    quota: str
    scope: str
    period: str
    limit_usd: str
    raised_usd: str
    used_usd: str
    left_usd: str
    percent: int | None
    reached: bool
    enforced: bool
    resets_at: str
    alerts_reached_usd: tuple[str, ...]
    changes: tuple[Change, ...]


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
    now_ns = time.time_ns()
    with _opened(config, user) as (bundle, store, file, administrator):
        counters = (each for name in _named(bundle, quota, file) for each in _counters(bundle, name))
        applied = [each for each in counters if administrator.may("usage.read", _resource(bundle, each))]
        rows = list(_rows(applied, store, now_ns, bundle.time_zone, every=every))
    if as_json:
        show.as_json({"budgets": rows})
    else:
        _print(rows, bundle.time_zone)
    show.leave(findings=any(row.reached and row.enforced for row in rows))


@budget.command("raise")
@click.argument("quota")
@options.config
@click.option("--to", help="The limit for the rest of the period, such as `600 USD`.")
@click.option("--by", help="What to add to it, such as `100 USD`; a negative amount takes back.")
@click.option("--why", required=True, help="For the record.")
@acting.as_user
@click.option("--scope", help='Whose, where QUOTA has a budget for each key, user or team, such as `Key::"batch"`.')
def raise_budget(
    quota: str, config: Path, to: str | None, by: str | None, why: str, user: str | None, scope: str | None
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
    with _opened(config, user) as (bundle, store, file, administrator):
        applied = _one(bundle, quota, scope, file)
        administrator.require("budget.change", _resource(bundle, applied))
        (before,) = store.look((applied.charge(0),), time.time_ns())
        _change(store, applied, amount - before.limit if to is not None else amount, before, administrator, why)


@budget.command()
@click.argument("quota")
@options.config
@click.option("--why", required=True, help="For the record.")
@acting.as_user
@click.option("--scope", help='Whose, where QUOTA has a budget for each key, user or team, such as `Key::"batch"`.')
def resume(quota: str, config: Path, why: str, user: str | None, scope: str | None) -> None:
    """Give QUOTA its whole limit again for the rest of its period, beside what is used already."""
    with _opened(config, user) as (bundle, store, file, administrator):
        applied = _one(bundle, quota, scope, file)
        administrator.require("budget.change", _resource(bundle, applied))
        (before,) = store.look((applied.charge(0),), time.time_ns())
        _change(store, applied, max(0, applied.quota.limit + before.used - before.limit), before, administrator, why)


@contextmanager
def _opened(config: Path, user: str | None) -> Iterator[tuple[Bundle, Store, str, Administrator]]:
    """The bundle, the store, what the file of quotas is called, and who acts."""
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
        yield bundle, store, str(Path(settings.bundle) / "quotas.yaml"), administrator
    finally:
        store.close()


def _named(bundle: Bundle, name: str | None, file: str) -> list[str]:
    from authz.errors import ConfigError
    from authz.model import Meter

    budgets = [quota.id for quota in bundle.quotas.quotas if quota.meter is Meter.SPEND]
    if name is None:
        return budgets
    if name not in budgets:
        known = ", ".join(f"`{each}`" for each in budgets) or "none: no quota of `what: spend` is defined"
        raise ConfigError(file, f"no budget `{name}`, expected one of {known}")
    return [name]


def _counters(bundle: Bundle, name: str) -> tuple[Applied, ...]:
    from authz.quota.path import counters_of

    quota = next(each for each in bundle.quotas.quotas if each.id == name)
    directory = bundle.directory
    members = [*directory.keys.values(), *(each for teams in directory.users.values() for each in teams.values())]
    return counters_of(quota, (member.principal for member in members))


def _one(bundle: Bundle, name: str, scope: str | None, file: str) -> Applied:
    """The one counter that is meant. A member that nobody knows is a slip of the pen, not a budget."""
    from authz.errors import ConfigError

    (name,) = _named(bundle, name, file)
    applied = _counters(bundle, name)
    per = next(each.per for each in bundle.quotas.quotas if each.id == name)
    if scope is None and per is not None:
        raise ConfigError(file, f"`{name}` is a budget for each {per.value}, expected --scope with one of them")
    found = [each for each in applied if scope is None or scope in (each.scope, each.scope.partition(", ")[0])]
    if len(found) != 1:
        some = ", ".join(f"`{each.scope}`" for each in applied[:5]) + (", …" if len(applied) > 5 else "")
        raise ConfigError(file, f"`{name}` is no budget of `{scope}`, expected one of {some or 'nobody'}")
    return found[0]


def _resource(bundle: Bundle, applied: Applied) -> Uid:
    """Whose budget it is, as policies are asked about it; of a role's or a model's, the organisation's."""
    from authz.policy import ACTIONS
    from authz.quota.definitions import parse_uid

    uid = parse_uid(applied.scope.partition(", ")[0])
    return uid if uid.type in ACTIONS["budget.change"].resources else bundle.directory.organisation


def _change(store: Store, applied: Applied, by: int, before: QuotaState, administrator: Administrator, why: str) -> None:
    from authz.answers import usd
    from authz.store.accounts import check_raise

    if not why.strip():
        raise click.BadParameter("found nothing, expected words for the record", param_hint="--why")
    after = before
    if by:
        raise_id, now_ns, who = secrets.token_hex(8), time.time_ns(), str(administrator.uid)
        try:
            check_raise(applied.charge(0), by)
            _record(store, applied, raise_id, by, before, who, why, now_ns)
            after = store.raise_limit(raise_id, applied.charge(0), by, who, why, now_ns)
        except ValueError as error:
            raise click.UsageError(str(error)) from None
    was = f" (was {usd(before.limit)})" if by else ", as before"
    click.echo(
        f"{applied.quota.id} of {applied.scope}: {usd(after.limit)} USD this {after.window}{was},"
        f" {usd(after.used)} used, {usd(after.remaining)} left"
    )


def _record(
    store: Store, applied: Applied, raise_id: str, by: int, before: QuotaState, who: str, why: str, now_ns: int
) -> None:
    """Before it is done: a change that failed and is on record does no harm, one that is not on record would."""
    from authz.answers import usd
    from authz.audit import Act
    from authz.identity.issuing import record, shown

    act = Act(
        at=shown(now_ns),
        who=who,
        login=acting.login(),
        what="budget.change",
        subject=applied.scope,
        why=why,
        before={"quota": applied.quota.id, "limit_usd": usd(before.limit)},
        after={"quota": applied.quota.id, "limit_usd": usd(before.limit + by), "raise": raise_id},
    )
    record(store, lambda: ((), act))


def _rows(applied: list[Applied], store: Ledger, now_ns: int, zone: ZoneInfo, *, every: bool) -> Iterator[Row]:
    changes = store.raises(now_ns - _LONGEST_PERIOD_NS)
    for start in range(0, len(applied), _AT_ONCE):
        some = applied[start : start + _AT_ONCE]
        states = store.look(tuple(each.charge(0) for each in some), now_ns)
        for each, state in zip(some, states, strict=True):
            if every or each.quota.per is None or state.used or state.limit != each.quota.limit:
                yield _row(each, state, changes, now_ns, zone)


def _row(applied: Applied, state: QuotaState, changes: tuple[Raise, ...], now_ns: int, zone: ZoneInfo) -> Row:
    from authz.answers import usd

    quota = applied.quota
    ends_s = now_ns // 1_000_000_000 + math.ceil(state.reset_s)
    window = quota.window
    start_s = window.bucket(now_ns)
    return Row(
        quota=quota.id,
        scope=applied.scope,
        period=state.window,
        limit_usd=usd(quota.limit),
        raised_usd=usd(state.limit - quota.limit),
        used_usd=usd(state.used),
        left_usd=usd(state.remaining),
        percent=state.used * 100 // state.limit if state.limit else None,
        reached=not state.remaining,
        enforced=quota.enforced,
        resets_at=datetime.fromtimestamp(ends_s, zone).isoformat(),
        alerts_reached_usd=tuple(usd(threshold) for threshold in quota.alerts_at if threshold <= state.used),
        changes=tuple(
            Change(datetime.fromtimestamp(each.at_ns // 1_000_000_000, zone).isoformat(), usd(each.by), each.who, each.why)
            for each in changes
            if each.counter == applied.counter and each.period_start_s >= start_s
        ),
    )


def _print(rows: list[Row], zone: ZoneInfo) -> None:
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
        title=f"Budgets, USD; times in {zone.key}",
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
    return moment[:16].replace("T", " ")
