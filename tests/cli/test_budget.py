"""`authz budget`, as an operator runs it beside a sidecar that decides on the same store."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from authz.bundle import load_bundle
from authz.cli.budget import budget
from authz.errors import ConfigError
from authz.model import Allow, Deny, Meter
from authz.quota.ledger import Hold, Terms
from authz.quota.path import counters_of
from authz.reasons import Reason
from authz.store import open_store
from tests.place import Place, lay_out, opened

USD = 1_000_000_000
QUOTAS = """
time_zone: Europe/Berlin
quotas:
  - {id: org-spend, scope: 'Org::"acme"', what: spend, limit: 500 USD/month, alerts: [100 USD, 250 USD, 80%]}
  - {id: each-key, scope: 'Team::"chatbot"', what: spend, limit: 20 USD/month, per: key}
  - {id: watched, scope: 'Team::"research"', what: spend, limit: 1 USD/day, mode: shadow}
  - {id: rate, scope: 'Org::"acme"', what: requests, limit: 500/minute}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    found = lay_out(tmp_path)
    (tmp_path / "policies/quotas.yaml").write_text(QUOTAS)
    for case in (tmp_path / "policies/tests").glob("*"):
        case.unlink()
    return found


def invoke(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(budget, [*arguments, "--config", str(config)], catch_exceptions=False)


def run(config: Path, *arguments: str, code: int = 0) -> str:
    done = invoke(config, *arguments)
    assert done.exit_code == code, done.output
    return done.output


def rows(config: Path, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(config, "show", "--json", *arguments, code=code))["budgets"]
    return found


def use(config: Path, amount: int, quota: str = "org-spend", member: str = "") -> None:
    """As a sidecar would, at the wall time that the command reads."""
    bundle = load_bundle(config.parent / "policies")
    found = next(each for each in bundle.quotas.quotas if each.id == quota)
    members = [each.principal for each in bundle.directory.keys.values()]
    applied = next(each for each in counters_of(found, members) if member in each.scope)
    store = open_store(f"sqlite:///{config.parent / 'authz.db'}")
    terms = Terms("2026-11-23", "acme", "chatbot", "", "k", "m", "chat", None, {Meter.SPEND: amount})
    held = store.reserve(Hold(f"u{time.monotonic_ns()}", (applied.charge(amount),), terms, 10**12), time.time_ns())
    assert held.states[0].limit
    store.close()


def test_show_has_every_budget_and_nothing_else(config: Path) -> None:
    use(config, 130 * USD + 5_000_000)
    found = {row["quota"]: row for row in rows(config)}
    assert list(found) == ["org-spend", "watched"]  # nobody has used the budget by key
    row = found["org-spend"]
    assert (row["scope"], row["period"], row["limit_usd"], row["raised_usd"]) == ('Org::"acme"', "month", "500.00", "0.00")
    assert (row["used_usd"], row["left_usd"], row["percent"], row["reached"]) == ("130.005", "369.995", 26, False)
    assert row["alerts_reached_usd"] == ["100.00"]
    assert re.fullmatch(r"\d{4}-\d\d-01T00:00:00\+0[12]:00", row["resets_at"])
    assert row["changes"] == []
    assert [row["enforced"] for row in found.values()] == [True, False]
    table = run(config, "show")
    for words in ("org-spend", "500.00 / month", "130.005", "369.995", "26 %", "watched (shadow)"):
        assert words in table
    assert "rate" not in table


def test_a_budget_that_is_reached_is_a_finding(config: Path) -> None:
    use(config, 500 * USD)
    (row,) = rows(config, "org-spend", code=1)
    assert (row["reached"], row["left_usd"]) == (True, "0.00")
    assert "100 %, reached" in run(config, "show", "org-spend", code=1)
    use(config, 1 * USD, "watched")
    rows(config, "watched")  # in shadow nobody is stopped


def test_raise_by_and_to(config: Path) -> None:
    use(config, 100 * USD)
    said = run(config, "raise", "org-spend", "--by", "100 USD", "--why", "the launch", "--as", "olivia")
    assert said == 'org-spend of Org::"acme": 600.00 USD this month (was 500.00), 100.00 used, 500.00 left\n'
    assert "650.50 USD this month (was 600.00)" in run(config, "raise", "org-spend", "--to", "650.50 USD", "--why", "x")
    assert "as before" in run(config, "raise", "org-spend", "--to", "650.5 USD", "--why", "x")
    run(config, "raise", "org-spend", "--by", "-50.5 USD", "--why", "too much")
    (row,) = rows(config, "org-spend")
    assert (row["limit_usd"], row["raised_usd"], row["left_usd"]) == ("500.00", "100.00", "500.00")
    changes = row["changes"]
    assert [change["by_usd"] for change in changes] == ["100.00", "50.50", "-50.50"]
    assert (changes[0]["who"], changes[0]["why"]) == ('User::"olivia"', "the launch")
    table = run(config, "show", "org-spend")
    assert "the launch" in table
    assert "Changed by hand" in table


def test_resume_gives_the_whole_limit_again(config: Path) -> None:
    use(config, 500 * USD)
    said = run(config, "resume", "org-spend", "--why", "agreed")
    assert "1000.00 USD this month (was 500.00), 500.00 used, 500.00 left" in said
    assert "as before" in run(config, "resume", "org-spend", "--why", "again")
    use(config, 200 * USD)
    assert "700.00 used, 500.00 left" in run(config, "resume", "org-spend", "--why", "once more")
    assert json.loads(run(config, "raise", "org-spend", "--by", "1 USD", "--why", "for a script", "--json")) == {
        "quota": "org-spend",
        "scope": 'Org::"acme"',
        "period": "month",
        "was_usd": "1200.00",
        "limit_usd": "1201.00",
        "used_usd": "700.00",
        "left_usd": "501.00",
    }


def test_a_budget_by_key_needs_one_that_there_is(config: Path) -> None:
    with pytest.raises(ConfigError, match="`each-key` is a budget for each key, expected --scope with one of them"):
        invoke(config, "raise", "each-key", "--by", "5 USD", "--why", "x")
    with pytest.raises(ConfigError, match='`each-key` is no budget of `Key::"nobody"`, expected one of `Key::"chatbot-prod"`'):
        invoke(config, "raise", "each-key", "--by", "5 USD", "--why", "x", "--scope", 'Key::"nobody"')
    run(config, "raise", "each-key", "--by", "5 USD", "--why", "x", "--scope", 'Key::"chatbot-prod"')
    (row,) = rows(config, "each-key")
    assert (row["scope"], row["limit_usd"], row["raised_usd"]) == ('Key::"chatbot-prod"', "20.00", "5.00")
    assert len(rows(config, "each-key", "--all")) >= 1
    with pytest.raises(ConfigError, match="is no budget of"):
        invoke(config, "resume", "org-spend", "--why", "x", "--scope", 'Team::"chatbot"')
    run(config, "resume", "org-spend", "--why", "x", "--scope", 'Org::"acme"')


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("raise", "org-spend", "--why", "x"), "expected exactly one of --to and --by"),
        (("raise", "org-spend", "--why", "x", "--to", "1 USD", "--by", "1 USD"), "expected exactly one of --to and --by"),
        (("raise", "org-spend", "--by", "5 USD"), "--why"),
        (("raise", "org-spend", "--by", "5 USD", "--why", " "), "found nothing, expected words for the record"),
        (("raise", "org-spend", "--by", "5", "--why", "x"), "found `5`, expected an amount such as `100 USD`"),
        (("raise", "org-spend", "--by", "5 EUR", "--why", "x"), "found the currency `EUR`"),
        (("raise", "org-spend", "--to", "-5 USD", "--why", "x"), "found `-5 USD`, expected 0 USD or more"),
        (("raise", "org-spend", "--by", "99999999999 USD", "--why", "x"), "a raise by 99999999999000000000, expected"),
        (("resume", "org-spend"), "--why"),
    ],
)
def test_what_cannot_be_done_says_why_and_exits_2(config: Path, arguments: tuple[str, ...], problem: str) -> None:
    assert problem in " ".join(run(config, *arguments, code=2).replace("│", " ").split())
    assert rows(config, "org-spend")[0]["changes"] == []


@pytest.mark.parametrize("name", ["rate", "nothing"])
def test_what_is_no_budget_is_named(config: Path, name: str) -> None:
    for arguments in (("show", name), ("resume", name, "--why", "x")):
        with pytest.raises(ConfigError, match=f"no budget `{name}`, expected one of `org-spend`, `each-key`, `watched`"):
            invoke(config, *arguments)


def test_a_store_in_memory_is_nobody_elses(config: Path) -> None:
    config.write_text("store: 'sqlite:///:memory:'\n")
    with pytest.raises(ConfigError, match="expected a store that is shared"):
        invoke(config, "show")


def test_words_are_shown_as_they_are(config: Path) -> None:
    run(config, "raise", "org-spend", "--by", "5 USD", "--why", "[red]not markup[/red] [link=x]")
    table = run(config, "show", "org-spend")
    assert "[red]not markup[/red]" in table


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    with opened(tmp_path) as found:
        yield found


def test_a_running_engine_feels_it_at_its_next_decision(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole loop: paused at the cap, raised by hand, admitted again; and nothing was restarted."""
    monkeypatch.setattr("time.time_ns", place.time)
    config = place.folder / "authz.yaml"
    secret = place.issue("chatbot-prod")
    assert isinstance(place.engine.pdp.decide(place.request(secret)), Allow)
    run(config, "raise", "org-spend", "--to", "0 USD", "--why", "stop everything")
    refused = place.engine.pdp.decide(place.request(secret))
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.SPEND_CAP_REACHED
    assert "Limit 0.00 USD per month" in refused.message
    (row,) = rows(config, "org-spend", code=1)
    assert (row["percent"], row["reached"]) == (None, True)
    run(config, "raise", "org-spend", "--to", "600 USD", "--why", "go on")
    assert isinstance(place.engine.pdp.decide(place.request(secret)), Allow)
