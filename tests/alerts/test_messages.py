"""What a webhook is sent."""

from __future__ import annotations

import json

import msgspec
import pytest

from authz.alerts.messages import generic, slack
from authz.model import Meter
from authz.quota.ledger import Alert, Delivery

USD = 1_000_000_000
REACHED = Alert("org-spend", 'Org::"acme"', Meter.SPEND, "month", 100 * USD, 500 * USD, 130 * USD + 1_500_000, "acme")
DELIVERY = Delivery("a1", REACHED, 1_767_225_600, 1_767_312_000 * USD, 3)


def test_generic_is_exact_json() -> None:
    assert json.loads(msgspec.json.encode(generic(DELIVERY))) == {
        "version": 1,
        "id": "a1",
        "organisation": "acme",
        "quota": "org-spend",
        "scope": 'Org::"acme"',
        "threshold_usd": "100.00",
        "limit_usd": "500.00",
        "posted_usd": "130.0015",
        "percent": 26,
        "period": "month",
        "period_start": "2026-01-01T00:00:00Z",
        "time": "2026-01-02T00:00:00Z",
    }


def test_a_repeat_says_the_same() -> None:
    assert generic(msgspec.structs.replace(DELIVERY, attempts=9)) == generic(DELIVERY)


def test_slack_reads_as_a_sentence() -> None:
    assert slack(DELIVERY).text == (
        '*org-spend* of acme has passed a threshold: 130.0015 of 500.00 USD (26 %) spent this month by Org::"acme".'
        " Threshold: 100.00 USD."
    )


@pytest.mark.parametrize(
    ("limit", "percent", "words"), [(130, 100, "has reached its limit"), (0, None, "has reached its limit")]
)
def test_a_limit_that_is_reached_or_taken_away(limit: int, percent: int | None, words: str) -> None:
    alert = msgspec.structs.replace(REACHED, limit=limit * USD)
    delivery = msgspec.structs.replace(DELIVERY, alert=alert)
    assert generic(delivery).percent == percent
    assert words in slack(delivery).text


def test_a_name_cannot_mention_everybody_or_hide_a_link() -> None:
    alert = msgspec.structs.replace(REACHED, scope='User::"<!channel> & <https://x|y>"')
    text = slack(msgspec.structs.replace(DELIVERY, alert=alert)).text
    assert "<" not in text
    assert "&lt;!channel&gt; &amp; &lt;https://x|y&gt;" in text
