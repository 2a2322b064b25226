"""A bundle is proved in a child process: a parser that crashes or hangs there is an error message here."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from authz.bundle import load_bundle
from authz.errors import ConfigError
from authz.review import gate
from tests.bundle.folders import REFERENCE, copy, edit


def interpreter(folder: Path, script: str) -> str:
    file = folder / "python"
    file.write_text(f"#!/bin/sh\n{script}\n")
    file.chmod(0o755)
    return str(file)


def test_a_good_bundle_passes() -> None:
    assert gate.admit(REFERENCE).digest == load_bundle(REFERENCE).digest


def test_an_error_comes_out_as_it_is_with_its_place(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "chatbot.cedar", "permit (", "permit ((")
    with pytest.raises(ConfigError) as here:
        load_bundle(folder)
    with pytest.raises(ConfigError) as there:
        gate.admit(folder)
    assert str(there.value) == str(here.value)
    assert (there.value.line, there.value.column) == (4, 9)


def test_a_bundle_that_fails_its_own_case_is_refused_and_can_still_be_looked_at(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "tests/limits.yaml", "expect: {effect: allow}", "expect: {effect: deny}")
    with pytest.raises(ConfigError, match=r"case `request 500 of the minute is allowed`: expected deny, got allow"):
        gate.admit(folder)
    assert gate.load(folder).cases


@pytest.mark.parametrize(
    ("script", "problem"),
    [
        ("kill -SEGV $$", "reading it ended the process: SIGSEGV"),
        ("exit 3", "reading it failed with exit code 3"),
        ("echo nonsense", "reading it failed with exit code 0"),
    ],
)
def test_a_child_that_dies_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, problem: str) -> None:
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, script))
    with pytest.raises(ConfigError, match=problem):
        gate.admit(REFERENCE)


def test_a_child_that_hangs_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", interpreter(tmp_path, "exec sleep 600"))
    monkeypatch.setattr(gate, "_TIMEOUT_S", 0.2)
    with pytest.raises(ConfigError, match=r"not read within 0.2 seconds"):
        gate.admit(REFERENCE)


def test_what_changed_between_the_child_and_here_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate, "prove", lambda folder, tests: "sha256:other")
    with pytest.raises(ConfigError, match="changed while it was read"):
        gate.admit(REFERENCE)
