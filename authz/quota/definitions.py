"""`quotas.yaml`, typed: rows as the operator writes them, and the resolved `Quota` that each becomes.

```yaml
time_zone: Europe/Berlin            # for budgets, and for the days of the usage report
quotas:
  - id: org-spend
    scope: Org::"acme"              # or a pair: [Team::"research", ModelGroup::"large"]
    what: spend
    limit: 500 USD/month            # by the calendar: day, week or month
    alerts: [100 USD, 250 USD, 80%]
  - id: chatbot-requests
    scope: Key::"chatbot-prod"
    what: requests
    limit: 500/minute               # a sliding window in the notation of `limits`, of at most 31 days
  - id: chatbot-parallel
    scope: Team::"chatbot"
    what: in_flight
    limit: 20
    per: key                        # a counter for each key of the team
    on_store_error: share           # while the store does not answer: each replica keeps its part of the 20 by itself
```
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from typing import Final

import limits
from msgspec import Struct

from authz.model import MAX_AMOUNT, NANOS_PER_USD, Meter, Uid
from authz.quota.ledger import OnStoreError
from authz.quota.windows import GAUGE, Kind, Period, Window, calendar, check_time_zone, sliding

MAX_QUOTAS: Final = 100_000
MAX_LENGTH_S: Final = 31 * 86_400

Step = str | int


class DefinitionError(ValueError):
    """A row is wrong. `path` leads to the value in the file, for the loader to find its line."""

    def __init__(self, problem: str, path: tuple[Step, ...]) -> None:
        self.path = path
        super().__init__(problem)


class Mode(StrEnum):
    ENFORCE = "enforce"
    SHADOW = "shadow"  # counted and reported, never refused


class Reserve(StrEnum):
    WORST_CASE = "worst_case"  # holds the bound: the limit is never passed
    ADAPTIVE = "adaptive"  # holds what is expected: what goes above is posted afterwards


class Per(StrEnum):
    KEY = "key"
    USER = "user"
    TEAM = "team"


class QuotaRow(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A quota as it is written; the loader fills it, `parse_quotas` checks it."""

    id: str
    scope: str | list[str]
    what: Meter
    limit: str | int
    alerts: list[str | int] = []
    models: list[str] = []
    per: Per | None = None
    mode: Mode = Mode.ENFORCE
    reserve: Reserve | None = None
    on_store_error: OnStoreError = OnStoreError.DENY


class QuotaFile(Struct, frozen=True, forbid_unknown_fields=True):
    time_zone: str = "UTC"
    quotas: list[QuotaRow] = []


class Quota(Struct, frozen=True):
    """A quota with everything resolved.

    scope      one entity, or a principal's entity and a model group
    limit      in the meter's unit, 1 to MAX_AMOUNT
    alerts_at  in the meter's unit, ascending, none above the limit
    models     sorted ids of models or model groups; empty for all. One counter for all of them together
    per        one counter for each member below the scope; None for one counter
    """

    id: str
    scope: tuple[Uid, ...]
    meter: Meter
    limit: int
    window: Window
    alerts_at: tuple[int, ...]
    models: tuple[str, ...]
    per: Per | None
    enforced: bool
    reserve: Reserve
    on_store_error: OnStoreError = OnStoreError.DENY


def parse_quotas(file: QuotaFile) -> tuple[Quota, ...]:
    """Every row resolved, in the file's order. Raises `DefinitionError` at the first that is wrong."""
    try:
        check_time_zone(file.time_zone)
    except ValueError as error:
        raise DefinitionError(str(error), ("time_zone",)) from None
    if len(file.quotas) > MAX_QUOTAS:
        raise DefinitionError(f"{len(file.quotas)} quotas, expected at most {MAX_QUOTAS}", ("quotas",))
    quotas, seen = [], set()
    for index, row in enumerate(file.quotas):
        if row.id in seen:
            raise DefinitionError(f"quota `{row.id}` stands twice", ("quotas", index, "id"))
        seen.add(row.id)
        try:
            quotas.append(parse_quota(row, file.time_zone))
        except DefinitionError as error:
            raise DefinitionError(f"quota `{row.id}`: {error}", ("quotas", index, *error.path)) from None
    return tuple(quotas)


def parse_quota(row: QuotaRow, time_zone: str) -> Quota:
    """One row resolved. Raises `DefinitionError` with the path inside the row."""
    if not row.id or not row.id.isprintable():
        raise DefinitionError("expected an id of printable characters", ("id",))
    with _in("scope"):
        scope = _scope(row.scope)
    with _in("limit"):
        limit, window = _limit(row.what, row.limit, time_zone)
    with _in("per"):
        per = _per(row.per, scope)
    return Quota(
        id=row.id,
        scope=scope,
        meter=row.what,
        limit=limit,
        window=window,
        alerts_at=_alerts(row, limit, window),
        models=_models(row.models),
        per=per,
        enforced=row.mode is Mode.ENFORCE,
        reserve=row.reserve or (Reserve.WORST_CASE if row.what is Meter.SPEND else Reserve.ADAPTIVE),
        on_store_error=row.on_store_error,
    )


_UID: Final = re.compile(r'([A-Za-z]+)::"((?:[^"\\]|\\["\\])*)"')
_PRINCIPALS: Final = ("Org", "Team", "User", "Key", "Role")
_GROUP: Final = "ModelGroup"


def parse_uid(text: str) -> Uid:
    """An entity as `Uid` prints it: `Team::"x"`, with `\\"` and `\\\\` as the only escapes. The whole text, strictly."""
    match = _UID.fullmatch(text)
    if match is None:
        raise ValueError(f'found `{text}`, expected an entity such as `Team::"chatbot"`')
    kind, name = match.group(1), re.sub(r"\\(.)", r"\1", match.group(2))
    if kind not in (*_PRINCIPALS, _GROUP):
        raise ValueError(f"found an entity of type `{kind}`, expected {_one_of((*_PRINCIPALS, _GROUP))}")
    if not name or not name.isprintable():
        raise ValueError(f"found `{text}`, expected an id of printable characters")
    return Uid(kind, name)


def _scope(written: str | list[str]) -> tuple[Uid, ...]:
    if isinstance(written, str):
        return (parse_uid(written),)
    uids = [parse_uid(text) for text in written]
    principals = [uid for uid in uids if uid.type in _PRINCIPALS]
    groups = [uid for uid in uids if uid.type == _GROUP]
    if len(uids) == 1 or (len(uids) == 2 and len(principals) == 1):
        return (*principals, *groups)
    raise ValueError(f"found {_and(uids)}, expected one entity, or a pair of {_one_of(_PRINCIPALS)} and a ModelGroup")


def _per(per: Per | None, scope: tuple[Uid, ...]) -> Per | None:
    """Below the scope means: a member can be one of many in it. Roles and model groups cut across, so anything goes."""
    above = {Per.KEY: ("Key",), Per.USER: ("Key", "User"), Per.TEAM: ("Key", "User", "Team")}
    if per is not None and scope[0].type in above[per]:
        raise ValueError(f"found `{per.value}` in the scope {scope[0]}, expected something below the scope")
    return per


def _models(written: list[str]) -> tuple[str, ...]:
    for index, name in enumerate(written):
        if not name or not name.isprintable() or name != name.strip() or "::" in name:
            raise DefinitionError(f"found `{name}`, expected the plain id of a model or model group", ("models", index))
        if name in written[:index]:
            raise DefinitionError(f"`{name}` stands twice", ("models", index))
    return tuple(sorted(written))


_USD: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z$€]+)\s*", re.ASCII)
_SPEND: Final = re.compile(_USD.pattern + r"(?:/|per\s)\s*([A-Za-z]+)\s*", re.ASCII)
_ZERO_UNITS: Final = re.compile(r"(?:/|per)\s*0+\s*[a-z]", re.IGNORECASE | re.ASCII)
_WEEKS: Final = re.compile(r"(/|per)\s*([0-9]*)\s*weeks?\s*$", re.IGNORECASE | re.ASCII)


def _limit(meter: Meter, written: str | int, time_zone: str) -> tuple[int, Window]:
    if meter is Meter.IN_FLIGHT:
        if not isinstance(written, int):
            raise ValueError(f"found `{written}`, expected a whole number such as 20: in_flight has no window")
        return _bounded(written), GAUGE
    if meter is Meter.SPEND:
        return _spend_limit(str(written), time_zone)
    return _rate_limit(str(written))


def _spend_limit(written: str, time_zone: str) -> tuple[int, Window]:
    match = _SPEND.fullmatch(written)
    if match is None:
        raise ValueError(f"found `{written}`, expected an amount and a period such as `500 USD/month`")
    amount, currency, unit = match.groups()
    nanos = _bounded(_nanos(amount, currency))
    periods = [period.value for period in Period]
    if unit.lower() not in periods:
        raise ValueError(f"found `{unit}`: spend is counted by the calendar, expected {_one_of(periods)}")
    return nanos, calendar(Period(unit.lower()), time_zone)


def _rate_limit(written: str) -> tuple[int, Window]:
    expected = "expected an amount and a time such as `500/minute` or `10 per 2 hours`"
    if _ZERO_UNITS.search(written):
        raise ValueError(f"found `{written}`, {expected}")
    try:
        # `limits` knows no week.
        items = limits.parse_many(_WEEKS.sub(lambda found: f"/{7 * int(found[2] or 1)} day", written))
    except ValueError:
        raise ValueError(f"found `{written}`, {expected}") from None
    if len(items) != 1:
        raise ValueError(f"found {len(items)} limits in `{written}`, expected one: write a quota for each")
    if items[0].get_expiry() > MAX_LENGTH_S:
        raise ValueError(f"found `{written}`, expected a window of at most 31 days")
    return _bounded(items[0].amount), sliding(items[0].get_expiry())


def _alerts(row: QuotaRow, limit: int, window: Window) -> tuple[int, ...]:
    if row.alerts and window.kind is not Kind.CALENDAR:
        raise DefinitionError(f"found alerts for {row.what.value}: only spend has periods to alert in", ("alerts",))
    found: list[int] = []
    for index, written in enumerate(row.alerts):
        with _in("alerts", index):
            threshold = _alert(written, limit)
        if threshold in found:
            raise DefinitionError(f"`{written}` stands twice", ("alerts", index))
        found.append(threshold)
    return tuple(sorted(found))


def parse_usd(text: str) -> int:
    """An amount such as `100 USD`, in nano-dollars; it may be negative. Raises `ValueError`."""
    match = _USD.fullmatch(text.strip().removeprefix("-"))
    if match is None:
        raise ValueError(f"found `{text}`, expected an amount such as `100 USD`")
    nanos = _nanos(match[1], match[2])
    return -nanos if text.strip().startswith("-") else nanos


_PERCENT: Final = re.compile(r"\s*([0-9]+(?:\.[0-9]+)?)\s*%\s*", re.ASCII)


def _alert(written: str | int, limit: int) -> int:
    text = str(written)
    if match := _PERCENT.fullmatch(text):
        digits, places = _decimal(match[1])
        threshold = -(-digits * limit // int(100 * 10**places))  # rounded up: told when it is reached, not before
    elif match := _USD.fullmatch(text):
        threshold = _nanos(match[1], match[2])
    else:
        raise ValueError(f"found `{written}`, expected an amount such as `100 USD` or a share such as `80%`")
    if threshold <= 0:
        raise ValueError(f"found `{written}`, expected more than 0")
    if threshold > limit:
        raise ValueError(f"found `{written}`, expected no more than the limit")
    return threshold


def parse_amount(written: str | int, quota: Quota) -> int:
    """What a quota has counted, as a test case writes it: `420 USD`, `80%`, or a whole number in the meter's unit."""
    text = str(written)
    if match := _PERCENT.fullmatch(text):
        digits, places = _decimal(match[1])
        return -(-digits * quota.limit // int(100 * 10**places))
    if quota.meter is Meter.SPEND and (match := _USD.fullmatch(text)):
        return _nanos(match[1], match[2])
    if quota.meter is not Meter.SPEND and isinstance(written, int) and 0 <= written <= MAX_AMOUNT:
        return written
    expected = "an amount such as `420 USD`" if quota.meter is Meter.SPEND else f"a whole number of {quota.meter.value}"
    raise ValueError(f"found `{written}`, expected {expected} or a share such as `80%`")


def _nanos(amount: str, currency: str) -> int:
    if currency != "USD":
        raise ValueError(f"found the currency `{currency}`, expected USD: prices are in US dollars")
    digits, places = _decimal(amount)
    if places > 9:
        raise ValueError(f"found `{amount} USD`, expected at most nine decimal places")
    return digits * int(10 ** (9 - places))


def _decimal(text: str) -> tuple[int, int]:
    """A number as integer and decimal places, exactly: money never passes through a float."""
    if len(text) > 40:
        raise ValueError(f"found a number of {len(text)} characters, expected at most 40")
    whole, _, rest = text.partition(".")
    rest = rest.rstrip("0")
    return int(whole + rest), len(rest)


def _bounded(limit: int) -> int:
    if limit <= 0:
        raise ValueError(f"found {limit}, expected more than 0: to refuse everything, write a policy")
    if limit > MAX_AMOUNT:
        most = f"{MAX_AMOUNT} (for spend: {MAX_AMOUNT // NANOS_PER_USD} USD)"
        raise ValueError(f"found a limit of {limit}, expected at most {most}")
    return limit


@contextmanager
def _in(*path: Step) -> Iterator[None]:
    """Says where in the row a value stands that turns out to be wrong."""
    try:
        yield
    except ValueError as error:
        raise DefinitionError(str(error), path) from None


def _one_of(names: tuple[str, ...] | list[str]) -> str:
    return f"{', '.join(names[:-1])} or {names[-1]}"


def _and(uids: list[Uid]) -> str:
    return " and ".join(str(uid) for uid in uids) or "nothing"
