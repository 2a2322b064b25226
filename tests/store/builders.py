"""Holds for tests, in one line each."""

from __future__ import annotations

from itertools import count

from authz.model import Meter, Price, Usage
from authz.quota.ledger import Actual, Charge, Hold, Terms
from authz.quota.windows import GAUGE, NS, Period, Window, calendar, sliding

NOW = 1_767_225_600 * NS + 123  # 2026-01-01T00:00:00Z, and a little
MINUTE, MONTH = sliding(60), calendar(Period.MONTH)
TTL_NS = 600 * NS
_numbers = count()

_WINDOWS: dict[Meter, Window] = {Meter.SPEND: MONTH, Meter.IN_FLIGHT: GAUGE}


def charge(
    meter: Meter,
    amount: int,
    limit: int,
    counter: str = "",
    *,
    alerts: tuple[int, ...] = (),
    enforced: bool = True,
    window: Window | None = None,
) -> Charge:
    name = counter or meter.value
    return Charge(
        quota=f"q-{name}",
        scope=f'Key::"{name}"',
        counter=name,
        window=window or _WINDOWS.get(meter, MINUTE),
        meter=meter,
        amount=amount,
        limit=limit,
        enforced=enforced,
        alerts_at=alerts,
    )


def terms(key: str = "k", day: str = "2026-01-01", /, **at_most: int) -> Terms:
    bounds = {Meter(name): amount for name, amount in at_most.items()}
    return Terms(day, "acme", "chat", "", key, "llama", "chat", Price(1, 2, 1), bounds)


def hold(*charges: Charge, id: str = "", request_id: str = "", on: Terms | None = None) -> Hold:
    name = id or f"r{next(_numbers)}"
    bounds = {each.meter.value: each.amount for each in charges if each.meter is not Meter.IN_FLIGHT}
    return Hold(name, charges, on or terms(**bounds), TTL_NS, request_id)


def actual(usage: Usage | None = None, **amounts: int) -> Actual:
    return Actual({Meter(name): amount for name, amount in amounts.items()}, usage)
