"""A short run in the suite; the long ones are `make fuzz`. Whatever comes in, there is a decision or one declared error."""

from __future__ import annotations

import importlib
import importlib.util
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fuzz import TARGETS, corpora

MUTANTS = {"batch_files": 600, "check_bytes": 300, "bundles": 150, "multipart_bodies": 600}
"""Of slow targets; of the others 2,000."""

RUNS = 2_500
TWICE = ("json_bodies", "access_log")
"""Targets that the suite also runs guided by coverage: one for what clients send, one for what Envoy does."""


def mutants(seeds: tuple[bytes, ...], count: int) -> Iterator[bytes]:
    """The same ones each time: bytes changed, left out, repeated, cut and joined with those of another seed."""
    chance = random.Random(17)
    for _ in range(count):
        made = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 5)):
            at = chance.randrange(len(made) + 1)
            match chance.randrange(5):
                case 0:
                    made[at : at + 1] = bytes([chance.randrange(256)])
                case 1:
                    del made[at : at + chance.randrange(1, 9)]
                case 2:
                    made[at:at] = made[at : at + chance.randrange(1, 40)] * chance.randrange(1, 9)
                case 3:
                    other = chance.choice(seeds)
                    made[at:] = other[chance.randrange(len(other) + 1) :]
                case _:
                    made[at:at] = chance.choice(
                        (b'"', b"\\", b"{", b"]", b"\x00", b"\xff", b"\r\n", b"--", b"9" * 20, b"\xe2\x80\xa8")
                    )
        yield bytes(made[: corpora.MAX_BYTES])


@pytest.mark.parametrize("name", TARGETS)
def test_what_was_found_before_and_what_is_near_it_has_a_declared_outcome(name: str) -> None:
    module = importlib.import_module(f"tests.fuzz.{name}")
    one: Callable[[bytes], str] = module.target()
    known = (*module.SEEDS, *corpora.kept(name))
    outcomes = {one(each) for each in known}
    outcomes |= {one(each) for each in mutants(known, MUTANTS.get(name, 2_000))}
    assert len(outcomes) > 1, "an input that is good and one that is not have two outcomes"


@pytest.mark.skipif(importlib.util.find_spec("atheris") is None, reason="atheris is not made for this platform")
@pytest.mark.parametrize("name", TWICE)
def test_a_run_guided_by_coverage_finds_nothing(name: str, tmp_path: Path) -> None:
    module = importlib.import_module(f"tests.fuzz.{name}")
    for number, seed in enumerate((*module.SEEDS, *corpora.kept(name))):
        (tmp_path / str(number)).write_bytes(seed)
    command = [
        sys.executable,
        "-m",
        "tests.fuzz.run",
        name,
        f"-runs={RUNS}",
        "-seed=17",
        "-max_len=4000",
        f"-artifact_prefix={tmp_path}/x-",
    ]
    done = subprocess.run([*command, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"Done {RUNS} runs" in done.stderr


def test_what_is_kept_is_small_and_known() -> None:
    assert {path.stem for path in corpora.FOLDER.glob("*.txt")} <= set(TARGETS)
    for name in TARGETS:
        assert all(0 < len(each) <= corpora.MAX_BYTES for each in corpora.kept(name))
        assert len(corpora.kept(name)) <= corpora.MOST
