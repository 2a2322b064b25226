"""A house in which something has happened: three weeks of use, keys in every state, and a mixture of decisions."""

from __future__ import annotations

import random
from datetime import date, timedelta

from authz.model import Allow, Usage
from tests.admin.house import House
from tests.place import Place
from tests.reporting.books import Books, at
from tests.telemetry.traffic import receipt

NOW = "2026-11-21T14:07:30+00:00"
LARGE, SMALL, OSS = "llama-3.3-70b-versatile", "llama-3.1-8b-instant", "openai/gpt-oss-120b"
_KEYS = (
    ("chatbot-prod", LARGE, 9.0),
    ("chatbot-prod", SMALL, 1.5),
    ("batch-processor", SMALL, 4.0),
    ("research-lab", OSS, 2.5),
)
_DAY_NS = 86_400 * 10**9


def live_in(house: House) -> dict[str, str]:
    """Answers a secret in force by key."""
    place, chance = house.place, random.Random(3)
    books = Books(place.engine.bundle, place.engine.store)
    day, last = date(2026, 11, 1), date(2026, 11, 21)
    while day <= last:
        weekend = 0.35 if day.weekday() >= 5 else 1.0
        for key, model, usd in _KEYS:
            growth = 0.8 + 0.02 * day.day
            books.use(day.isoformat(), key, model, usd * weekend * growth * chance.uniform(0.75, 1.25))
        day += timedelta(days=1)
    place.time.now_ns = at(NOW)
    secrets = {
        "chatbot-prod": place.issue("chatbot-prod", note="the product itself", created_by='User::"dev"'),
        "batch-processor": place.issue(
            "batch-processor", note="nightly bulk work", created_by='User::"ana"', expires_ns=place.time() + 40 * _DAY_NS
        ),
        "research-lab": place.issue("research-lab", note="experiments", created_by='User::"olivia"'),
    }
    place.time.pass_s(-600)
    for _ in range(40):
        place.time.pass_s(chance.uniform(4, 26))
        decide_one(place, secrets, chance)
    place.time.now_ns = at(NOW)
    for _ in range(10):
        place.engine.tick()  # the store is told of uses now and then
    return secrets


def decide_one(place: Place, secrets: dict[str, str], chance: random.Random) -> str:
    """One decision as one meets them; answers its id."""
    match chance.randrange(12):
        case 0:
            request = place.request(secrets["batch-processor"], LARGE)
        case 1:
            request = place.request("authz_" + "x" * 40, SMALL)
        case 2:
            request = place.request(secrets["chatbot-prod"], "mixtral-8x7b-32768")
        case 3 | 4:
            request = place.request(secrets["batch-processor"], SMALL, max_tokens=2_000)
        case 5 | 6:
            request = place.request(secrets["research-lab"], OSS, max_tokens=4_000)
        case _:
            request = place.request(secrets["chatbot-prod"], LARGE, max_tokens=600)
    decision = place.engine.pdp.decide(request)
    if isinstance(decision, Allow) and chance.random() < 0.9:
        place.engine.settle(receipt(decision, Usage(30, chance.randrange(60, 500))))
    return decision.record.decision_id
