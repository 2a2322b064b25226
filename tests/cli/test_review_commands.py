"""`authz test`, `explain` and `replay` as their user sees them: exit 0 clean, 1 findings, 2 cannot run."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from authz.administration import NotPermitted
from authz.cli import cli
from authz.errors import ConfigError
from tests.bundle.folders import REFERENCE, copy, edit
from tests.place import lay_out, opened
from tests.review import traffic


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli, [str(argument) for argument in arguments])


def document(*arguments: str | Path) -> Any:
    return json.loads(run(*arguments, "--json").stdout)


def test_a_suite_that_passes_is_one_line_and_0() -> None:
    done = run("test", REFERENCE)
    assert (done.exit_code, done.output) == (0, "25 passed, 0 failed\n")
    assert "request 500 of the minute is allowed" in run("test", REFERENCE, "-v").output


def test_a_case_that_fails_has_its_place_and_exit_1(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "chatbot.cedar", 'Model::"llama-3.3-70b-versatile", ', "")
    done = run("test", folder)
    assert done.exit_code == 1
    assert f"FAIL {folder}/tests/models.yaml:3 the chatbot answers on the large model" in done.output
    assert "expected allow, got deny (`model_not_available`)" in done.output
    assert done.output.endswith("24 passed, 1 failed\n")
    found = document("test", folder)
    assert (found["passed"], found["failed"]) == (24, 1)
    (failed,) = (case for case in found["cases"] if not case["passed"])
    assert (failed["effect"], failed["reason"], failed["line"]) == ("deny", "model_not_available", 3)


def test_coverage_is_a_finding(tmp_path: Path) -> None:
    covered = run("test", REFERENCE, "--coverage")
    assert (covered.exit_code, re.search(r"(\d+) of \1 policies decide a case", covered.output) is not None) == (0, True)
    folder = copy(tmp_path)
    (folder / "tests" / "administration.yaml").unlink()
    done = run("test", folder, "--coverage")
    assert done.exit_code == 1
    assert "UNDECIDED no case is decided by the policy `reader-own-team`" in done.output
    assert "reader-own-team" in document("test", folder, "--coverage")["undecided"]


def test_a_bundle_that_does_not_load_cannot_be_tested(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "chatbot.cedar", "permit (", "permit ((")
    done = run("test", folder)
    assert isinstance(done.exception, ConfigError)
    assert done.exception.line == 4


ASK = ("--bundle", REFERENCE, "--principal", "chatbot-prod", "--at", "2026-11-30T00:00:00Z")


def test_an_explanation_shows_policies_quotas_and_ways_out() -> None:
    done = run("explain", *ASK, "--model", "openai/gpt-oss-120b")
    assert done.exit_code == 1
    assert 'deny (model_not_available) Key::"chatbot-prod" chat openai/gpt-oss-120b' in done.output
    assert "permit chatbot-models: does not apply" in done.output
    assert "500.00 USD/month" in done.output
    assert "allowed instead: the same on `llama-3.3-70b-versatile`, `llama-3.1-8b-instant`" in done.output
    allowed = run("explain", *ASK, "--model", "llama-3.1-8b-instant", "--stream")
    assert allowed.exit_code == 0
    assert "permit chatbot-models: decides" in allowed.output
    found = document("explain", *ASK, "--model", "llama-3.1-8b-instant")
    assert (found["effect"], found["policies"][0]["part"], found["instead"]) == ("allow", "decides", [])


def test_an_explanation_looks_at_the_live_quotas(tmp_path: Path) -> None:
    with opened(tmp_path) as place:
        secret = place.issue("batch-processor")
        for _ in range(7):
            place.engine.pdp.decide(place.request(secret))
    config = ("--config", tmp_path / "authz.yaml", "--principal", 'Key::"batch-processor"', "--at", "2026-11-30T00:00:01Z")
    found = document("explain", *config, "--model", "llama-3.1-8b-instant")
    used = {quota["state"]["quota"]: quota["state"]["used"] for quota in found["quotas"]}
    assert used["batch-processor-requests"] == 7
    assert document("explain", *config, "--model", "llama-3.1-8b-instant", "--as", "ana") == found
    refused = run("explain", *config, "--model", "llama-3.1-8b-instant", "--as", "dev").exception
    assert isinstance(refused, NotPermitted)
    assert str(refused) == 'User::"dev" may not `usage.read` on Key::"batch-processor"'


def test_a_quota_on_trial_is_shown_as_one(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "quotas.yaml", "limit: 60/minute", "limit: 60/minute\n    mode: shadow")
    done = run("explain", "--bundle", folder, "--principal", "batch-processor", "--model", "llama-3.1-8b-instant")
    assert (done.exit_code, "batch-processor-requests (shadow)" in done.output) == (0, True)


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--model", "x"), "expected `--principal` and `--model`"),
        (("--principal", "nobody", "--model", "x"), 'Key::"nobody" is no key of the directory'),
        (("--principal", 'User::"nobody"', "--model", "x"), 'User::"nobody" is no user of the directory'),
        (("--principal", 'User::"dev"', "--model", "x"), 'User::"dev" acts in one of their teams, expected `chatbot`'),
        (("--principal", "chatbot-prod", "--model", "x", "--at", "2026-11-30"), "expected a time with an offset"),
        (("--config", "authz.yaml", "--principal", "chatbot-prod", "--model", "x"), "not both"),
    ],
)
def test_what_cannot_be_explained_is_exit_2(arguments: tuple[str, ...], problem: str) -> None:
    done = run("explain", "--bundle", REFERENCE, *arguments)
    assert done.exit_code == 2
    assert problem in done.output


def test_without_settings_it_says_what_to_give(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = run("explain", "--principal", "chatbot-prod", "--model", "llama-3.1-8b-instant")
    assert (done.exit_code, "there is no `authz.yaml` here" in done.output) == (2, True)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traffic.record(tmp_path_factory.mktemp("records"), 300)


def test_a_recorded_decision_is_explained(records: Path) -> None:
    lines = [json.loads(line) for line in records.read_text().splitlines()]
    denied = next(line for line in lines if line.get("reason") == "model_not_available")
    done = run("explain", "--bundle", REFERENCE, "--record", records, "--id", denied["decision_id"][:12])
    assert done.exit_code == 1
    assert denied["message"] in " ".join(done.output.split())
    nobody = next(line for line in lines if line.get("reason") == "invalid_api_key")
    done = run("explain", "--bundle", REFERENCE, "--record", records, "--id", nobody["decision_id"])
    assert (done.exit_code, "before it was known who asks" in done.output) == (2, True)
    assert run("explain", "--bundle", REFERENCE, "--record", records, "--id", "none").exit_code == 2


def test_a_replay_reports_what_would_change(tmp_path: Path, records: Path) -> None:
    done = run("replay", records, "--bundle", REFERENCE)
    assert done.exit_code == 0
    assert "300 decisions in the records" in done.output
    assert " 0 would change" in done.output
    folder = copy(tmp_path)
    edit(folder, "directory.yaml", "research-lab: {", "research-lab: {disabled: true, ")
    done = run("replay", records, "--bundle", folder)
    assert done.exit_code == 1
    assert "invalid_api_key" in done.output
    found = document("replay", records, "--bundle", folder)
    assert {change["team"] for change in found["changes"]} == {"research"}
    assert found["changed"] == sum(change["decisions"] for change in found["changes"]) > 0
    assert all(change["examples"] for change in found["changes"])


def test_the_settings_of_a_place_are_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay_out(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert run("test").exit_code == 0
    assert run("explain", "--principal", "chatbot-prod", "--model", "llama-3.1-8b-instant").exit_code == 0


def test_a_review_is_check_diff_and_replay_in_one(tmp_path: Path, records: Path) -> None:
    done = run("review", REFERENCE, REFERENCE, "--records", records)
    assert (done.exit_code, "no differences" in done.output, " 0 would change" in done.output) == (0, True, True)
    folder = copy(tmp_path)
    edit(folder, "directory.yaml", "research-lab: {", "research-lab: {disabled: true, ")
    (folder / "tests" / "models.yaml").unlink()
    (folder / "tests" / "limits.yaml").unlink()
    done = run("review", REFERENCE, folder, "--records", records)
    assert done.exit_code == 1
    assert "LESS PERMISSIVE" in done.output
    assert "invalid_api_key" in done.output
    found = document("review", REFERENCE, folder, "--records", records)
    assert {change["team"] for change in found["replay"]["changes"]} == {"research"}
    assert found["diff"]["less_permissive"]
    assert found["check"]["bundle"].startswith("sha256:")
    edit(folder, "chatbot.cedar", "permit (", "permit ((")
    broken = run("review", REFERENCE, folder)
    assert (broken.exit_code, "chatbot.cedar:4:9" in broken.output) == (1, True)
