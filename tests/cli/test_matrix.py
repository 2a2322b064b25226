"""`authz matrix` as a user runs it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from authz.bundle import load_bundle
from authz.cli import cli
from authz.review import gate
from tests.bundle.folders import REFERENCE, copy, edit

KIOSK = REFERENCE.parent / "docs" / "policies" / "bounded-output-for-a-key"


@pytest.fixture(autouse=True)
def _in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "load", load_bundle)  # the child process has tests of its own, and takes its time


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["matrix", *map(str, arguments)], catch_exceptions=False)


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in line.strip("│").split("│")]


def test_a_table_with_few_columns() -> None:
    done = run(REFERENCE)
    assert done.exit_code == 0
    (chatbot,) = [line for line in done.output.splitlines() if 'Key::"chatbot-prod"' in line]
    assert cells(chatbot) == ['Key::"chatbot-prod"', "·", "✓", "✓"]
    (nobody,) = [line for line in done.output.splitlines() if line.startswith("nobody: ")]
    assert "transcribe, translate: whisper-large-v3" in nobody


def test_a_condition_has_a_note() -> None:
    output = run(KIOSK, "--principal", "kiosk").output
    assert "◐ 1" in output
    assert "  1  input_tokens: 4096 allowed, 4097 denied; max_output_tokens: 512 allowed, 513 denied  (allowed by" in output


def test_csv_has_words_and_every_column() -> None:
    rows = list(csv.reader(run(KIOSK, "--csv").output.splitlines()))
    assert rows[0][:4] == ["principal", "team", "principals", "chat llama-3.1-8b-instant"]
    assert rows[1:] == [
        ['Key::"kiosk"', "stores", "1", "conditional", "conditional", "conditional"],
        ['Key::"stores-reports"', "stores", "1", "allow", "allow", "allow"],
    ]


def test_json_has_the_examples() -> None:
    found = json.loads(run(KIOSK, "--json", "--principal", "kiosk", "--action", "respond").output)
    (row,) = found["rows"]
    cell = row["cells"]["respond"]["openai/gpt-oss-20b"]
    assert cell["outcome"] == "conditional"
    assert cell["denied_by"] == ["kiosk-output-is-bounded"]
    assert cell["turns"][1] == {"fact": "max_output_tokens", "allowed": 512, "denied": 513}
    assert cell["allows_at"] == {"input_tokens": 1, "max_output_tokens": 1}


def test_administration_says_on_what() -> None:
    output = run(REFERENCE, "--admin", "--principal", "dev", "--principal", "olivia", "--team", "chatbot").output
    dev, _, owner = [line for line in output.splitlines() if line.startswith("│")][:3]
    assert cells(dev)[1:3] == ["✓ own team", "✓ own team"]
    assert cells(owner)[1:] == [*["✓ everything"] * 5, "✓ organisation"]


def test_the_difference_to_another_folder(tmp_path: Path) -> None:
    assert run(REFERENCE, "--diff", REFERENCE).exit_code == 0
    new = copy(tmp_path)
    edit(new, "chatbot.cedar", '"llama-3.1-8b-instant"]', '"openai/gpt-oss-20b"]')
    done = run(new, "--diff", REFERENCE, "--team", "chatbot", "--principal", "chatbot-prod")
    assert done.exit_code == 1
    changed = [cells(line) for line in done.output.splitlines() if line.startswith("│")]
    assert [row[1:] for row in changed] == [
        ["chat", "openai/gpt-oss-20b", "deny", "allow", "chatbot-models"],
        ["respond", "openai/gpt-oss-20b", "deny", "allow", "chatbot-models"],
        ["chat", "llama-3.1-8b-instant", "allow", "deny", "no longer chatbot-models"],
    ]
    rows = list(csv.DictReader(run(new, "--diff", REFERENCE, "--csv").output.splitlines()))
    assert {row["direction"] for row in rows} == {"more permissive", "less permissive"}
    assert len(json.loads(run(new, "--diff", REFERENCE, "--json").output)) == len(rows) == 9


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--team", "nobody"), "`nobody` is not in the bundle"),
        (("--model", "gpt-4o"), "`gpt-4o` is not in the bundle"),
        (("--action", "chatt"), "`chatt` is not in the bundle"),
        (("--principal", "nobody"), "`nobody` is not in the bundle"),
        (("--csv", "--json"), "expected one of them"),
    ],
)
def test_what_cannot_be_answered_is_2(arguments: tuple[str, ...], problem: str) -> None:
    done = run(REFERENCE, *arguments)
    assert done.exit_code == 2
    assert problem in done.output
