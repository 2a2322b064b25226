"""The usage report: requests, tokens and cost by key, user, team, model, day or month, and the share of each budget."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import cache
from zoneinfo import ZoneInfo

from msgspec import Struct

from authz.answers import usd
from authz.bundle import Bundle
from authz.model import Meter, Principal, QuotaState, Uid
from authz.quota.ledger import Ledger, UsageRow
from authz.quota.path import Applied
from authz.quota.windows import NS
from authz.reporting.budgets import RATE_DAYS, Forecast, forecast, resource_of


class By(StrEnum):
    KEY = "key"
    USER = "user"
    TEAM = "team"
    MODEL = "model"
    DAY = "day"
    MONTH = "month"


class Query(Struct, frozen=True):
    """Days are `YYYY-MM-DD` in the organisation's time zone, both included."""

    by: By
    first_day: str
    last_day: str


class Share(Struct, frozen=True):
    """percent  of the budget's limit in force that this line took in the period that the budget is in, whatever days were asked
    for; null where the limit is nothing"""

    quota: str
    scope: str
    percent: float | None


class UsageLine(Struct, frozen=True):
    """name  of the key, user, team, model, day or month; of a user empty where the key acts for none.

    requests       ended and under way · input_tokens with the cached ones
    estimated_usd  what was reserved for them at most · settled_usd: what was posted · pending_usd: held for those under way
    """

    name: str
    requests: int
    pending_requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    estimated_usd: str
    settled_usd: str
    pending_usd: str
    budgets: tuple[Share, ...] = ()


class UsageReport(Struct, frozen=True):
    by: By
    first_day: str
    last_day: str
    time_zone: str
    lines: tuple[UsageLine, ...]
    total: UsageLine
    budgets: tuple[Forecast, ...]


class KeyUsage(Struct, frozen=True):
    """One key's day. Tokens are input and output; the cost is posted plus what is held for requests under way, in USD."""

    key_name: str
    requests_today: int
    tokens_today: int
    estimated_cost_usd: str


def usage_by_key(rows: Iterable[UsageRow]) -> list[KeyUsage]:
    """Rows of one day: a key's models added up, keys in order."""
    return [
        KeyUsage(
            key_name=key,
            requests_today=sum(row.requests + row.pending_requests for row in group),
            tokens_today=sum(row.input_tokens + row.output_tokens for row in group),
            estimated_cost_usd=usd(sum(row.cost_nanousd + row.pending_nanousd for row in group)),
        )
        for key, group in _grouped(rows, By.KEY).items()
    ]


def today(now_ns: int, zone: ZoneInfo) -> str:
    return _day_at(now_ns // NS, zone)


def is_day(text: str) -> bool:
    try:
        return date.fromisoformat(text).isoformat() == text
    except ValueError:
        return False


def query(by: By, first_day: str, last_day: str, now_ns: int, zone: ZoneInfo) -> Query:
    """What is meant where days are empty: up to today, from the first of this month, by month of the last twelve.

    Raises `ValueError` for what is no day, or a beginning after the end.
    """
    now = datetime.fromtimestamp(now_ns // NS, zone).date()
    for text in (first_day, last_day):
        if text and not is_day(text):
            raise ValueError(f"`{text}`, expected YYYY-MM-DD")
    last = last_day or now.isoformat()
    if not first_day:
        begins = date.fromisoformat(last).replace(day=1)
        first_day = (_months_before(begins, 11) if by is By.MONTH else begins).isoformat()
    if first_day > last:
        raise ValueError(f"from {first_day} to {last}, expected the earlier day first")
    return Query(by, first_day, last)


def gather(
    bundle: Bundle,
    ledger: Ledger,
    asked: Query,
    now_ns: int,
    *,
    sees: Callable[[str, str], bool],
    reads: Callable[[Uid], bool],
) -> UsageReport:
    """The report of what is in the ledger now. Raises `StoreUnavailable`.

    sees   whether a row may be shown, by key and team · reads: whether a budget of this entity may be
    """
    first, last = span(bundle, asked, now_ns)
    rows = ledger.usage(first, last)
    met = budgets_met(bundle, rows)
    applied = {each.counter: each for found in met.values() for each in found if reads(resource_of(bundle, each))}
    states = ledger.look(tuple(each.charge(0) for each in applied.values()), now_ns) if applied else ()
    stood = dict(zip(applied.values(), states, strict=True))
    return report(bundle, asked, rows, met, stood, now_ns, sees=sees)


def span(bundle: Bundle, asked: Query, now_ns: int) -> tuple[str, str]:
    """The days whose rows a report needs: those asked for, every budget's period up to now, and those a rate is taken of."""
    zone = bundle.time_zone
    now = datetime.fromtimestamp(now_ns // NS, zone).date()
    begins = [_day_at(quota.window.bucket(now_ns), zone) for quota in bundle.quotas.quotas if quota.meter is Meter.SPEND]
    rate = (now - timedelta(days=RATE_DAYS - 1)).isoformat()
    return min(asked.first_day, rate, *begins), max(asked.last_day, now.isoformat())


def budgets_met(bundle: Bundle, rows: Iterable[UsageRow]) -> dict[tuple[str, ...], tuple[Applied, ...]]:
    """The budgets that the requests of each row count in, by `who(row)`: as the directory and the quotas are now."""
    found: dict[tuple[str, ...], tuple[Applied, ...]] = {}
    for row in rows:
        name = who(row)
        if name not in found:
            model = bundle.prices.models.get(row.model)
            applying = bundle.quotas.applying(_principal(bundle, row), row.model, model.groups if model else ())
            found[name] = tuple(each for each in applying if each.quota.meter is Meter.SPEND)
    return found


def who(row: UsageRow) -> tuple[str, ...]:
    return (row.organisation, row.team, row.user, row.key, row.model)


def report(
    bundle: Bundle,
    asked: Query,
    rows: Sequence[UsageRow],
    met: Mapping[tuple[str, ...], tuple[Applied, ...]],
    stood: Mapping[Applied, QuotaState],
    now_ns: int,
    *,
    sees: Callable[[str, str], bool],
) -> UsageReport:
    """Pure. `rows` are those of `span`; `stood` says how each budget that may be shown stands."""
    zone, seen = bundle.time_zone, cache(sees)
    now_day = today(now_ns, zone)
    begins = {applied.counter: _day_at(applied.quota.window.bucket(now_ns), zone) for applied in stood}
    visible = [row for row in rows if seen(row.key, row.team)]
    chosen = [row for row in visible if asked.first_day <= row.day <= asked.last_day]
    took: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    spent: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        for each in met[who(row)]:
            if each.counter in begins:
                spent[each.counter][row.day] += row.cost_nanousd + row.pending_nanousd
                if begins[each.counter] <= row.day <= now_day and seen(row.key, row.team):
                    took[_name(row, asked.by)][each.counter] += row.cost_nanousd + row.pending_nanousd
    return UsageReport(
        by=asked.by,
        first_day=asked.first_day,
        last_day=asked.last_day,
        time_zone=zone.key,
        lines=tuple(_line(name, group, took[name], stood) for name, group in _grouped(chosen, asked.by).items()),
        total=_line("", chosen, {}, {}),
        budgets=tuple(forecast(applied, state, spent[applied.counter], now_ns, zone) for applied, state in stood.items()),
    )


def _line(name: str, rows: Sequence[UsageRow], took: Mapping[str, int], stood: Mapping[Applied, QuotaState]) -> UsageLine:
    pending = sum(row.pending_nanousd for row in rows)
    return UsageLine(
        name=name,
        requests=sum(row.requests + row.pending_requests for row in rows),
        pending_requests=sum(row.pending_requests for row in rows),
        input_tokens=sum(row.input_tokens for row in rows),
        cached_tokens=sum(row.cached_tokens for row in rows),
        output_tokens=sum(row.output_tokens for row in rows),
        estimated_usd=usd(sum(row.estimated_nanousd for row in rows) + pending),
        settled_usd=usd(sum(row.cost_nanousd for row in rows)),
        pending_usd=usd(pending),
        budgets=tuple(
            Share(applied.quota.id, applied.scope, round(took[applied.counter] * 100 / state.limit, 2) if state.limit else None)
            for applied, state in stood.items()
            if applied.counter in took
        ),
    )


def _grouped(rows: Iterable[UsageRow], by: By) -> dict[str, list[UsageRow]]:
    found: dict[str, list[UsageRow]] = defaultdict(list)
    for row in rows:
        found[_name(row, by)].append(row)
    return dict(sorted(found.items()))


def _name(row: UsageRow, by: By) -> str:
    return row.day[:7] if by is By.MONTH else str(getattr(row, by.value))


def _principal(bundle: Bundle, row: UsageRow) -> Principal:
    """Who was charged, in the team and for the user of the row, with the roles that they have now."""
    directory = bundle.directory
    member = directory.keys.get(row.key) or directory.users.get(row.user, {}).get(row.team)
    is_user = row.key == row.user and row.key not in directory.keys
    return Principal(
        uid=Uid("User" if is_user else "Key", row.key),
        organisation=Uid("Org", row.organisation),
        team=Uid("Team", row.team),
        user=Uid("User", row.user) if row.user else None,
        roles=member.principal.roles if member is not None else (),
    )


def _months_before(first: date, months: int) -> date:
    at = first.year * 12 + first.month - 1 - months
    return date(at // 12, at % 12 + 1, 1)


def _day_at(second: int, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(second, zone).date().isoformat()
