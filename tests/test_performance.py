"""docs/performance.md is what bench/results.json says, and that names no machine."""

from __future__ import annotations

import re
import socket

import pytest

from bench import report
from bench.measure import AT_LEAST, AT_MOST, REFUSED, Figure

NAMES = {"P1", "P2 at 1", "P2 at 8", "P2 at 64", "P4", "P5", "P6", "P7 on Redis", "P7 on SQLite", "P8", "P9", "P10"}


def test_the_table_is_the_results() -> None:
    text = report.DOCUMENT.read_text(encoding="utf-8")
    assert text.split(report.BEGIN)[1].split(report.END)[0] == "\n" + report.table(report.read())


def test_every_figure_has_its_row_and_its_bound() -> None:
    rows = {row.name: row for row in report.read().rows}
    assert {name for name, row in rows.items() if row.kind} == NAMES
    for row in rows.values():
        assert row.low <= row.value <= row.high or row.rounds == 1
        if row.value != row.limit:  # a row is rounded to the hundredth: what stands on its bound may lie on either side of it
            assert row.holds is (not row.kind or (REFUSED not in row.parts and _within(row)))


def _within(row: report.Row) -> bool:
    return row.value <= row.limit if row.kind == AT_MOST else row.value >= row.limit


def test_the_results_name_no_machine_and_no_place_on_it() -> None:
    text = report.RESULTS.read_text(encoding="utf-8")
    assert "/" not in text.replace("/s", "").replace("nghttp2/", "")
    assert not re.search(rf"\b{re.escape(socket.gethostname())}\b", text)


@pytest.mark.parametrize(
    ("values", "limit", "kind", "holds"),
    [((1, 2, 3), 2, AT_MOST, True), ((1, 2, 3), 1.9, AT_MOST, False), ((1, 2, 3), 2.1, AT_LEAST, False), ((9,), 1, "", True)],
)
def test_a_figure_holds_by_its_median(values: tuple[float, ...], limit: float, kind: str, holds: bool) -> None:
    assert Figure("P", "what", values, limit, kind).holds is holds
    assert not Figure("P", "what", values, limit, kind, {REFUSED: "1"}).holds


def test_the_summary_says_what_is_missed_and_by_how_much() -> None:
    figures = [Figure("P1", "", (2,), 3, AT_MOST), Figure("P2", "", (2,), 3, AT_LEAST), Figure("P3", "", (2,), 3, "")]
    assert report.summary(figures[:1]) == "1 of 1 figures hold"
    assert report.summary(figures) == "1 of 2 figures hold; missed: P2 2.00 (at least 3)"
