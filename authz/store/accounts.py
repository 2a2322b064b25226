"""What an event means in amounts: pure, and the same for every store that keeps its books in Python."""

from __future__ import annotations

from collections.abc import Iterable
from typing import assert_never

from msgspec import Struct

from authz.model import MAX_AMOUNT, Meter, QuotaState
from authz.quota.ledger import Actual, Alert, Charge, Ending, Event, Full, Hold, Terms, in_force
from authz.quota.windows import Tally, Window, seconds_until


class Account(Struct):
    """A counter as one reservation sees it. Changed while the reservation is worked out, then written back.

    id      of the counter in the store; 0 where it is new
    amount  what the hold charges to it
    raised  what was added by hand to the limits of its period
    """

    id: int
    window: Window
    tally: Tally
    amount: int
    bucket: int
    used: int
    raised: int = 0

    def limit(self, charge: Charge) -> int:
        return in_force(charge.limit, self.raised) if self.raised else charge.limit


class Line(Struct):
    """What a reservation holds in one counter. `posted` is 0 until it ends."""

    counter: int
    bucket: int
    reserved: int
    posted: int
    meter: Meter
    gauge: bool


class UsageChange(Struct, frozen=True):
    """What an event adds to the row of the usage report."""

    requests: int
    input_tokens: int
    cached_tokens: int
    output_tokens: int
    estimated_nanousd: int
    cost_nanousd: int


def check_hold(hold: Hold) -> None:
    """The integers that a store relies on: bounded, so that no sum of them leaves 64 bits."""
    if hold.ttl_ns <= 0:
        raise ValueError(f"a hold of {hold.ttl_ns} ns, expected more than 0")
    for charge in hold.charges:
        if not 0 <= charge.amount <= MAX_AMOUNT:
            raise _bad_amount(charge.amount, charge.meter)
    for meter, amount in hold.terms.at_most.items():
        if not 0 <= amount <= MAX_AMOUNT:
            raise _bad_amount(amount, meter)


def check_ending(ending: Ending) -> None:
    """The same of what is posted; where everything is given back there is nothing to check."""
    actual = ending.actual
    if actual is None:
        return
    for meter, amount in actual.amounts.items():
        _check_amount(amount, meter)
    if actual.usage is not None:
        usage = actual.usage
        for amount in (usage.input_tokens, usage.output_tokens, usage.cached_tokens):
            _check_amount(amount, Meter.TOKENS)


def check_raised(total: int) -> None:
    """What the raises of a period add up to."""
    if abs(total) > MAX_AMOUNT:
        raise ValueError(f"raises of {total} in one period, expected at most {MAX_AMOUNT}")


def _check_amount(amount: int, meter: Meter) -> None:
    if not 0 <= amount <= MAX_AMOUNT:
        raise _bad_amount(amount, meter)


def _bad_amount(amount: int, meter: Meter) -> ValueError:
    return ValueError(f"an amount of {amount} {meter.value}, expected 0 to {MAX_AMOUNT}")


def amounts_by_counter(charges: Iterable[Charge]) -> dict[str, tuple[Charge, int]]:
    """Each counter once, in order, with the first charge against it and the largest amount."""
    found: dict[str, tuple[Charge, int]] = {}
    for charge in charges:
        known = found.get(charge.counter)
        if known is None:
            found[charge.counter] = (charge, charge.amount)
        elif charge.amount > known[1]:
            found[charge.counter] = (known[0], charge.amount)
    return found


def refusal(charges: tuple[Charge, ...], accounts: dict[str, Account], now_ns: int) -> Full | None:
    """None where every enforced charge fits; else the one that waits longest, one that never fits before all others."""
    worst, wait_ns, never = -1, -1, False
    for index, charge in enumerate(charges):
        account = accounts[charge.counter]
        limit = account.limit(charge)
        if not charge.enforced or account.used + account.amount <= limit:
            continue
        fits_ns = account.tally.fits_ns(charge.window, account.bucket, account.amount, limit, now_ns)
        if fits_ns is None:
            if not never:
                worst, never = index, True
        elif not never and fits_ns > wait_ns:
            worst, wait_ns = index, fits_ns
    if worst < 0:
        return None
    states = quota_states(charges, accounts, now_ns)
    return Full(states=states, quota=worst, retry_after_s=None if never else seconds_until(wait_ns, now_ns))


def quota_states(charges: tuple[Charge, ...], accounts: dict[str, Account], now_ns: int) -> tuple[QuotaState, ...]:
    """How each quota stands; `reset_s` is taken from the tally as it is now, with this request where it was admitted."""
    states = []
    for charge in charges:
        account = accounts[charge.counter]
        window = charge.window
        reset_s = seconds_until(account.tally.free_ns(window, account.bucket, now_ns), now_ns)
        states.append(
            QuotaState(
                charge.quota,
                charge.scope,
                charge.meter,
                window.name,
                in_force(charge.limit, account.raised) if account.raised else charge.limit,
                account.used,
                account.amount,
                reset_s,
                charge.enforced,
            )
        )
    return tuple(states)


def owed(event: Event, line: Line, terms: Terms, actual: Actual | None) -> int:
    """What the line must hold as posted after the event."""
    if line.gauge:
        return 0
    match event:
        case Event.SETTLE:
            assert actual is not None
            known = actual.amounts.get(line.meter)
            return terms.at_most.get(line.meter, line.reserved) if known is None else known
        case Event.EXPIRE:
            return terms.at_most.get(line.meter, line.reserved)
        case Event.VOID:
            return 0
        case _:
            assert_never(event)


def usage_change(event: Event, terms: Terms, actual: Actual | None, *, corrects: bool) -> UsageChange:
    """What the event adds; one that `corrects` an expiry takes back what the expiry added."""
    bound = terms.at_most.get(Meter.SPEND, 0)
    taken_back = (1, bound) if corrects else (0, 0)
    match event:
        case Event.SETTLE:
            assert actual is not None
            usage = actual.usage
            return UsageChange(
                requests=1 - taken_back[0],
                input_tokens=usage.input_tokens if usage else 0,
                cached_tokens=usage.cached_tokens if usage else 0,
                output_tokens=usage.output_tokens if usage else 0,
                estimated_nanousd=bound - taken_back[1],
                cost_nanousd=actual.amounts.get(Meter.SPEND, bound) - taken_back[1],
            )
        case Event.EXPIRE:
            return UsageChange(1, 0, 0, 0, bound, bound)
        case Event.VOID:
            return UsageChange(-taken_back[0], 0, 0, 0, -taken_back[1], -taken_back[1])
        case _:
            assert_never(event)


def alerts_due(charge: Charge, posted: int, *, raised: int, organisation: str) -> tuple[Alert, ...]:
    """The thresholds that `posted` has reached, told before or not."""
    return tuple(
        Alert(
            quota=charge.quota,
            scope=charge.scope,
            meter=charge.meter,
            window=charge.window.name,
            threshold=threshold,
            limit=in_force(charge.limit, raised),
            posted=posted,
            organisation=organisation,
        )
        for threshold in charge.alerts_at
        if posted >= threshold
    )
