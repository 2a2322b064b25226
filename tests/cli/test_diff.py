"""`authz diff` as a reviewer runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from authz.bundle import load_bundle
from authz.cli import cli
from authz.review import gate
from tests.bundle.folders import REFERENCE, copy, edit


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gate, "load", load_bundle)  # the child process has tests of its own, and takes its time
    return copy(tmp_path)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["diff", *map(str, arguments)], catch_exceptions=False)


def test_no_differences_is_0(new: Path) -> None:
    done = run(REFERENCE, new)
    assert (done.exit_code, done.output) == (0, "no differences\n")


def test_a_lost_forbid_stands_first(new: Path, tmp_path: Path) -> None:
    edit(new, "analytics.cedar", '@mode("shadow")\n', "")
    weaker = tmp_path / "weaker"
    weaker.mkdir()
    weaker = copy(weaker)
    edit(weaker, "chatbot.cedar", '"llama-3.1-8b-instant"]', '"openai/gpt-oss-20b"]')
    done = run(new, weaker)
    assert done.exit_code == 1
    lines = [line for line in done.output.splitlines() if line]
    assert lines[0] == "FORBIDS THAT ARE NO LONGER ENFORCED"
    assert lines[1].startswith("! batch-stops-at-80-percent  in shadow  (")
    assert "retired.yaml does not name it" in lines[3]
    order = [done.output.index(title) for title in ("FORBIDS", "MORE PERMISSIVE", "LESS PERMISSIVE", "Policies")]
    assert order == sorted(order)
    assert "conditional → allow, at spend.org.percent 80 (not at 79)" in done.output
    assert [line.strip()[0] for line in lines if "llama-3.3-70b-versatile" in line and "resource in" in line] == ["-", "+"]
    assert "more: --json" not in done.output


def test_little_changed_is_little_said(new: Path) -> None:
    edit(new, "quotas.yaml", "500 USD/month", "600 USD/month")
    done = run(REFERENCE, new)
    assert done.exit_code == 1
    assert done.output.splitlines()[1:6] == [
        "Nobody may do more or less than before",
        "",
        "Quotas",
        "changed quota org-spend  (more permissive)",
        "    limit 500.00 USD/month → 600.00 USD/month",
    ]
    assert len(done.output.splitlines()) == 8


def test_comments_alone_are_said_to_be_no_more(new: Path) -> None:
    edit(new, "quotas.yaml", "# What fits.", "# What still fits.")
    done = run(REFERENCE, new)
    assert done.exit_code == 1
    assert "comments or layout only" in done.output


def test_many_of_a_kind_are_counted(new: Path) -> None:
    edit(new, "directory.yaml", "keys:", "keys:\n" + "".join(f"  lab-{n}: {{team: research}}\n" for n in range(50)))
    output = run(REFERENCE, new).output
    assert '+ new: Team::"research": 50 keys like Key::"lab-0"' in output
    assert "… and 30 more: --json has all of them" in output
    found = json.loads(run(REFERENCE, new, "--json").output)
    assert len(found["directory"]) == found["more_permissive"][0]["count"] == 50


def test_json_has_everything(new: Path) -> None:
    edit(new, "research.cedar", ',\n   Model::"qwen/qwen3.6-27b"]', "]")
    edit(new, "tests/models.yaml", "model: qwen/qwen3.6-27b", "model: openai/gpt-oss-20b")
    done = run(REFERENCE, new, "--json")
    found = json.loads(done.output)
    assert done.exit_code == 1
    assert [policy["id"] for policy in found["policies"]] == ["research-models"]
    assert found["less_permissive"][0] == {
        "principals": ['Key::"research-lab"', 'User::"olivia" in Team::"research"', 'User::"rhea" in Team::"research"'],
        "count": 3,
        "uses": [{"actions": ["chat", "respond"], "resources": ["qwen/qwen3.6-27b"]}],
        "was": "allow",
        "now": "deny",
        "before": ["research-models"],
    }
    assert found["more_permissive"] == []


def test_markup_in_names_is_text(new: Path) -> None:
    more = '  - {id: "[bold]x[/bold]", scope: Team::"research", what: requests, limit: 5/minute}'
    edit(new, "quotas.yaml", "quotas:", f"quotas:\n{more}")
    assert "added quota [bold]x[/bold]  (less permissive)" in run(REFERENCE, new).output
