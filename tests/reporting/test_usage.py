"""The usage report and the forecast: what is added up, what is shown to whom, and when money runs out."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from authz.bundle import Bundle, load_bundle
from authz.cli import cli
from authz.quota.path import applied_to
from authz.reporting import usage as reporting
from authz.reporting.usage import By, Query, UsageReport
from authz.store import Store, open_store
from tests.place import lay_out
from tests.reporting.books import USD, Books, at

QUOTAS = """
time_zone: Europe/Berlin
quotas:
  - {id: org-spend, scope: 'Org::"acme"', what: spend, limit: 500 USD/month, alerts: [100 USD]}
  - {id: each-key, scope: 'Team::"chatbot"', what: spend, limit: 20 USD/month, per: key}
  - {id: small, scope: 'Team::"research"', what: spend, limit: 8 USD/month, models: [openai/gpt-oss-20b]}
  - {id: rate, scope: 'Org::"acme"', what: requests, limit: 500/minute}
"""
SMALL, LARGE = "openai/gpt-oss-20b", "llama-3.3-70b-versatile"


NOON = at("2026-11-20T12:00:00+01:00")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    found = lay_out(tmp_path)
    (tmp_path / "policies/quotas.yaml").write_text(QUOTAS)
    for case in (tmp_path / "policies/tests").glob("*"):
        case.unlink()
    return found


@pytest.fixture
def bundle(config: Path) -> Bundle:
    return load_bundle(config.parent / "policies")


@pytest.fixture
def store(config: Path) -> Iterator[Store]:
    found = open_store(f"sqlite:///{config.parent / 'authz.db'}")
    yield found
    found.close()


@pytest.fixture
def books(bundle: Bundle, store: Store) -> Books:
    found = Books(bundle, store)
    found.use("2026-10-31", "chatbot-prod", LARGE, 7)
    found.use("2026-11-02", "chatbot-prod", LARGE, 4)
    found.use("2026-11-18", "chatbot-prod", LARGE, 2)
    found.use("2026-11-19", "research-lab", SMALL, 1, user="rhea")
    found.use("2026-11-19", "research-lab", LARGE, 3)
    found.use("2026-11-20", "research-lab", SMALL, 5)
    found.use("2026-11-20", "batch-processor", SMALL, 0.5, pending=True)
    return found


def everything(key: str, team: str) -> bool:
    return True


def made(bundle: Bundle, store: Store, by: By, first: str = "2026-11-01", last: str = "2026-11-20") -> UsageReport:
    return reporting.gather(bundle, store, Query(by, first, last), NOON, sees=everything, reads=lambda uid: True)


def shown(report: UsageReport) -> dict[str, tuple[int, str, str, str]]:
    return {line.name: (line.requests, line.estimated_usd, line.settled_usd, line.pending_usd) for line in report.lines}


def test_by_each_thing_that_there_is(bundle: Bundle, store: Store, books: Books) -> None:
    assert shown(made(bundle, store, By.KEY)) == {
        "batch-processor": (1, "1.00", "0.00", "1.00"),
        "chatbot-prod": (2, "12.00", "6.00", "0.00"),
        "research-lab": (3, "18.00", "9.00", "0.00"),
    }
    assert {name: row[0] for name, row in shown(made(bundle, store, By.USER)).items()} == {"": 5, "rhea": 1}
    assert {name: row[2] for name, row in shown(made(bundle, store, By.TEAM)).items()} == {
        "analytics": "0.00",
        "chatbot": "6.00",
        "research": "9.00",
    }
    assert {name: row[2] for name, row in shown(made(bundle, store, By.MODEL)).items()} == {LARGE: "9.00", SMALL: "6.00"}
    days = shown(made(bundle, store, By.DAY, "2026-10-01"))
    assert list(days) == ["2026-10-31", "2026-11-02", "2026-11-18", "2026-11-19", "2026-11-20"]
    assert {name: row[2] for name, row in shown(made(bundle, store, By.MONTH, "2026-10-01")).items()} == {
        "2026-10": "7.00",
        "2026-11": "15.00",
    }
    (line,) = made(bundle, store, By.DAY, "2026-11-18", "2026-11-18").lines
    assert (line.input_tokens, line.cached_tokens, line.output_tokens, line.pending_requests) == (1000, 400, 100, 0)


def test_the_total_is_that_of_the_lines(bundle: Bundle, store: Store, books: Books) -> None:
    for by in By:
        report = made(bundle, store, by)
        assert (report.total.requests, report.total.settled_usd, report.total.estimated_usd) == (6, "15.00", "31.00")
        assert sum(line.input_tokens for line in report.lines) == report.total.input_tokens == 5000


def test_the_share_of_each_budget_is_of_the_period_that_it_is_in(bundle: Bundle, store: Store, books: Books) -> None:
    report = made(bundle, store, By.KEY, "2026-11-20")
    shares = {line.name: {(each.quota, each.scope): each.percent for each in line.budgets} for line in report.lines}
    assert shares["research-lab"] == {("org-spend", 'Org::"acme"'): 1.8, ("small", 'Team::"research"'): 75.0}
    assert shares["batch-processor"] == {("org-spend", 'Org::"acme"'): 0.2}
    by_day = made(bundle, store, By.DAY, "2026-10-01")
    october = next(line for line in by_day.lines if line.name == "2026-10-31")
    assert october.budgets == ()  # the budgets of its month are over


def test_only_what_one_may_see_is_in_it(bundle: Bundle, store: Store, books: Books) -> None:
    asked = Query(By.TEAM, "2026-11-01", "2026-11-20")
    report = reporting.gather(
        bundle, store, asked, NOON, sees=lambda key, team: team == "chatbot", reads=lambda uid: uid.type == "Key"
    )
    assert [line.name for line in report.lines] == ["chatbot"]
    assert report.total.settled_usd == "6.00"
    assert [(each.quota, each.scope) for each in report.budgets] == [("each-key", 'Key::"chatbot-prod"')]


def test_the_day_on_which_a_budget_runs_out(bundle: Bundle, store: Store, books: Books) -> None:
    budgets = {each.quota: each for each in made(bundle, store, By.KEY).budgets}
    # `small`: 6 of 8 USD, all of it since the 19th, so 1.5 days: 4 a day, and the last 2 go in half a day.
    assert (budgets["small"].used_usd, budgets["small"].per_day_usd) == ("6.00", "4.00")
    assert budgets["small"].runs_out == "2026-11-21"
    # `org-spend`: 12 USD (with what is under way) in the 2.5 days since the 18th; 10.5 more days will not reach 500.
    assert (budgets["org-spend"].used_usd, budgets["org-spend"].runs_out) == ("15.50", None)
    assert budgets["org-spend"].per_day_usd == "4.80"
    assert budgets["org-spend"].at_reset_usd == "65.90"
    assert budgets["org-spend"].resets_at == "2026-12-01T00:00:00+01:00"


def test_a_budget_that_is_reached_has_run_out_today_and_one_unused_never_does(
    bundle: Bundle, store: Store, books: Books
) -> None:
    small = applied_to(next(quota for quota in bundle.quotas.quotas if quota.id == "small"), None)
    store.raise_limit("x", small.charge(0), -2 * USD, "me", "to see", NOON)
    found = {each.quota: each for each in made(bundle, store, By.KEY).budgets}["small"]
    assert (found.left_usd, found.percent, found.runs_out) == ("0.00", 100, "2026-11-20")
    december = at("2026-12-15T12:00:00+01:00")
    report = reporting.gather(
        bundle, store, Query(By.KEY, "2026-11-01", "2026-12-15"), december, sees=everything, reads=lambda uid: True
    )
    assert {each.runs_out for each in report.budgets} == {None}
    assert {each.per_day_usd for each in report.budgets} == {"0.00"}


def test_the_first_minutes_of_a_rate_are_taken_for_an_hour(bundle: Bundle, store: Store) -> None:
    Books(bundle, store).use("2026-11-20", "research-lab", LARGE, 1)
    soon = at("2026-11-20T00:01:00+01:00")
    asked = Query(By.KEY, "2026-11-20", "2026-11-20")
    report = reporting.gather(bundle, store, asked, soon, sees=everything, reads=lambda uid: True)
    assert report.budgets[0].per_day_usd == "24.00"


@pytest.mark.parametrize(
    ("by", "first", "last", "expected"),
    [
        (By.KEY, "", "", ("2026-11-01", "2026-11-20")),
        (By.KEY, "", "2026-10-09", ("2026-10-01", "2026-10-09")),
        (By.MONTH, "", "", ("2025-12-01", "2026-11-20")),
        (By.DAY, "2026-11-19", "", ("2026-11-19", "2026-11-20")),
    ],
)
def test_days_that_are_not_given(bundle: Bundle, by: By, first: str, last: str, expected: tuple[str, str]) -> None:
    found = reporting.query(by, first, last, NOON, bundle.time_zone)
    assert (found.first_day, found.last_day) == expected


@pytest.mark.parametrize(("first", "last"), [("20261101", ""), ("", "today"), ("2026-11-09", "2026-11-08"), ("2026-02-30", "")])
def test_days_that_are_none(bundle: Bundle, first: str, last: str) -> None:
    with pytest.raises(ValueError, match="expected"):
        reporting.query(By.KEY, first, last, NOON, bundle.time_zone)


def invoke(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, ["usage", *arguments, "--config", str(config)], catch_exceptions=False)


def run(config: Path, *arguments: str) -> str:
    done = invoke(config, *arguments)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_as_table_json_and_csv(config: Path, books: Books) -> None:
    between = ("--from", "2026-11-01", "--to", "2026-11-20")
    found: dict[str, Any] = json.loads(run(config, "--by", "model", *between, "--json"))
    assert [(line["name"], line["settled_usd"]) for line in found["lines"]] == [(LARGE, "9.00"), (SMALL, "6.00")]
    assert {each["quota"] for each in found["budgets"]} == {"org-spend", "each-key", "small"}
    rows = list(csv.DictReader(io.StringIO(run(config, "--by", "model", *between, "--csv"))))
    assert [(row["model"], row["requests"], row["estimated_usd"]) for row in rows] == [
        (LARGE, "3", "18.00"),
        (SMALL, "3", "13.00"),
    ]
    assert 'org-spend Org::"acme" %' in rows[0]
    table = run(config, "--by", "team", *between)
    for words in ("Usage by team, 2026-11-01 to 2026-11-20", "research", "total", "runs out", "org-spend"):
        assert words in table
    day = run(config, "--day", "2026-11-20", "--csv")
    assert day.splitlines() == [
        "key_name,requests_today,tokens_today,estimated_cost_usd",
        "batch-processor,1,0,1.00",
        "research-lab,1,1100,5.00",
    ]


def test_the_command_shows_a_developer_their_own_team(config: Path, books: Books) -> None:
    found = json.loads(run(config, "--by", "key", "--from", "2026-11-01", "--to", "2026-11-20", "--json", "--as", "dev"))
    assert [line["name"] for line in found["lines"]] == ["chatbot-prod"]
    assert {each["scope"] for each in found["budgets"]} == {'Key::"chatbot-prod"'}


@pytest.mark.parametrize(
    "arguments",
    [
        ("--by", "planet"),
        ("--by", "key", "--from", "yesterday"),
        ("--by", "key", "--from", "2026-11-09", "--to", "2026-11-01"),
        ("--by", "key", "--day", "2026-11-09"),
        ("--from", "2026-11-09"),
        ("--json", "--csv"),
        ("--estimates", "--by", "key"),
    ],
)
def test_what_does_not_go_together_says_so(config: Path, arguments: tuple[str, ...]) -> None:
    done = invoke(config, *arguments)
    assert done.exit_code == 2
    assert "expected" in done.output or "is not one of" in done.output
