"""Windows: promise 6 (A73, A74, A78, A82), bounded memory, exact times."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from authz.quota import windows
from authz.quota.windows import (
    GAUGE,
    GAUGE_RETRY_NS,
    MAX_BUCKETS,
    NS,
    Kind,
    Period,
    Tally,
    Window,
    calendar,
    seconds_until,
    sliding,
)

START = 1_700_000_000 * NS
LENGTHS = st.sampled_from([1, 2, 7, 59, 60, 61, 3_600, 86_400, 2_592_000, 31 * 86_400])


def admit(window: Window, tally: Tally, amount: int, limit: int, now_ns: int) -> bool:
    """What a store does: charges the amount if it fits."""
    bucket = tally.current(window, now_ns)
    if tally.used(window.oldest_live(bucket)) + amount > limit:
        return False
    tally.reserve(window, bucket, amount)
    return True


def at(text: str, zone: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp()) * NS


class TestSliding:
    @given(
        LENGTHS,
        st.integers(1, 50),
        st.lists(st.tuples(st.floats(0, 0.4), st.integers(1, 30)), min_size=1, max_size=120),
        st.integers(0, 10**11),
    )
    def test_no_span_of_the_length_admits_more_than_the_limit(
        self, length_s: int, limit: int, hits: list[tuple[float, int]], offset: int
    ) -> None:
        window, tally, now_ns = sliding(length_s), Tally(), START + offset
        admitted: list[tuple[int, int]] = []
        for step, amount in hits:
            now_ns += int(step * length_s * NS)
            if admit(window, tally, amount, limit, now_ns):
                admitted.append((now_ns, amount))
            assert len(tally.buckets) <= MAX_BUCKETS
        for begin_ns, _ in admitted:
            # Closed at both ends: two hits exactly one length apart are still within one span.
            assert sum(amount for when, amount in admitted if begin_ns <= when <= begin_ns + length_s * NS) <= limit

    @given(LENGTHS, st.lists(st.tuples(st.floats(-1.5, 1.5), st.integers(1, 30)), min_size=1, max_size=80))
    def test_a_clock_that_jumps_never_admits_more(self, length_s: int, hits: list[tuple[float, int]]) -> None:
        """A73, A74: by the furthest clock that charged the counter, no span holds more than the limit."""
        window, tally, now_ns, furthest, limit = sliding(length_s), Tally(), START, 0, 40
        admitted: list[tuple[int, int]] = []
        for step, amount in hits:
            now_ns += int(step * length_s * NS)
            if admit(window, tally, amount, limit, now_ns):
                furthest = max(furthest, now_ns)
                admitted.append((furthest, amount))
        for begin_ns, _ in admitted:
            assert sum(amount for when, amount in admitted if begin_ns <= when <= begin_ns + length_s * NS) <= limit

    def test_two_replicas_two_minutes_apart_share_one_limit(self) -> None:
        window, tally = sliding(60), Tally()
        taken = sum(admit(window, tally, 1, 100, START + (step % 2) * 120 * NS + step * 1_000_000) for step in range(1_000))
        # The replica that is ahead finds one window that is empty by its clock, whoever came before; after that, nobody does.
        assert taken <= 101

    @given(
        LENGTHS,
        st.lists(st.tuples(st.floats(0, 0.3), st.integers(1, 20)), min_size=1, max_size=80),
        st.integers(1, 40),
        st.integers(0, 10**11),
    )
    def test_the_time_to_wait_is_exact(self, length_s: int, hits: list[tuple[float, int]], amount: int, offset: int) -> None:
        window, tally, now_ns, limit = sliding(length_s), Tally(), START + offset, 40
        for step, hit in hits:
            now_ns += int(step * length_s * NS)
            admit(window, tally, hit, limit, now_ns)
        fits_ns = tally.fits_ns(window, tally.current(window, now_ns), amount, limit, now_ns)
        assert fits_ns is not None
        assert (
            fits_ns - now_ns <= length_s * NS * 61 // 60 + MAX_BUCKETS * 1_000
        )  # each sub-bucket is rounded up to a microsecond
        assert admit(window, Tally(tally.pack()), amount, limit, fits_ns)
        if fits_ns > now_ns:
            assert not admit(window, Tally(tally.pack()), amount, limit, fits_ns - 1)
        free_ns = tally.free_ns(window, tally.current(window, now_ns), now_ns)
        assert admit(window, Tally(tally.pack()), limit, limit, free_ns)
        assert free_ns == now_ns or not admit(window, Tally(tally.pack()), limit, limit, free_ns - 1)

    def test_what_is_given_away_is_a_sixtieth(self) -> None:
        window = sliding(60)
        for offset in range(0, NS, NS // 7):
            now_ns = START + offset
            ends_ns = window.ends_ns(window.bucket(now_ns))
            assert ends_ns is not None
            assert 60 * NS < ends_ns - now_ns <= 61 * NS

    @given(LENGTHS, st.integers(0, 4 * 10**18))
    def test_microseconds_and_doubles_find_the_same_bucket(self, length_s: int, now_ns: int) -> None:
        """What a store does whose only numbers are doubles (Lua)."""
        window, now_us = sliding(length_s), float(now_ns // 1_000)
        width_us = float(window.sub_bucket_us)
        bucket = (now_us - now_us % width_us) / width_us
        assert bucket.is_integer()
        assert bucket == window.bucket(now_ns)
        assert int((bucket + MAX_BUCKETS) * width_us) * 1_000 == window.ends_ns(int(bucket))

    def test_above_the_limit_never_fits(self) -> None:
        assert Tally().fits_ns(sliding(60), 0, 11, 10, START) is None

    @pytest.mark.parametrize(
        ("length_s", "name"),
        [
            (1, "second"),
            (60, "minute"),
            (120, "2 minutes"),
            (90, "90 seconds"),
            (3_600, "hour"),
            (86_400, "day"),
            (604_800, "week"),
            (2_592_000, "month"),
        ],
    )
    def test_names(self, length_s: int, name: str) -> None:
        assert sliding(length_s).name == name

    def test_a_window_needs_a_length(self) -> None:
        with pytest.raises(ValueError, match="window of 0 seconds, expected more than 0"):
            sliding(0)


STANDARD_AGAIN = int(datetime(2009, 11, 1, 2, 31, tzinfo=UTC).timestamp())
HALF_PAST_TWELVE = int(datetime(1919, 3, 31, 4, 30, tzinfo=UTC).timestamp())


class TestCalendar:
    @pytest.mark.parametrize(
        ("period", "zone", "moment", "first", "end"),
        [
            (Period.MONTH, "UTC", "2026-02-14T10:00", "2026-02-01", "2026-03-01"),
            (Period.MONTH, "UTC", "2028-02-29T23:59:59", "2028-02-01", "2028-03-01"),
            (Period.MONTH, "UTC", "2026-12-31T23:59:59", "2026-12-01", "2027-01-01"),
            (Period.WEEK, "UTC", "2026-11-22T12:00", "2026-11-16", "2026-11-23"),
            (Period.WEEK, "UTC", "2026-11-23T00:00", "2026-11-23", "2026-11-30"),
            (Period.DAY, "Europe/Berlin", "2026-03-29T12:00", "2026-03-29", "2026-03-30"),  # 23 hours
            (Period.DAY, "Europe/Berlin", "2026-10-25T02:30", "2026-10-25", "2026-10-26"),  # 25 hours
            (Period.MONTH, "Europe/Berlin", "2026-03-30T00:00", "2026-03-01", "2026-04-01"),
            (Period.DAY, "America/Havana", "2026-11-01T00:30", "2026-11-01", "2026-11-02"),  # midnight comes twice
            (Period.DAY, "America/Sao_Paulo", "2018-11-04T12:00", "2018-11-04", "2018-11-05"),  # no midnight
            (Period.DAY, "Pacific/Apia", "2011-12-31T12:00", "2011-12-31", "2012-01-01"),  # the day before was left out
            (Period.WEEK, "Europe/Berlin", "2026-03-29T12:00", "2026-03-23", "2026-03-30"),  # an hour short
            (Period.WEEK, "UTC", "2027-01-02T12:00", "2026-12-28", "2027-01-04"),
            (Period.MONTH, "UTC", "2026-02-01T00:00", "2026-02-01", "2026-03-01"),
            (Period.MONTH, "UTC", "2026-01-31T12:00", "2026-01-01", "2026-02-01"),
        ],
    )
    def test_periods(self, period: Period, zone: str, moment: str, first: str, end: str) -> None:
        window = calendar(period, zone)
        bucket = window.bucket(at(moment, zone))
        assert bucket * NS == at(first, zone)
        assert window.ends_ns(bucket) == at(end, zone)
        assert window.name == period.value

    def test_the_second_midnight_of_a_day_is_still_that_day(self) -> None:
        window = calendar(Period.DAY, "America/Havana")
        first = at("2026-11-01T00:00", "America/Havana")
        assert window.bucket(first) == window.bucket(first + 3_600 * NS) == window.bucket(first + 24 * 3_600 * NS)
        assert window.ends_ns(first // NS) == first + 25 * 3_600 * NS

    @given(
        st.sampled_from(Period),
        st.sampled_from(["UTC", "Europe/Berlin", "America/Havana", "Pacific/Apia", "Asia/Kathmandu", "America/Sao_Paulo"]),
        st.integers(0, 4_000_000_000),
        st.integers(0, 40 * 86_400),
    )
    # At a minute past midnight back to the day before; from half past eleven to half past twelve, so that there is no midnight.
    @example(Period.DAY, "America/St_Johns", STANDARD_AGAIN, 3_600)
    @example(Period.MONTH, "America/St_Johns", STANDARD_AGAIN, 3_600)
    @example(Period.DAY, "America/Toronto", HALF_PAST_TWELVE, 1_800)
    def test_periods_follow_one_another_without_a_gap(self, period: Period, zone: str, second: int, later: int) -> None:
        windows._memo.clear()  # worked out, and not remembered
        window = calendar(period, zone)
        bucket = window.bucket(second * NS)
        ends_ns = window.ends_ns(bucket)
        assert ends_ns is not None
        assert bucket <= second < ends_ns // NS
        assert window.bucket(bucket * NS) == window.bucket(ends_ns - 1) == bucket
        assert window.bucket(ends_ns) == ends_ns // NS
        assert window.bucket((second + later) * NS) >= bucket

    def test_the_period_last_asked_for_is_remembered(self) -> None:
        first = windows._period_at(Period.DAY, "Europe/Berlin", START // NS)
        for second in (first[0], first[1] - 1):
            assert windows._period_at(Period.DAY, "Europe/Berlin", second) is first
        assert windows._period_at(Period.DAY, "Europe/Berlin", first[1])[0] == first[1]

    @pytest.mark.parametrize(("kept", "then"), [(1_024, 1_025), (1_025, 1)])
    def test_what_is_remembered_is_bounded(self, kept: int, then: int, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(windows, "_memo", {(Period.DAY, str(number)): (0, 0) for number in range(kept)})
        calendar(Period.DAY).bucket(START)
        assert len(windows._memo) == then

    def test_waits_for_the_end_of_the_period(self) -> None:
        window, tally, now_ns = calendar(Period.MONTH), Tally(), at("2026-01-31T23:00", "UTC")
        assert admit(window, tally, 10, 10, now_ns)
        assert not admit(window, tally, 1, 10, now_ns)
        bucket = tally.current(window, now_ns)
        assert tally.fits_ns(window, bucket, 1, 10, now_ns) == now_ns + 3_600 * NS
        assert tally.free_ns(window, bucket, now_ns) == now_ns + 3_600 * NS
        assert admit(window, tally, 10, 10, now_ns + 3_600 * NS)

    def test_the_period_before_is_kept_for_what_settles_late(self) -> None:
        """A82: the correction reaches the month in which it was reserved, and not the current one."""
        window, tally = calendar(Period.MONTH), Tally()
        months = [at(f"2026-0{month}-15", "UTC") for month in (1, 2, 3)]
        buckets = [window.bucket(month) for month in months]
        for bucket in buckets[:2]:
            tally.reserve(window, bucket, 5)
        assert tally.change(buckets[0], 7, -5)
        assert tally.used(window.oldest_live(buckets[1])) == 5
        assert tally.posted(buckets[0]) == 7
        tally.reserve(window, buckets[2], 5)
        assert not tally.change(buckets[0], 1, 0)
        assert tally.used(window.oldest_live(buckets[2])) == 5

    @pytest.mark.parametrize("zone", ["", "Mars/Olympus", "../../etc/passwd", "Europe", "/etc/localtime"])
    def test_an_unknown_time_zone_is_refused(self, zone: str) -> None:
        with pytest.raises(ValueError, match="unknown time zone"):
            calendar(Period.DAY, zone)


class TestGauge:
    def test_counts_what_is_under_way(self) -> None:
        tally = Tally()
        assert admit(GAUGE, tally, 1, 2, START)
        assert admit(GAUGE, tally, 1, 2, START + 10**18)
        assert not admit(GAUGE, tally, 1, 2, START)
        assert tally.fits_ns(GAUGE, 0, 1, 2, START) == START + GAUGE_RETRY_NS
        assert tally.change(0, 0, -1)
        assert admit(GAUGE, tally, 1, 2, START)
        assert GAUGE.name == "in flight"

    def test_is_free_when_nothing_is_under_way(self) -> None:
        tally = Tally()
        assert tally.free_ns(GAUGE, 0, START) == START
        tally.reserve(GAUGE, 0, 1)
        assert tally.free_ns(GAUGE, 0, START) == START + GAUGE_RETRY_NS


class TestTally:
    @given(st.sampled_from([sliding(60), calendar(Period.DAY, "Europe/Berlin"), GAUGE]), st.data())
    def test_totals_are_the_sum_of_the_buckets_and_packing_keeps_all(self, window: Window, data: st.DataObject) -> None:
        tally, now_ns, reserved = Tally(), START, dict[int, int]()
        for _ in range(data.draw(st.integers(1, 40))):
            now_ns += data.draw(st.integers(0, 5 if window.kind is Kind.SLIDING else 20_000)) * NS
            bucket = tally.current(window, now_ns)
            amount = data.draw(st.integers(0, 2**53 - 1))
            tally.reserve(window, bucket, amount)
            reserved[bucket] = reserved.get(bucket, 0) + amount
            if data.draw(st.booleans()):
                posted = data.draw(st.integers(0, 2**53 - 1))
                assert tally.change(bucket, posted, -reserved.pop(bucket))
            assert tally.used(-(2**62)) == sum(posted + pending for posted, pending in tally.buckets.values())
            oldest = window.oldest_live(bucket)
            assert tally.used(oldest) == sum(sum(cell) for key, cell in tally.buckets.items() if key >= oldest)
            packed = tally.pack()
            assert Tally(packed).pack() == packed
            assert Tally(packed).buckets == tally.buckets
            assert len(packed) <= 16 + 24 * MAX_BUCKETS

    def test_size_does_not_grow_with_what_is_charged(self) -> None:
        window, tally = sliding(60), Tally()
        for step in range(10_000):
            tally.reserve(window, tally.current(window, START + step * 10_000_000), 10**9)
        assert len(tally.pack()) == 16 + 24 * MAX_BUCKETS

    def test_nothing_becomes_negative(self) -> None:
        tally = Tally()
        tally.reserve(GAUGE, 0, 1)
        before = tally.pack()
        for change in ((0, -2), (-1, 0)):
            with pytest.raises(ValueError, match=r"^a counter would become negative$"):
                tally.change(0, *change)
        assert tally.pack() == before

    def test_a_torn_blob_is_refused(self) -> None:
        with pytest.raises(ValueError, match="a tally of 24 bytes"):
            Tally(bytes(24))


@given(st.integers(0, 10**18), st.integers(0, 3 * 10**15))
def test_whoever_waits_is_not_early(now_ns: int, wait_ns: int) -> None:
    seconds = seconds_until(now_ns + wait_ns, now_ns)
    assert wait_ns <= round(seconds * NS) <= wait_ns + 1_000_000


@pytest.mark.parametrize(
    ("wait_ns", "seconds"), [(-5 * NS, 0), (0, 0), (1, 0.001), (10**6, 0.001), (10**6 + 1, 0.002), (NS, 1)]
)
def test_a_wait_is_in_whole_milliseconds_and_none_where_the_moment_has_come(wait_ns: int, seconds: float) -> None:
    assert seconds_until(START + wait_ns, START) == seconds
