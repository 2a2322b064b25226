"""The page as it is sent: what it shows of a bundle that was refused, of charts and numbers, and to whom."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from authz.api.admin import charts
from authz.api.admin.pages import money, wait
from authz.reporting.usage import UsageLine
from tests.admin.house import House, open_house


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as found:
        yield found


def test_a_bundle_that_was_refused_is_told_on_every_view_and_why_to_who_may_see_all(house: House) -> None:
    quotas = house.place.folder / "policies/quotas.yaml"
    quotas.write_text(quotas.read_text().replace("500 USD/month", "500 <b>EUR</b>/month"))
    house.place.engine.source.refresh()
    olivia, dev = house.signed_in("olivia"), house.signed_in("dev")
    for path in ("/", "/keys", "/usage"):
        assert "A changed bundle was refused" in olivia.get(path).text
    page = olivia.get("/bundle").text
    assert "500 &lt;b&gt;EUR&lt;/b&gt;/month" in page
    assert "<b>EUR" not in page
    assert house.place.engine.bundle.digest in page
    assert "EUR" not in dev.get("/bundle").text
    assert "chatbot-models" not in dev.get("/bundle").text  # policies of the whole organisation


@pytest.mark.parametrize(
    ("path", "status", "words"),
    [
        ("/nothing", 404, "Not found"),
        ("/decisions/none", 404, "No such decision"),
        ("/usage?by=planet", 400, "expected one of key, user, team, model, day, month"),
        ("/usage?from=yesterday", 400, "expected YYYY-MM-DD"),
        ("/static/../app.py", 404, "Not found"),
        ("/static/%2e%2e/app.py", 404, "Not found"),
    ],
)
def test_what_is_not_there_says_so(house: House, path: str, status: int, words: str) -> None:
    answer = house.signed_in("olivia").get(path)
    assert (answer.status_code, words in answer.text) == (status, True)


def test_a_form_that_is_wrong_says_what_was_expected_and_changes_nothing(house: House) -> None:
    browser = house.signed_in("olivia")
    before = house.place.engine.store.audit_last()
    for path, fields, status in (
        ("/keys", {"key": "chatbot-prod", "days": "soon"}, 400),
        ("/keys", {"key": "<script>"}, 409),
        ("/keys/abc/rotate", {"overlap": "1 day"}, 400),
        ("/budgets/org-spend/raise", {"to": "1e3", "why": "x"}, 400),
        ("/budgets/org-spend/raise", {"to": "5", "why": ""}, 400),
        ("/budgets/none/resume", {"why": "x"}, 404),
    ):
        answer = browser.send(path, **fields)
        assert answer.status_code == status, (path, answer.text)
        assert "<script>" not in answer.text
    assert house.place.engine.store.audit_last() == before


def test_views_are_whole_html_and_name_what_they_load(house: House) -> None:
    browser = house.signed_in("olivia")
    for path in ("/", "/decisions", "/usage", "/budgets", "/keys", "/access", "/bundle"):
        page = browser.get(path).text
        assert page.startswith('<!doctype html>\n<html lang="en">')
        assert page.count('aria-current="page"') == 1
        assert {address for address in re.findall(r'(?:src|href)="([^"#]+)"', page) if not address.startswith("/")} == set()
        assert "style=" not in page
        assert re.findall(r"<script(?! src=)", page) == []


def line(name: str, settled: str) -> UsageLine:
    return UsageLine(name, 1, 0, 0, 0, 0, settled, settled, "0.00")


def test_a_chart_has_a_column_for_each_day_and_a_scale_that_holds_the_highest() -> None:
    chart = charts.by_day([line("2026-11-02", "3.00"), line("2026-11-03", "1.50")], "2026-11-01", "2026-11-04")
    assert [column.label for column in chart.columns] == ["2026-11-01", "2026-11-02", "2026-11-03", "2026-11-04"]
    heights = [column.height for column in chart.columns]
    assert heights[0] == heights[3] == 0
    assert heights[1] == pytest.approx(2 * heights[2])
    assert all(0 <= column.y <= column.y + column.height <= chart.height + 0.01 for column in chart.columns)
    assert [line.label for line in chart.grid] == ["0", "1.25", "2.5", "3.75", "5"]
    assert all(column.x + column.width <= chart.width for column in chart.columns)


@pytest.mark.parametrize("highest", ["0.00", "0.000001", "0.02", "0.19", "0.99", "1.00", "9.99", "10.00", "12345.67"])
def test_every_height_fits(highest: str) -> None:
    chart = charts.by_day([line("2026-11-02", highest)], "2025-01-01", "2026-11-02")
    assert len(chart.columns) == 92
    assert chart.columns[-1].height <= chart.height
    assert float(chart.grid[-1].label.replace(",", "")) >= float(highest)


def test_the_dearest_comes_first() -> None:
    found = charts.ranked([line("a", "1.00"), line("b", "4.00"), line("c", "0.00")])
    assert [(each.line.name, each.percent) for each in found] == [("b", 100.0), ("a", 25.0), ("c", 0.0)]
    assert charts.ranked([]) == []


@pytest.mark.parametrize(
    ("seconds", "words"),
    [(0, "0 s"), (54, "54 s"), (300, "5 min"), (7_200, "2 h"), (200_000, "2 d 8 h"), (864_000, "10 d 0 h")],
)
def test_times_as_people_say_them(seconds: float, words: str) -> None:
    assert wait(seconds) == words


@pytest.mark.parametrize(("exact", "shown"), [("0.000041", "0.000041"), ("1.712979", "1.71"), ("12345.678", "12,345.68")])
def test_money_for_a_glance(exact: str, shown: str) -> None:
    assert money(exact) == shown
