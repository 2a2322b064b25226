"""Decisions of every kind on one engine: what metrics, spans and records are checked against."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from authz.errors import Refused
from authz.model import Allow, Decision, Outcome, Receipt, Request, Usage
from authz.reasons import Reason
from tests.place import Place

TRACE = "0af7651916cd43dd8448eb211c80319c"
PARENT = "b7ad6b7169203331"
TRACEPARENT = f"00-{TRACE}-{PARENT}-01"


def requests(place: Place, count: int) -> Iterator[Request]:
    """A mixture in a random order, the same in every run: mostly allowed, and every usual way to be denied."""
    chance = random.Random(11)
    secret = place.issue("chatbot-prod")
    for number in range(count):
        match chance.randrange(10):
            case 0:
                yield place.request("ak_" + "x" * 40, request_id=f"r{number}")
            case 1:
                yield place.request(secret, model=f"no-such-model-{number % 50}", request_id=f"r{number}")
            case 2:
                yield place.request(secret, model="openai/gpt-oss-120b", request_id=f"r{number}")
            case 3:
                yield place.request(secret, request_id=f"r{number}", n=7)
            case 4:
                fields: dict[str, Any] = {f"no_such_field_{number % 7}": 1}
                yield place.request(secret, request_id=f"r{number}", **fields)
            case 5:
                headers = (("authorization", f"Bearer {secret}"),)
                yield Request("GET", "/openai/v1/models", headers, b"", f"r{number}")
            case _:
                yield place.request(secret, request_id=f"r{number}")


def receipt(decision: Allow, usage: Usage | None = None, outcome: Outcome = Outcome.ANSWERED) -> Receipt:
    return Receipt(decision.reservation_id, "", outcome, 200, usage)


def decide(place: Place, count: int) -> list[Decision]:
    """Decides and settles; every tenth is settled as an error of the upstream, and one Check cannot be read."""
    found: list[Decision] = [place.engine.pdp.reject(Refused(Reason.INVALID_REQUEST, "cannot be read"))]
    for number, request in enumerate(requests(place, count)):
        place.time.pass_s(0.2)
        decision = place.engine.pdp.decide(request)
        found.append(decision)
        if isinstance(decision, Allow):
            outcome = Outcome.UPSTREAM_ERROR if number % 10 == 0 else Outcome.ANSWERED
            place.engine.settle(receipt(decision, Usage(20, 8, 4), outcome))
    return found
