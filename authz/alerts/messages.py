"""What a webhook is sent. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final

from msgspec import Struct

from authz.answers import usd
from authz.quota.ledger import Delivery

_ESCAPES: Final = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;"})
"""Slack's own: without them an id could mention a channel or hide a link."""


class Generic(Struct, frozen=True, kw_only=True):
    """Our own JSON. Money is decimal text in USD; times are UTC, RFC 3339.

    id        the same at every attempt: a receiver that keeps it can drop repeats
    percent   of the limit that is posted, rounded down; null where the limit was taken back to nothing
    period_start  the first second of the day, week or month
    """

    version: int = 1
    id: str
    organisation: str
    quota: str
    scope: str
    threshold_usd: str
    limit_usd: str
    posted_usd: str
    percent: int | None
    period: str
    period_start: str
    time: str


class Slack(Struct, frozen=True):
    """What Slack's incoming webhooks take, and those of Mattermost and others that speak like them."""

    text: str


def generic(delivery: Delivery) -> Generic:
    alert = delivery.alert
    return Generic(
        id=delivery.id,
        organisation=alert.organisation,
        quota=alert.quota,
        scope=alert.scope,
        threshold_usd=usd(alert.threshold),
        limit_usd=usd(alert.limit),
        posted_usd=usd(alert.posted),
        percent=alert.posted * 100 // alert.limit if alert.limit else None,
        period=alert.window,
        period_start=_utc(delivery.period_start_s),
        time=_utc(delivery.at_ns // 1_000_000_000),
    )


def slack(delivery: Delivery) -> Slack:
    message = generic(delivery)
    share = f" ({message.percent} %)" if message.percent is not None else ""
    reached = "has reached its limit" if delivery.alert.posted >= delivery.alert.limit else "has passed a threshold"
    return Slack(
        f"*{_plain(message.quota)}* of {_plain(message.organisation)} {reached}: {message.posted_usd} of {message.limit_usd}"
        f" USD{share} spent this {message.period} by {_plain(message.scope)}. Threshold: {message.threshold_usd} USD."
    )


def _plain(text: str) -> str:
    return text.translate(_ESCAPES)


def _utc(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
