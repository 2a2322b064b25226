"""What every store takes from the ledger: which raises there are, what they come to, and what an alert is called."""

from __future__ import annotations

import pytest

from authz.model import MAX_AMOUNT, Meter
from authz.quota.ledger import Charge, alert_id, check_raise, in_force, reservation_id
from authz.quota.windows import GAUGE, Period, Window, calendar, sliding


def charge(window: Window) -> Charge:
    return Charge("q", 'Org::"a"', "c", window, Meter.SPEND, 0, 100)


@pytest.mark.parametrize("by", [1, -1, MAX_AMOUNT, -MAX_AMOUNT])
@pytest.mark.parametrize("period", Period)
def test_a_budget_can_be_raised_and_taken_back(by: int, period: Period) -> None:
    check_raise(charge(calendar(period, "Europe/Berlin")), by)


@pytest.mark.parametrize("by", [0, MAX_AMOUNT + 1, -MAX_AMOUNT - 1])
def test_a_raise_of_nothing_or_of_too_much_is_refused(by: int) -> None:
    expected = f"a raise by {by}, expected 1 to {MAX_AMOUNT}, or as much below 0"
    with pytest.raises(ValueError, match=f"^{expected}$"):
        check_raise(charge(calendar(Period.MONTH)), by)


@pytest.mark.parametrize(("window", "name"), [(sliding(60), "minute"), (GAUGE, "in flight")])
def test_only_a_budget_can_be_raised(window: Window, name: str) -> None:
    with pytest.raises(ValueError, match=f"^a raise of `q`, which counts by {name}, expected a budget$"):
        check_raise(charge(window), 5)


@pytest.mark.parametrize(
    ("limit", "raised", "expected"),
    [
        (100, 0, 100),
        (100, 50, 150),
        (100, -50, 50),
        (100, -100, 0),
        (100, -101, 0),
        (MAX_AMOUNT, 1, MAX_AMOUNT),
        (MAX_AMOUNT - 1, 1, MAX_AMOUNT),
    ],
)
def test_what_is_in_force_is_neither_below_nothing_nor_above_the_most(limit: int, raised: int, expected: int) -> None:
    assert in_force(limit, raised) == expected


def test_an_alert_has_one_name_for_ever() -> None:
    """It is the key under which it was told: by another name it would be told once more."""
    assert alert_id("c", 1_700_000_000, 5) == "61e5ba5f0c2d6c2ce5fd482f90a37e6f"
    names = {alert_id(*parts) for parts in (("c", 1, 5), ("c", 1, 6), ("c", 2, 5), ("d", 1, 5), ("c\n1", 5, 1), ("c", 15, 0))}
    assert len(names) == 6


def test_a_reservation_is_called_by_its_millisecond_and_what_nobody_can_guess() -> None:
    assert reservation_id(1_795_996_800_123_999_999, "secret") == "01a229c0547bsecret"
    ids = [reservation_id(now_ns, "x") for now_ns in (0, 999_999, 1_000_000, 16 * 10**6, 2**62)]
    assert ids == sorted(ids)
    assert ids[0] == ids[1] == "000000000000x"
    assert len(set(ids)) == 4
