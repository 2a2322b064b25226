"""`authz check` as its user sees it."""

from __future__ import annotations

import json
from pathlib import Path

import click
from click.testing import CliRunner, Result

from authz.cli import cli
from authz.cli.check import shown
from authz.review.findings import Finding, Severity
from tests.review.small import bundle


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["check", *arguments])


def test_a_clean_bundle_is_one_line_and_0(tmp_path: Path) -> None:
    done = run(str(bundle(tmp_path)))
    assert (done.exit_code, done.output) == (0, "2 policies, 2 cases passed\n")


def test_a_finding_has_its_place_its_line_and_a_caret(tmp_path: Path) -> None:
    more = '\n@id("x") forbid (principal, action == Action::"chat", resource == Model::"old");'
    folder = bundle(tmp_path, more=more)
    done = run(str(folder))
    message = 'Model::"old" is decommissioned: a request for it is refused before any policy'
    assert done.exit_code == 1
    assert done.output.splitlines() == [
        f"{folder}/more.cedar:2:1: note[undecided]: no case shows what `x` decides",
        f"    {more[1:]}",
        "    ^",
        f"{folder}/more.cedar:2:67: warning[never-matches]: {message}",
        f"    {more[1:]}",
        f"    {' ' * 66}^",
        "3 policies, 2 cases passed, 1 warning, 1 note",
    ]


def test_notes_alone_are_clean(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    (folder / "tests/a.yaml").unlink()
    done = run(str(folder))
    assert (done.exit_code, done.output.splitlines()[-1]) == (0, "2 policies, 0 cases passed, 1 note")


def test_a_failed_case_is_1_and_counted(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    text = (folder / "tests/a.yaml").read_text()
    (folder / "tests/a.yaml").write_text(text.replace("[owner]}", "[app-models]}"))
    done = run(str(folder))
    assert done.exit_code == 1
    assert "error[case-failed]: case `ada`: expected the policies `app-models`, got `owner`" in done.output
    assert done.output.splitlines()[-1] == "2 policies, 1 of 2 cases passed, 1 error"


def test_a_bundle_that_is_not_one_is_1_and_no_folder_2(tmp_path: Path) -> None:
    folder = bundle(tmp_path, cedar=("permit (", "permit (("))
    done = run(str(folder))
    assert (done.exit_code, done.output.splitlines()[-1]) == (1, "1 error")
    assert "error[invalid-bundle]: " in done.output
    assert "^" in done.output


def test_json_has_all_of_it(tmp_path: Path) -> None:
    done = run(str(bundle(tmp_path, directory=("  app: {}", "  app: {}\n  spare: {}"))), "--json")
    found = json.loads(done.output)
    assert done.exit_code == 1
    assert (found["policies"], found["cases"], found["failed"]) == (2, 2, 0)
    (finding,) = found["findings"]
    assert (finding["severity"], finding["rule"], finding["line"]) == ("warning", "unused-entity", 6)


def test_a_files_text_does_not_reach_the_terminal_as_it_is() -> None:
    text = shown(Finding(Severity.ERROR, "r", "bad \x1b[2J", "a\n.cedar", 1, 4, "\t宽x\x07y"))
    head, excerpt, caret = click.unstyle(text).splitlines()
    assert head == "a .cedar:1:4: error[r]: bad �[2J"
    assert (excerpt, caret) == ("     宽x�y", "        ^")
    assert "\x1b[2J" not in text
    assert "\x07" not in text
