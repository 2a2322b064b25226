"""`authz publish`: who may, what is refused, what is on record, and that a running engine takes it up."""

from __future__ import annotations

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from authz.bundle import load_bundle
from authz.cli import cli
from authz.errors import AuthzError
from tests.bundle.folders import edit
from tests.place import lay_out, opened_at


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return lay_out(tmp_path)


@pytest.fixture
def new(config: Path) -> Path:
    """A good change: one user more."""
    folder = config.parent / "new"
    shutil.copytree(config.parent / "policies", folder)
    edit(folder, "directory.yaml", "users:\n", "users:\n  zoe: {teams: [chatbot], roles: [reader]}\n")
    return folder


def publish(config: Path, new: Path, *arguments: str) -> str:
    done = CliRunner().invoke(
        cli, ["publish", str(new), "--config", str(config), "--why", "ticket 7", *arguments], catch_exceptions=False
    )
    assert done.exit_code == 0, done.output
    return done.output


def refused(config: Path, new: Path, *arguments: str) -> str:
    before = snapshot(config)
    with pytest.raises(AuthzError) as caught:
        publish(config, new, *arguments)
    assert snapshot(config) == before
    return str(caught.value)


def snapshot(config: Path) -> tuple[str, list[dict[str, Any]], list[str]]:
    beside = sorted(path.name for path in config.parent.iterdir() if path.name.startswith("policies"))
    return load_bundle(config.parent / "policies").digest, entries(config), beside


def entries(config: Path) -> list[dict[str, Any]]:
    done = CliRunner().invoke(cli, ["audit", "list", "--json", "--config", str(config)], catch_exceptions=False)
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_what_is_published_is_in_the_folder_and_on_record_with_who_why_and_what_differs(config: Path, new: Path) -> None:
    place = config.parent / "policies"
    was, will = load_bundle(place).digest, load_bundle(new).digest
    assert publish(config, new) == f"published {will}\n"
    assert load_bundle(place).digest == will
    assert load_bundle(config.parent / "policies.before").digest == was
    (entry,) = entries(config)
    assert (entry["what"], entry["who"], entry["why"]) == ("policy.publish", 'User::"olivia"', "ticket 7")
    assert (entry["before"]["bundle"], entry["after"]["bundle"]) == (was, will)
    assert entry["before"]['User::"zoe"'] is None
    assert entry["after"]['User::"zoe"'] == ["team chatbot", "role reader"]
    assert publish(config, new) == "is in force already\n"
    assert len(entries(config)) == 1
    verified = CliRunner().invoke(cli, ["audit", "verify", "--config", str(config)])
    assert "1 entries hold" in verified.output


def test_a_running_engine_takes_it_up_and_does_not_tell_of_it_again(config: Path, new: Path) -> None:
    with opened_at(config) as place:
        place.engine.tick()
        publish(config, new)
        assert place.engine.source.refresh()
        place.engine.tick()
        assert place.engine.bundle.digest == load_bundle(new).digest
    assert [entry["who"] for entry in entries(config)] == ["", 'User::"olivia"']


def test_one_goes_back_to_what_was_before(config: Path, new: Path) -> None:
    was = load_bundle(config.parent / "policies").digest
    publish(config, new)
    publish(config, config.parent / "policies.before")
    assert load_bundle(config.parent / "policies").digest == was
    assert load_bundle(config.parent / "policies.before").digest == load_bundle(new).digest
    assert [entry["after"]["bundle"] for entry in entries(config)][-1] == was


@pytest.mark.parametrize("who", ["dev", "rhea"])
def test_only_who_is_permitted_publishes(config: Path, new: Path, who: str) -> None:
    assert refused(config, new, "--as", who) == f'User::"{who}" may not `policy.publish` on Org::"acme"'


def test_the_policies_in_force_decide_and_not_those_that_are_published(config: Path, new: Path) -> None:
    edit(new, "directory.yaml", "roles: [developer]}", "roles: [developer, owner]}")
    assert "may not `policy.publish`" in refused(config, new, "--as", "dev")


@pytest.mark.parametrize(
    ("name", "old", "text", "problem"),
    [
        ("quotas.yaml", "limit: 500/minute", "limit: many", "quotas.yaml"),
        ("chatbot.cedar", 'Model::"llama-3.3-70b-versatile", ', "", "the chatbot answers on the large model"),
        ("chatbot.cedar", "permit (", "permit ((((", "chatbot.cedar"),
    ],
)
def test_what_is_not_good_changes_nothing(config: Path, new: Path, name: str, old: str, text: str, problem: str) -> None:
    edit(new, name, old, text)
    assert problem in refused(config, new)


FORBID = '@id("no-tools")\nforbid (principal, action == Action::"chat", resource) when { context.tools };\n'


def test_a_forbid_is_lost_only_on_purpose(config: Path, new: Path) -> None:
    with (config.parent / "policies" / "chatbot.cedar").open("a") as file:
        file.write(FORBID)
    assert "the forbid `no-tools` is missing" in refused(config, new)
    (new / "retired.yaml").write_text("forbids: {no-tools: they have learned to use them}\n")
    publish(config, new)


def test_a_link_is_turned_to_a_new_folder(config: Path, new: Path) -> None:
    place, first = config.parent / "policies", config.parent / "policies.first"
    place.rename(first)
    place.symlink_to("policies.first")
    will = load_bundle(new).digest
    publish(config, new)
    assert place.is_symlink()
    assert place.resolve().name == f"policies.{will.removeprefix('sha256:')[:12]}"
    assert load_bundle(place).digest == will
    publish(config, first)
    publish(config, place.with_name(f"policies.{will.removeprefix('sha256:')[:12]}"))
    assert load_bundle(place).digest == will


def test_only_one_publishes_at_a_time(config: Path, new: Path) -> None:
    (config.parent / "policies.next").mkdir()
    assert "another publishes at this moment" in refused(config, new)


def test_what_cannot_be_put_in_its_place_is_taken_back_on_record(
    config: Path, new: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename, was = Path.rename, load_bundle(config.parent / "policies").digest

    def full(self: Path, target: Path) -> Path:
        if self.name == "policies.next":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(AuthzError, match="cannot be replaced: no space left on device"):
        publish(config, new)
    assert load_bundle(config.parent / "policies").digest == was
    assert not (config.parent / "policies.next").exists()
    assert [(entry["after"]["bundle"] == was, entry["why"]) for entry in entries(config)] == [
        (False, "ticket 7"),
        (True, "it could not be put in its place"),
    ]


def test_without_a_reason_nothing_is_published(config: Path, new: Path) -> None:
    done = CliRunner().invoke(cli, ["publish", str(new), "--config", str(config), "--why", " "])
    assert done.exit_code == 2
    assert "expected words for the record" in done.output
