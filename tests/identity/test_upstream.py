"""Upstream keys: whose requests go with which, taken over and passed over without a restart, and never shown (A60)."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from authz.errors import ConfigError
from authz.identity.upstream import REFUSED_FOR_NS, Upstreams, UpstreamSource
from authz.model import Outcome, Receipt
from authz.settings import read_settings
from tests.place import lay_out, opened_at

NOW_NS = 10**18
CANARY = "gsk_canary_"


class Files:
    """Key files of a test, each write another state of the file even within one tick of its clock."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._writes = folder, 0

    def write(self, name: str, key: str) -> None:
        path = self.folder / name
        path.write_text(key + "\n")
        self._writes += 1
        os.utime(path, ns=(self._writes, self._writes))

    def source(self, name: str, *teams: str) -> UpstreamSource:
        return UpstreamSource(name, key_file=str(self.folder / name), teams=teams)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def revealed(upstreams: Upstreams, team: str = "a", now_ns: int = NOW_NS) -> str:
    found = upstreams.find(team, now_ns)
    return found.secret.reveal().removeprefix(CANARY) if found is not None else ""


def refuse(upstreams: Upstreams, team: str = "a", now_ns: int = NOW_NS) -> None:
    found = upstreams.find(team, now_ns)
    assert found is not None
    upstreams.refuse(found.id, now_ns)


def test_a_teams_own_key_comes_first_and_the_shared_one_is_for_everybody_else(files: Files) -> None:
    for name in ("shared", "own", "both"):
        files.write(name, CANARY + name)
    upstreams = Upstreams((files.source("shared"), files.source("own", "a"), files.source("both", "a", "b")), {})
    assert [revealed(upstreams, team) for team in "abc"] == ["own", "both", "shared"]
    refuse(upstreams, "a")
    assert [revealed(upstreams, team) for team in "abc"] == ["both", "both", "shared"]
    refuse(upstreams, "a")
    assert [revealed(upstreams, team) for team in "abc"] == ["shared", "shared", "shared"]


def test_no_team_gets_another_teams_key(files: Files) -> None:
    files.write("own", CANARY + "own")
    upstreams = Upstreams((files.source("own", "a"),), {})
    assert [revealed(upstreams, team) for team in ("a", "b", "")] == ["own", "", ""]


def test_a_refused_key_is_passed_over_told_once_and_comes_back(files: Files, caplog: pytest.LogCaptureFixture) -> None:
    told: list[str] = []
    for name in ("one", "two"):
        files.write(name, CANARY + name)
    upstreams = Upstreams((files.source("one"), files.source("two")), {}, refused=told.append)
    first = upstreams.find("a", NOW_NS)
    assert first is not None
    for _ in range(3):
        upstreams.refuse(first.id, NOW_NS)
    assert revealed(upstreams) == "two"
    assert told == ["one"]
    assert [record.alert for record in caplog.records] == ["upstream_key_refused"]  # type: ignore[attr-defined]
    assert revealed(upstreams, now_ns=NOW_NS + REFUSED_FOR_NS - 1) == "two"
    assert revealed(upstreams, now_ns=NOW_NS + REFUSED_FOR_NS) == "one"
    upstreams.refuse("nobody/1", NOW_NS)
    upstreams.refuse("", NOW_NS)
    assert told == ["one"]


def test_where_all_are_refused_the_one_whose_time_is_up_first_is_tried(files: Files) -> None:
    for name in ("one", "two"):
        files.write(name, CANARY + name)
    upstreams = Upstreams((files.source("one"), files.source("two")), {})
    refuse(upstreams)
    refuse(upstreams, now_ns=NOW_NS + 1)
    assert revealed(upstreams, now_ns=NOW_NS + 2) == "one"


def test_a_new_key_in_the_file_takes_over_at_once_and_a_late_refusal_of_the_old_one_does_not_hurt_it(files: Files) -> None:
    files.write("one", CANARY + "old")
    files.write("two", CANARY + "two")
    upstreams = Upstreams((files.source("one"), files.source("two")), {})
    old = upstreams.find("a", NOW_NS)
    assert old is not None
    refuse(upstreams)
    files.write("one", CANARY + "new")
    assert revealed(upstreams) == "two"
    upstreams.refresh()
    assert revealed(upstreams) == "new"
    upstreams.refuse(old.id, NOW_NS)
    assert revealed(upstreams) == "new"
    assert old.secret.reveal() == CANARY + "old", "what is under way keeps its key"


def test_a_touched_file_with_the_same_key_is_the_same_key(files: Files) -> None:
    files.write("one", CANARY + "same")
    upstreams = Upstreams((files.source("one"),), {})
    before = upstreams.find("a", NOW_NS)
    files.write("one", CANARY + "same")
    upstreams.refresh()
    assert upstreams.find("a", NOW_NS) == before


@pytest.mark.parametrize("bad", ["", f"{CANARY}a b", f"{CANARY}\u00e9", f"{CANARY}a\n{CANARY}b", "x" * 5000, None])
def test_a_file_that_is_no_key_leaves_the_last_good_one_and_is_told_of_once(
    files: Files, bad: str | None, caplog: pytest.LogCaptureFixture
) -> None:
    files.write("one", CANARY + "good")
    upstreams = Upstreams((files.source("one"),), {})
    if bad is None:
        (files.folder / "one").unlink()
    else:
        files.write("one", bad)
    for _ in range(3):
        upstreams.refresh()
    assert revealed(upstreams) == "good"
    assert [record.alert for record in caplog.records] == ["upstream_key_unreadable"]  # type: ignore[attr-defined]
    assert CANARY not in str([vars(record) for record in caplog.records])
    files.write("one", CANARY + "better")
    upstreams.refresh()
    assert revealed(upstreams) == "better"
    if bad is None:
        (files.folder / "one").unlink()
    else:
        files.write("one", bad)
    with pytest.raises(ConfigError) as caught:
        Upstreams((files.source("one"),), {})
    assert CANARY not in str(caught.value)


def test_from_the_environment_and_where_there_is_none(caplog: pytest.LogCaptureFixture) -> None:
    sources = (UpstreamSource("one", key_env="ONE"), UpstreamSource("two", key_env="TWO"))
    assert revealed(Upstreams(sources, {"TWO": f" {CANARY}two\n"})) == "two"
    assert [record.getMessage() for record in caplog.records] == ["an upstream key is not set"]
    assert revealed(Upstreams(sources, {})) == ""
    assert caplog.records[-1].getMessage() == "there is no upstream key: every request is denied"


def test_a_401_of_groqs_moves_a_team_on_to_the_next_key(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = Files(tmp_path)
    for name in ("first", "second"):
        files.write(name, CANARY + name)
    config = lay_out(tmp_path)
    config.write_text(
        config.read_text()
        + "upstream: {keys: [{name: one, key_file: first, teams: [chatbot]}, {name: two, key_file: second}]}\n"
    )
    with opened_at(config) as place, caplog.at_level(logging.DEBUG):
        secret = place.issue("chatbot-prod")

        def decided() -> tuple[str, str]:
            allow = place.engine.pdp.decide(place.request(secret))
            outcome, status = (Outcome.UPSTREAM_ERROR, 401) if allow.upstream.startswith("one/1") else (Outcome.ANSWERED, 200)  # type: ignore[union-attr]
            place.engine.settle(Receipt(allow.reservation_id, "", outcome, status, None, allow.upstream))  # type: ignore[union-attr]
            shown = f"{allow!r}{place.engine.__dict__}"
            assert CANARY not in shown
            return allow.upstream, allow.upstream_key.reveal()  # type: ignore[union-attr]

        assert [decided() for _ in range(2)] == [("one/1", CANARY + "first"), ("two/1", CANARY + "second")]
        files.write("first", CANARY + "third")
        place.engine.tick()
        assert decided() == ("one/2", CANARY + "third")
        other = place.engine.pdp.decide(place.request(place.issue("research-lab"), "llama-3.3-70b-versatile"))
        assert other.upstream == "two/1"  # type: ignore[union-attr]
    told = str([vars(record) for record in caplog.records]) + (tmp_path / "decisions.jsonl").read_text()
    assert "upstream_key_refused" in told
    assert CANARY not in told
    for path in tmp_path.glob("authz.db*"):
        assert CANARY.encode() not in path.read_bytes()


@pytest.mark.parametrize("status", [200, 400, 403, 429, 500])
def test_only_a_401_that_came_from_upstream_counts(tmp_path: Path, status: int) -> None:
    with opened_at(lay_out(tmp_path)) as place:
        secret = place.issue("chatbot-prod")
        allow = place.engine.pdp.decide(place.request(secret))
        place.engine.settle(Receipt(allow.reservation_id, "", Outcome.UPSTREAM_ERROR, status, None, allow.upstream))  # type: ignore[union-attr]
        for outcome in (Outcome.NOT_SENT, Outcome.ANSWERED, Outcome.ABANDONED):
            place.engine.settle(Receipt(allow.reservation_id, "", outcome, 401, None, allow.upstream))  # type: ignore[union-attr]
        assert not any(slot.refused_until_ns for slot in place.engine._upstreams._slots)


@pytest.mark.parametrize(
    ("upstream", "problem"),
    [
        ("{keys: []}", "expected exactly one of `key_env` and `key_file`, or `keys`"),
        ("{key_env: A, keys: [{name: a, key_env: A}]}", "expected exactly one of `key_env` and `key_file`, or `keys`"),
        ("{keys: [{name: a}]}", "upstream.keys[0]: expected exactly one of `key_env` and `key_file`"),
        ("{keys: [{name: a, key_env: A}, {name: a, key_env: B}]}", "upstream.keys[1]: `a` stands twice"),
        ("{keys: [{name: 'a b', key_env: A}]}", "upstream.keys[0].name"),
    ],
)
def test_settings_that_name_no_key_or_two_are_refused(tmp_path: Path, upstream: str, problem: str) -> None:
    path = tmp_path / "authz.yaml"
    path.write_text(f"upstream: {upstream}\n")
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    assert problem in str(caught.value)
