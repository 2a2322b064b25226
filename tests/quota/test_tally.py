"""A tally is amounts by bucket, and answers as a plain dictionary of them would. The wire form is fixed."""

from __future__ import annotations

import struct
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.quota.windows import GAUGE, GAUGE_RETRY_NS, NS, Kind, Period, Tally, Window, calendar, sliding

START = 1_700_000_000 * NS
BERLIN = calendar(Period.DAY, "Europe/Berlin")


class Plain:
    """What a tally stands for: posted and pending by bucket, nothing packed, nothing summed up beforehand."""

    def __init__(self, window: Window) -> None:
        self.window = window
        self.cells: dict[int, tuple[int, int]] = {}

    def current(self, now_ns: int) -> int:
        return max([self.window.bucket(now_ns), *self.cells])

    def used(self, oldest: int) -> int:
        return sum(posted + pending for bucket, (posted, pending) in self.cells.items() if bucket >= oldest)

    def reserve(self, bucket: int, amount: int) -> None:
        dead = sorted(key for key in self.cells if key < self.window.oldest_live(bucket))
        for key in dead[:-1] if self.window.kind is Kind.CALENDAR else dead:
            del self.cells[key]
        posted, pending = self.cells.get(bucket, (0, 0))
        self.cells[bucket] = (posted, pending + amount)

    def fits_ns(self, amount: int, limit: int, now_ns: int) -> int | None:
        """By trying each moment at which something is given back."""
        live = self.window.oldest_live(self.current(now_ns))
        if amount > limit:
            return None
        if self.used(live) + amount <= limit:
            return now_ns
        first = next(key for key in sorted(self.cells) if key >= live and self.used(key + 1) + amount <= limit)
        ends_ns = self.window.ends_ns(first)
        return now_ns + GAUGE_RETRY_NS if ends_ns is None else max(now_ns, ends_ns)

    def free_ns(self, now_ns: int) -> int:
        current = self.current(now_ns)
        taken = [key for key, cell in self.cells.items() if key >= self.window.oldest_live(current) and any(cell)]
        if self.window.kind is Kind.CALENDAR:
            taken = [current]
        if not taken:
            return now_ns
        ends_ns = self.window.ends_ns(max(taken))
        return now_ns + GAUGE_RETRY_NS if ends_ns is None else max(now_ns, ends_ns)


WINDOWS = st.sampled_from([(sliding(60), 45), (BERLIN, 100_000), (GAUGE, 100)])
STEPS = st.tuples(st.floats(-0.5, 1), st.integers(0, 9), st.none() | st.integers(0, 9), st.integers(1, 40))


@given(WINDOWS, st.lists(STEPS, min_size=1, max_size=30))
def test_a_tally_answers_as_a_plain_dictionary_would(
    made: tuple[Window, int], steps: list[tuple[float, int, int | None, int]]
) -> None:
    window, pace_s = made
    tally, plain, now_ns = Tally(), Plain(window), START
    for pace, amount, settled, limit in steps:
        now_ns += int(pace * pace_s * NS)
        bucket = plain.current(now_ns)
        assert tally.current(window, now_ns) == bucket
        assert tally.standing(window, now_ns) == (bucket, plain.used(window.oldest_live(bucket)))
        assert tally.fits_ns(window, bucket, amount, limit, now_ns) == plain.fits_ns(amount, limit, now_ns)
        assert tally.free_ns(window, bucket, now_ns) == plain.free_ns(now_ns)
        tally.reserve(window, bucket, amount)
        plain.reserve(bucket, amount)
        if settled is not None:
            for key in (min(plain.cells), bucket):  # the oldest that is kept, and the newest
                posted, pending = plain.cells[key]
                plain.cells[key] = (posted + settled, 0)
                assert tally.change(key, settled, -pending)
        assert tally.buckets == plain.cells
        for key in (*plain.cells, min(plain.cells) - 1, bucket + 1):
            assert tally.posted(key) == plain.cells.get(key, (0, 0))[0]
            assert tally.used(key) == plain.used(key)
        assert not tally.change(bucket + 1, 0, 0)
        assert not tally.change(min(plain.cells) - 1, 0, 0)


def test_what_is_used_is_told_with_the_bucket_that_a_charge_goes_to() -> None:
    window, tally = sliding(60), Tally()
    first = window.bucket(START)
    assert tally.standing(window, START) == (first, 0)
    for step, amount in enumerate((1, 20, 300)):
        tally.reserve(window, first + step, amount)
    assert tally.change(first + 1, 4_000, -20)
    assert tally.standing(window, START - 3_600 * NS) == (first + 2, 4_301)  # the time of a counter never goes back
    assert [tally.standing(window, START + second * NS) for second in (60, 61, 62, 63)] == [
        (first + 60, 4_301),
        (first + 61, 4_300),
        (first + 62, 300),
        (first + 63, 0),
    ]


def test_an_amount_is_never_taken_for_a_bucket() -> None:
    """Five dollars are more nano-dollars than there are seconds since 1970."""
    window, now_ns = calendar(Period.MONTH), 1_795_996_800 * NS
    this_month = window.bucket(now_ns)
    last_month, tally, dollars = window.bucket((this_month - 1) * NS), Tally(), 5 * 10**9
    tally.reserve(window, last_month, dollars)
    assert tally.change(last_month, dollars, -dollars)
    tally.reserve(window, this_month, dollars)
    assert tally.fits_ns(window, this_month, 1, dollars, now_ns) == window.ends_ns(this_month)
    assert tally.standing(window, now_ns) == (this_month, dollars)


def test_what_is_packed_is_fixed() -> None:
    """It lies in data bases: other versions and other machines read it."""
    tally = Tally()
    assert tally.pack() == struct.pack("<2q", 0, 0)
    tally.reserve(BERLIN, 86_400, 7)
    tally.reserve(BERLIN, 172_800, 11)
    assert tally.change(86_400, 5, -6)
    assert tally.pack() == struct.pack("<8q", 5, 12, 86_400, 5, 1, 172_800, 0, 11)


def test_the_totals_that_are_packed_are_of_what_is_kept() -> None:
    window, tally = sliding(60), Tally()
    for bucket, posted, pending in ((5, 1, 20), (6, 300, 4_000), (7, 50_000, 600_000), (70, 7, 8)):
        tally.reserve(window, bucket, pending)
        assert tally.change(bucket, posted, 0)
    assert tally.pack() == struct.pack("<5q", 7, 8, 70, 7, 8)
    tally.reserve(window, 71, 9)
    assert tally.pack() == struct.pack("<8q", 7, 17, 70, 7, 8, 71, 0, 9)


def test_a_machine_of_the_other_byte_order_turns_the_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    tally = Tally()
    tally.reserve(GAUGE, 0, 7)
    before = tally.pack()
    monkeypatch.setattr(sys, "byteorder", {"little": "big", "big": "little"}[sys.byteorder])
    turned = b"".join(before[at : at + 8][::-1] for at in range(0, len(before), 8))
    assert tally.pack() == turned
    assert tally.buckets == {0: (0, 7)}  # packing leaves the tally as it was
    assert Tally(turned).buckets == {0: (0, 7)}


@pytest.mark.parametrize("size", [8, 24, 32, 48, 56])
def test_a_blob_of_another_size_is_refused(size: int) -> None:
    with pytest.raises(ValueError, match=f"a tally of {size} bytes, expected 16 and a multiple of 24"):
        Tally(bytes(size))


def test_a_charge_of_nothing_takes_no_room_but_keeps_its_place() -> None:
    """A raise opens its period so; and what is posted as nothing leaves an empty bucket behind."""
    tally = Tally()
    tally.reserve(GAUGE, 0, 0)
    assert tally.free_ns(GAUGE, 0, START) == START
    assert tally.fits_ns(GAUGE, 0, 1, 1, START) == START
    window = sliding(60)
    tally = Tally()
    for bucket, amount in ((5, 3), (6, 0), (7, 0)):
        tally.reserve(window, bucket, amount)
    assert tally.free_ns(window, 7, START) == max(START, (5 + 61) * NS)
    assert tally.free_ns(window, 7, 0) == (5 + 61) * NS
    assert tally.free_ns(window, 65, 0) == 66 * NS
    assert tally.free_ns(window, 66, 0) == 0
