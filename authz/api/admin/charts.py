"""Charts as numbers: what a template needs to draw an SVG. Nothing here is text that somebody else chose."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from typing import Final

from msgspec import Struct

from authz.reporting.usage import UsageLine

WIDTH: Final = 1_040
HEIGHT: Final = 180
_GAP: Final = 0.25
_STEPS: Final = (1, 2, 2.5, 5, 10)
_MOST_COLUMNS: Final = 92


class Column(Struct, frozen=True):
    """In the units of the view box; `y` is of the upper edge. label  the day · value  in words"""

    x: float
    y: float
    width: float
    height: float
    label: str
    value: str
    tick: bool


class Grid(Struct, frozen=True):
    y: float
    label: str


class Chart(Struct, frozen=True):
    columns: tuple[Column, ...]
    grid: tuple[Grid, ...]
    width: int = WIDTH
    height: int = HEIGHT


class Slice(Struct, frozen=True):
    """One line of a report beside the others. percent  of the largest one"""

    line: UsageLine
    cost: float
    percent: float


def cost_of(line: UsageLine) -> float:
    """Settled and pending, in USD: for the length of a bar, not for a sum."""
    return float(line.settled_usd) + float(line.pending_usd)


def by_day(lines: Iterable[UsageLine], first_day: str, last_day: str) -> Chart:
    """A column for each day, those without use too; of a long time the last ones."""
    cost = {line.name: cost_of(line) for line in lines}
    last = date.fromisoformat(last_day)
    count = min((last - date.fromisoformat(first_day)).days + 1, _MOST_COLUMNS)
    days = [(last - timedelta(days=back)).isoformat() for back in range(count - 1, -1, -1)]
    top = _rounded_up(max((cost.get(day, 0.0) for day in days), default=0.0))
    step = WIDTH / count
    every = -(-count // 10)
    columns = []
    for at, day in enumerate(days):
        height = HEIGHT * cost.get(day, 0.0) / top
        columns.append(
            Column(
                x=round(at * step + step * _GAP / 2, 2),
                y=round(HEIGHT - height, 2),
                width=round(step * (1 - _GAP), 2),
                height=round(height, 2),
                label=day,
                value=f"{cost.get(day, 0.0):,.2f} USD",
                tick=(count - 1 - at) % every == 0,
            )
        )
    grid = tuple(Grid(round(HEIGHT * (1 - part / 4), 2), f"{top * part / 4:,.4g}") for part in range(5))
    return Chart(tuple(columns), grid)


def ranked(lines: Sequence[UsageLine]) -> list[Slice]:
    """The dearest first."""
    largest = max((cost_of(line) for line in lines), default=0.0)
    found = [Slice(line, cost_of(line), round(cost_of(line) * 100 / largest, 1) if largest else 0.0) for line in lines]
    return sorted(found, key=lambda each: -each.cost)


def _rounded_up(value: float) -> float:
    """The next number that a scale can end in, at least a cent."""
    if value <= 0.01:
        return 0.01
    power = 10.0 ** (len(str(int(value))) - 1) if value >= 1 else 0.01 if value < 0.1 else 0.1
    return next(step * power for step in _STEPS if step * power >= value)
