"""Windows: over what stretch of time a quota counts. Pure integer arithmetic, shared by every store; no clock and no I/O.

A counter is a `Tally`: amounts by bucket. The window says in which bucket a moment falls and until when a bucket counts.

sliding   The length is cut into 60 sub-buckets. The current one and the 60 before it count in full. Two moments no further
          apart than the length are at most 60 sub-buckets apart, so when the last amount of any such span is admitted, all of
          the span is counted. What that gives away: an amount counts for up to 61/60 of the length. A sub-bucket is a whole
          number of microseconds, rounded up, because a store may have to reckon in doubles, where nanoseconds do not fit.
calendar  One bucket: the day, week (from Monday) or month in a named time zone, called by its first second.
gauge     One bucket for ever: what is under way. It is given back when a reservation ends, and nothing is ever posted to it.

The time of a counter never goes back: a charge goes into the bucket of its moment or into the newest one there is, whichever is
later, and buckets that lie ahead of the clock count. So a clock that is set back, or a second process whose clock is behind,
waits longer and never gets more; a clock ahead of the others opens one window early, once.
"""

from __future__ import annotations

import sys
from array import array
from datetime import UTC, date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache
from typing import Final, assert_never
from zoneinfo import ZoneInfo

from msgspec import Struct

NS: Final = 1_000_000_000
SUB_BUCKETS: Final = 60
MAX_BUCKETS: Final = SUB_BUCKETS + 1
GAUGE_RETRY_NS: Final = NS
"""When a request that found a gauge full should ask again. A guess: room appears when any request ends, which nobody knows."""


class Kind(StrEnum):
    SLIDING = "sliding"
    CALENDAR = "calendar"
    GAUGE = "gauge"


_SLIDING: Final = Kind.SLIDING
_CALENDAR: Final = Kind.CALENDAR


class Period(StrEnum):
    DAY = "day"
    WEEK = "week"
    MONTH = "month"


class Window(Struct, frozen=True, cache_hash=True, array_like=True):
    """Made by `sliding`, `calendar` or as `GAUGE`; the fields that its kind does not need stay at their defaults. Stores
    keep it by the order of its fields: append, never reorder."""

    kind: Kind
    length_s: int = 0
    period: Period = Period.MONTH
    time_zone: str = "UTC"

    # These run several times in each decision, hence `if` and `is`, which cost a third of a `match` on an enum, and members by
    # names of our own, because those of an enum are looked up through its class.

    @property
    def name(self) -> str:
        """As messages say it: `minute`, `2 hours`, `month`; for a gauge `in flight`."""
        return _name(self)

    @property
    def sub_bucket_us(self) -> int:
        """Of a sliding window; rounded up, for 60 of them must reach over the whole of it."""
        return _sub_bucket_ns(self.length_s) // 1_000

    def bucket(self, now_ns: int) -> int:
        """The bucket of a moment. Buckets are ordered as time is."""
        if self.kind is _SLIDING:
            return now_ns // _sub_bucket_ns(self.length_s)
        if self.kind is _CALENDAR:
            return _period_at(self.period, self.time_zone, now_ns // NS)[0]
        return 0

    def oldest_live(self, bucket: int) -> int:
        """The oldest bucket that still counts while `bucket` is the current one."""
        return bucket - SUB_BUCKETS if self.kind is _SLIDING else bucket

    def ends_ns(self, bucket: int) -> int | None:
        """The first moment at which `bucket` no longer counts; None for a gauge."""
        if self.kind is _SLIDING:
            return (bucket + MAX_BUCKETS) * _sub_bucket_ns(self.length_s)
        if self.kind is _CALENDAR:
            return _period_at(self.period, self.time_zone, bucket)[1] * NS
        return None


GAUGE: Final = Window(kind=Kind.GAUGE)


def sliding(length_s: int) -> Window:
    """`length_s` > 0, in seconds."""
    if length_s <= 0:
        raise ValueError(f"window of {length_s} seconds, expected more than 0")
    return Window(kind=Kind.SLIDING, length_s=length_s)


def calendar(period: Period, time_zone: str = "UTC") -> Window:
    """`time_zone` is a name of the IANA data base."""
    check_time_zone(time_zone)
    return Window(kind=Kind.CALENDAR, period=period, time_zone=time_zone)


def check_time_zone(name: str) -> None:
    try:
        ZoneInfo(name)
    except (OSError, KeyError, ValueError):  # a directory, an unknown name, a path that climbs out
        raise ValueError(f"unknown time zone `{name}`, expected a name such as `UTC` or `Europe/Berlin`") from None


class Tally:
    """What a counter holds: posted and pending amounts by bucket, oldest first.

    The size depends on the number of buckets with something in them (at most 61, plus none), never on how much was charged or
    how often. `pack` gives 8 bytes for each number, little-endian: total posted, total pending, then bucket, posted, pending.
    """

    __slots__ = ("_cells",)

    def __init__(self, packed: bytes | None = None) -> None:
        self._cells = array("q", packed or bytes(16))
        if packed is not None and sys.byteorder == "big":
            self._cells.byteswap()
        if len(self._cells) % 3 != 2:
            raise ValueError(f"a tally of {len(packed or b'')} bytes, expected 16 and a multiple of 24")

    def pack(self) -> bytes:
        if sys.byteorder == "big":
            cells = self._cells[:]
            cells.byteswap()
            return cells.tobytes()
        return self._cells.tobytes()

    @property
    def buckets(self) -> dict[int, tuple[int, int]]:
        """Posted and pending by bucket: for reports and tests."""
        cells = self._cells
        return {cells[at]: (cells[at + 1], cells[at + 2]) for at in range(2, len(cells), 3)}

    def current(self, window: Window, now_ns: int) -> int:
        """The bucket that a charge made now goes to."""
        bucket = window.bucket(now_ns)
        cells = self._cells
        return max(bucket, cells[-3]) if len(cells) > 2 else bucket

    def standing(self, window: Window, now_ns: int) -> tuple[int, int]:
        """The bucket that a charge made now goes to, and what is used of the window then."""
        cells = self._cells
        end = len(cells)
        bucket = window.bucket(now_ns)
        if end > 2 and cells[-3] > bucket:
            bucket = cells[-3]
        total = cells[0] + cells[1]
        if end > 2 and cells[2] < (oldest := window.oldest_live(bucket)):
            at = 2
            while at < end and cells[at] < oldest:
                total -= cells[at + 1] + cells[at + 2]
                at += 3
        return bucket, total

    def used(self, oldest: int) -> int:
        """Posted and pending in `oldest` and all buckets after it."""
        cells = self._cells
        total = cells[0] + cells[1]
        at, end = 2, len(cells)
        while at < end and cells[at] < oldest:
            total -= cells[at + 1] + cells[at + 2]
            at += 3
        return total

    def posted(self, bucket: int) -> int:
        at = self._find(bucket)
        return self._cells[at + 1] if at else 0

    def reserve(self, window: Window, bucket: int, amount: int) -> None:
        """Adds a pending amount to `bucket` (from `current`: never before the newest) and forgets what no longer counts.

        A calendar window keeps the period before the current one for a while, so that what settles late still meets its alerts.
        """
        cells = self._cells
        oldest, keep = window.oldest_live(bucket), 3 if window.kind is _CALENDAR else 0
        at, end = 2, len(cells)
        while at < end and cells[at] < oldest:
            at += 3
        at -= keep
        if at > 2:
            cells[0] -= sum(cells[3:at:3])
            cells[1] -= sum(cells[4:at:3])
            del cells[2:at]
        cells[1] += amount
        if len(cells) > 2 and cells[-3] == bucket:
            cells[-1] += amount
        else:
            cells.extend((bucket, 0, amount))

    def change(self, bucket: int, posted: int, pending: int) -> bool:
        """Adds to what `bucket` holds; either may be negative. False where the bucket is no longer kept: it counts nowhere."""
        at = self._find(bucket)
        if not at:
            return False
        cells = self._cells
        if cells[at + 1] + posted < 0 or cells[at + 2] + pending < 0:
            raise ValueError("a counter would become negative")
        cells[at + 1] += posted
        cells[at + 2] += pending
        cells[0] += posted
        cells[1] += pending
        return True

    def fits_ns(self, window: Window, bucket: int, amount: int, limit: int, now_ns: int) -> int | None:
        """The first moment, `now_ns` or later, at which `amount` fits if nothing else is charged; None for never.

        `bucket` is the current one. A sliding or calendar window is exact. A gauge that is full answers with a guess
        (`GAUGE_RETRY_NS`).
        """
        if amount > limit:
            return None
        oldest = window.oldest_live(bucket)
        over = self.used(oldest) + amount - limit
        if over <= 0:
            return now_ns
        cells = self._cells
        for at in range(2, len(cells), 3):
            if cells[at] >= oldest:
                over -= cells[at + 1] + cells[at + 2]
                if over <= 0:
                    ends_ns = window.ends_ns(cells[at])
                    return now_ns + GAUGE_RETRY_NS if ends_ns is None else max(ends_ns, now_ns)
        raise AssertionError("the buckets hold less than their total")

    def free_ns(self, window: Window, bucket: int, now_ns: int) -> int:
        """The first moment, `now_ns` or later, at which the whole limit is free again; of a calendar window, its end."""
        cells = self._cells
        last = bucket
        if window.kind is not _CALENDAR:
            at = len(cells) - 3
            while at > 1 and not cells[at + 1] and not cells[at + 2]:
                at -= 3
            if at < 2 or cells[at] < window.oldest_live(bucket):
                return now_ns
            last = cells[at]
        ends_ns = window.ends_ns(last)
        return now_ns + GAUGE_RETRY_NS if ends_ns is None else max(ends_ns, now_ns)

    def _find(self, bucket: int) -> int:
        """Index of the bucket's cell, 0 for none. What settles is mostly young, so the search runs from the end."""
        cells = self._cells
        at = len(cells) - 3
        while at > 1:
            found = cells[at]
            if found <= bucket:
                return at if found == bucket else 0
            at -= 3
        return 0


def seconds_until(moment_ns: int, now_ns: int) -> float:
    """Seconds to wait, rounded up to the millisecond: whoever waits that long is not early."""
    return max(0, -((now_ns - moment_ns) // 1_000_000)) / 1000


@lru_cache(maxsize=256)
def _sub_bucket_ns(length_s: int) -> int:
    return -(-length_s * 1_000_000 // SUB_BUCKETS) * 1_000


_UNITS: Final = ((2_592_000, "month"), (604_800, "week"), (86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second"))


@lru_cache(maxsize=256)
def _name(window: Window) -> str:
    if window.kind is not Kind.SLIDING:
        return window.period.value if window.kind is Kind.CALENDAR else "in flight"
    size, unit = next((size, unit) for size, unit in _UNITS if window.length_s % size == 0)
    return unit if window.length_s == size else f"{window.length_s // size} {unit}s"


_memo: dict[tuple[Period, str], tuple[int, int]] = {}
"""The period last asked for. Only a memory: `_period_at` answers the same without it, fifty times more slowly."""


def _period_at(period: Period, time_zone: str, second: int) -> tuple[int, int]:
    """First second of the period around `second`, and of the next one. The periods of a zone follow one another without a gap.

    A day begins with the first moment that carries its date. The local date alone would not do: a clock that is set back across
    midnight shows the old date again, and a budget would then be counted in the period before.
    """
    known = _memo.get((period, time_zone))
    if known is not None and known[0] <= second < known[1]:
        return known
    zone = ZoneInfo(time_zone)
    day = _first_day(period, datetime.fromtimestamp(second, UTC).astimezone(zone).date())
    while _first_second(day, zone) > second:
        day = _first_day(period, day - timedelta(days=1))
    while (end := _first_second(_next(period, day), zone)) <= second:
        day = _next(period, day)
    found = (_first_second(day, zone), end)
    if len(_memo) > 1024:
        _memo.clear()
    _memo[(period, time_zone)] = found
    return found


def _first_day(period: Period, day: date) -> date:
    match period:
        case Period.DAY:
            return day
        case Period.WEEK:
            return day - timedelta(days=day.weekday())
        case Period.MONTH:
            return day.replace(day=1)
        case _:
            assert_never(period)


def _next(period: Period, first: date) -> date:
    match period:
        case Period.DAY:
            return first + timedelta(days=1)
        case Period.WEEK:
            return first + timedelta(days=7)
        case Period.MONTH:
            return (first + timedelta(days=32)).replace(day=1)
        case _:
            assert_never(period)


def _first_second(day: date, zone: ZoneInfo) -> int:
    # Midnight twice: fold=0 is the first. No midnight: read with the offset before the gap, it is the moment of the change.
    return int(datetime(day.year, day.month, day.day, tzinfo=zone).timestamp())
