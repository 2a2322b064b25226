"""`authz schema`: the bundle's own text, or what policies can speak of as data."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from authz.cli import cli
from authz.policy.actions import ACTIONS, PRINCIPALS
from authz.policy.context import ALL
from tests.bundle.folders import REFERENCE, copy, edit


def run(*arguments: str) -> Result:
    return CliRunner().invoke(cli, ["schema", *arguments])


def test_it_is_the_text_of_the_bundle() -> None:
    done = run(str(REFERENCE))
    assert (done.exit_code, done.output) == (0, (REFERENCE / "schema.cedarschema").read_text(encoding="utf-8"))


def test_a_broken_policy_does_not_keep_an_editor_from_its_schema(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "chatbot.cedar").write_text("permit (")
    assert run(str(folder)).exit_code == 0


def test_json_has_every_action_and_every_field_with_its_type() -> None:
    found = json.loads(run(str(REFERENCE), "--json").output)
    assert set(found["actions"]) == set(ACTIONS)
    assert found["actions"]["key.create"] == {
        "groups": ["administer"],
        "principals": list(PRINCIPALS),
        "resources": ["Team"],
        "context": "admin",
    }
    inference = found["contexts"]["inference"]
    assert {kind.value: {name.rstrip("?") for name in found["contexts"][kind.value]} for kind in ALL} == {
        kind.value: set(names) for kind, names in ALL.items()
    }
    assert (inference["source_ip?"], inference["stream"], inference["endpoint"]) == ("ipaddr", "Bool", "String")
    assert inference["spend"]["org"] == {"percent": "Long"}
    assert set(inference["time"]) == {"epoch_s", "date", "hour", "minute", "weekday"}


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("entity Team in [Org]", "entity Team in [Orgg]", "failed to resolve type: Orgg"),
        ("  tools: Bool,", "  tool: Bool,", "action `chat` by a Key on a Model does not fit"),
    ],
)
def test_a_schema_that_is_wrong_or_does_not_fit_is_not_printed(tmp_path: Path, old: str, new: str, problem: str) -> None:
    folder = copy(tmp_path)
    edit(folder, "schema.cedarschema", old, new)
    done = run(str(folder))
    assert problem in str(done.exception)
    assert done.output == ""


def test_no_schema(tmp_path: Path) -> None:
    assert "cannot be read" in str(run(str(tmp_path)).exception)
