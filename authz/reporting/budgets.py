"""How budgets stand in the period that each is in, and the day on which one runs out at the rate of late."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import date, datetime, time, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from authz.answers import usd
from authz.bundle import Bundle
from authz.model import Meter, QuotaState, Uid
from authz.policy import ACTIONS
from authz.quota.definitions import parse_uid
from authz.quota.ledger import Raise
from authz.quota.path import Applied, counters_of
from authz.quota.windows import NS

RATE_DAYS: Final = 7
"""The days that a rate is taken of, today among them: a week has its weekend in it."""

LONGEST_PERIOD_NS: Final = 32 * 86_400 * NS
_HOUR_NS: Final = 3_600 * NS
_DAY_NS: Final = 24 * _HOUR_NS


class Change(Struct, frozen=True):
    """A raise, as the report shows it."""

    time: str
    by_usd: str
    who: str
    why: str


class BudgetRow(Struct, frozen=True):
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


class Forecast(Struct, frozen=True):
    """A budget that goes on as it went of late. Money is decimal text in USD.

    limit_usd    in force, raises included
    per_day_usd  what a day costs: the mean of the last seven days, or since the first use where that is less
    runs_out     the day on which it is reached, `YYYY-MM-DD` in the organisation's time zone; today where it is reached; null
                 where its period ends before
    at_reset_usd what will have been used when the period ends, were there no limit
    """

    quota: str
    scope: str
    period: str
    limit_usd: str
    used_usd: str
    left_usd: str
    percent: int | None
    resets_at: str
    per_day_usd: str
    runs_out: str | None
    at_reset_usd: str


def counters(bundle: Bundle, meter: Meter | None = Meter.SPEND) -> Iterator[Applied]:
    """Every counter of every budget (of every quota where `meter` is None) that somebody in the directory can meet."""
    directory = bundle.directory
    members = [*directory.keys.values(), *(each for teams in directory.users.values() for each in teams.values())]
    principals = [member.principal for member in members]
    for quota in bundle.quotas.quotas:
        if meter is None or quota.meter is meter:
            yield from counters_of(quota, principals)


def resource_of(bundle: Bundle, applied: Applied) -> Uid:
    """Whose quota it is, as policies are asked about it; of a role's or a model's, the organisation's."""
    uid = parse_uid(applied.scope.partition(", ")[0])
    return uid if uid.type in ACTIONS["budget.change"].resources else bundle.directory.organisation


def budget_rows(
    stood: Iterable[tuple[Applied, QuotaState]], changes: Iterable[Raise], now_ns: int, zone: ZoneInfo, *, every: bool
) -> Iterator[BudgetRow]:
    """Without `every` a budget for each key, user or team shows only those of them who have used something."""
    changes = tuple(changes)
    for applied, state in stood:
        if every or applied.quota.per is None or state.used or state.limit != applied.quota.limit:
            yield _row(applied, state, changes, now_ns, zone)


def _row(applied: Applied, state: QuotaState, changes: tuple[Raise, ...], now_ns: int, zone: ZoneInfo) -> BudgetRow:
    quota = applied.quota
    start_s = quota.window.bucket(now_ns)
    return BudgetRow(
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
        resets_at=resets_at(state, now_ns, zone).isoformat(),
        alerts_reached_usd=tuple(usd(threshold) for threshold in quota.alerts_at if threshold <= state.used),
        changes=tuple(
            Change(datetime.fromtimestamp(each.at_ns // NS, zone).isoformat(), usd(each.by), each.who, each.why)
            for each in changes
            if each.counter == applied.counter and each.period_start_s >= start_s
        ),
    )


def resets_at(state: QuotaState, now_ns: int, zone: ZoneInfo) -> datetime:
    return datetime.fromtimestamp(now_ns // NS + math.ceil(state.reset_s), zone)


def forecast(applied: Applied, state: QuotaState, spent: dict[str, int], now_ns: int, zone: ZoneInfo) -> Forecast:
    """`spent` is what went into this counter by day, in nano-dollars: of the last `RATE_DAYS` days at least."""
    now = datetime.fromtimestamp(now_ns // NS, zone)
    first = now.date() - timedelta(days=RATE_DAYS - 1)
    lately = {day: amount for day, amount in spent.items() if day >= first.isoformat() and amount}
    began = max(first, date.fromisoformat(min(lately))) if lately else first
    # An hour at least: the first minutes of a budget's first day say nothing about its month.
    span_ns = max(now_ns - _midnight_ns(began, zone), _HOUR_NS)
    total = sum(lately.values())
    ends = resets_at(state, now_ns, zone)
    ends_ns = int(ends.timestamp()) * NS
    left = max(0, state.limit - state.used)
    out: str | None = None
    if not left:
        out = now.date().isoformat()
    elif total and (at_ns := now_ns + left * span_ns // total) < ends_ns:
        out = datetime.fromtimestamp(at_ns // NS, zone).date().isoformat()
    return Forecast(
        quota=applied.quota.id,
        scope=applied.scope,
        period=state.window,
        limit_usd=usd(state.limit),
        used_usd=usd(state.used),
        left_usd=usd(left),
        percent=state.used * 100 // state.limit if state.limit else None,
        resets_at=ends.isoformat(),
        per_day_usd=usd(total * _DAY_NS // span_ns),
        runs_out=out,
        at_reset_usd=usd(state.used + total * max(0, ends_ns - now_ns) // span_ns),
    )


def _midnight_ns(day: date, zone: ZoneInfo) -> int:
    return int(datetime.combine(day, time(), zone).timestamp()) * NS
