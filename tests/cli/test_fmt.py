"""`authz fmt`: layout changes, what is said does not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.cli import cli
from authz.errors import ConfigError
from authz.policy import CedarText, cedar
from authz.policy.formatting import formatted
from tests.bundle.folders import REFERENCE, copy

UGLY = """// before
@id("x")   permit(principal,   // who
 action,resource)when{context.tools && // why
 principal in Team::"a // no comment"};// behind
// after"""


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["fmt", *arguments])


def ugly(folder: Path) -> Path:
    file = folder / "ugly.cedar"
    file.write_text(UGLY, encoding="utf-8")
    return file


def test_json_names_the_files(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    run(str(folder))
    file = ugly(folder)
    for arguments, code, written in ((("--check",), 1, False), ((), 0, True)):
        done = run(str(folder), "--json", *arguments)
        assert (done.exit_code, json.loads(done.output)) == (code, {"changed": [str(file)], "written": written})
    assert json.loads(run(str(folder), "--json").output)["changed"] == []


def test_files_are_written_in_place_and_only_where_they_change(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    run(str(folder))
    before = {file: (file.stat().st_ino, file.read_text()) for file in folder.iterdir() if file.is_file()}
    file = ugly(folder)
    file.chmod(0o640)
    done = run(str(folder))
    assert (done.exit_code, done.output) == (0, f"formatted {file}\n")
    assert file.stat().st_mode & 0o777 == 0o640
    text = file.read_text(encoding="utf-8")
    assert text.splitlines()[1] == '@id("x")'
    assert text.endswith("// after\n")
    for comment in ("// before", "// who", "// why", "// behind", "// after"):
        assert text.count(comment) == 1
    assert cedar.syntax(text) == cedar.syntax(UGLY)
    assert {path: (path.stat().st_ino, path.read_text()) for path in before} == before
    assert {path.name for path in folder.iterdir()} == {path.name for path in before} | {"tests", "ugly.cedar"}
    assert run(str(folder)).output == ""


def test_check_writes_nothing_and_lists(tmp_path: Path) -> None:
    file = ugly(tmp_path)
    done = run(str(tmp_path), "--check")
    assert (done.exit_code, done.output) == (1, f"would format {file}\n")
    assert file.read_text(encoding="utf-8") == UGLY
    run(str(tmp_path))
    assert run(str(tmp_path), "--check").exit_code == 0


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    target = ugly(tmp_path).rename(tmp_path / "target")
    (tmp_path / "a.cedar").symlink_to(target)
    assert run(str(tmp_path)).exit_code == 0
    assert (tmp_path / "a.cedar").is_symlink()
    assert target.read_text(encoding="utf-8") != UGLY


@pytest.mark.parametrize(
    ("text", "problem", "line"),
    [
        ('@id("x")\npermit ((principal, action, resource));', "unexpected token `(`", 2),
        ("permit (principal, action, resource);", "a policy without an id", 1),
        ('@id("x")\npermit (principal, action, resource) when { ' + "(" * 50_000 + "true" + ")" * 50_000 + " };", "nested", 2),
        ('@id("x") permit (principal, action, resource) when { "a };', "this string has no end", 1),
    ],
)
def test_what_does_not_parse_is_refused_with_its_place_and_nothing_is_written(
    tmp_path: Path, text: str, problem: str, line: int
) -> None:
    first, bad = ugly(tmp_path), tmp_path / "z.cedar"
    bad.write_text(text)
    done = run(str(tmp_path))
    assert isinstance(done.exception, ConfigError)  # `main` makes it exit 2
    assert (done.exception.file, done.exception.line) == (str(bad), line)
    assert problem in done.exception.problem
    assert first.read_text(encoding="utf-8") == UGLY
    assert bad.read_text() == text


@pytest.mark.parametrize(
    ("spoiled", "problem"),
    [(UGLY.replace("// why", ""), "has lost a comment"), (UGLY.replace("tools", "stream"), "has changed the policies")],
)
def test_a_formatter_that_changes_what_is_said_is_not_obeyed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoiled: str, problem: str
) -> None:
    monkeypatch.setattr(cedar, "formatted", lambda *_: spoiled)
    file = ugly(tmp_path)
    done = run(str(tmp_path))
    assert problem in str(done.exception)
    assert file.read_text(encoding="utf-8") == UGLY


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    assert "no such folder" in str(run(str(tmp_path / "nowhere")).exception)


COMMENTS = st.lists(st.sampled_from(["// a", "//", '// é " }', "//// ;"]), max_size=3).map(
    lambda found: "".join(f"{comment}\n" for comment in found)
)


@settings(max_examples=60, deadline=None)
@given(st.lists(COMMENTS, min_size=6, max_size=6))
def test_comments_anywhere_stay_and_the_second_time_changes_nothing(comments: list[str]) -> None:
    parts = ['@id("x")', "permit (principal,", "action, resource)", "when { context.tools ||", "context.stream }", ";"]
    text = "".join(f"{part} {comment}\n" for part, comment in zip(parts, comments, strict=True))
    once = formatted(CedarText("a", text))
    assert formatted(CedarText("a", once)) == once


@pytest.mark.parametrize("text", ["", "// only\n", "\n\n// only"])
def test_a_file_without_policies(text: str) -> None:
    assert formatted(CedarText("a", text)) == ("// only\n" if text else "")


@pytest.mark.parametrize(
    "file", sorted((REFERENCE.parent / "docs/policies").glob("*/*.cedar")), ids=lambda file: file.parent.name
)
def test_the_worked_examples_are_formatted(file: Path) -> None:
    text = file.read_text(encoding="utf-8")
    assert formatted(CedarText(file.name, text)) == text
