"""deploy/ci: what a pull request's check says and exits with, run as CI runs it, in a repository of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Final

import pytest
import yaml

from tests.bundle.folders import REFERENCE, edit
from tests.review import traffic

CI: Final = Path(__file__).parents[2] / "deploy" / "ci"
SCRIPT: Final = CI / "review-policies.sh"
GIT_USER: Final = ("-c", "user.name=t", "-c", "user.email=t@example.com", "-c", "commit.gpgsign=false")


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", *GIT_USER, *arguments], cwd=folder, check=True, capture_output=True)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit with the reference bundle."""
    folder = tmp_path / "repository"
    shutil.copytree(REFERENCE, folder / "policies")
    git(tmp_path, "init", "-q", "repository")
    git(folder, "add", "-A")
    git(folder, "commit", "-qm", "the bundle")
    return folder


def review(repository: Path, *arguments: str | Path) -> tuple[int, str]:
    environ = {**os.environ, "AUTHZ": f"{sys.executable} -m authz", "GIT_CONFIG_GLOBAL": os.devnull}
    done = subprocess.run([SCRIPT, *arguments], cwd=repository, env=environ, capture_output=True, text=True, timeout=100)
    return done.returncode, done.stdout + done.stderr


def test_a_change_that_could_go_into_force_is_shown_and_passes(repository: Path, tmp_path: Path) -> None:
    edit(repository / "policies", "quotas.yaml", "limit: 60/minute", "limit: 1/minute")
    records = traffic.record(tmp_path / "records", 60)
    code, said = review(repository, "HEAD", "policies", records)
    assert code == 0, said
    assert "limit 60 requests/minute → 1 requests/minute" in said
    assert "60 decisions in the records" in said
    assert "rate_limit_exceeded" in said
    assert " cases passed" in said


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("permit (", "premit (", "invalid policy effect: premit"),
        ('Model::"llama-3.1-8b-instant"]', "]", "case-failed"),
        ("  principal in", "     principal in", "chatbot.cedar"),
    ],
    ids=["does not load", "fails its cases", "is not formatted"],
)
def test_one_that_could_not_fails(repository: Path, old: str, new: str, says: str) -> None:
    edit(repository / "policies", "chatbot.cedar", old, new)
    code, said = review(repository, "HEAD")
    assert code == 1, said
    assert says in said


def test_what_cannot_run_is_2(repository: Path) -> None:
    assert review(repository, "nowhere")[0] == 2
    assert review(repository, "HEAD", "nowhere")[0] == 2
    assert review(repository)[0] != 0


def test_the_first_bundle_of_all_is_only_checked(repository: Path) -> None:
    (repository / "policies").rename(repository / "bundle")
    code, said = review(repository, "HEAD", "bundle")
    assert (code, "nothing to compare with" in said) == (0, True), said


def test_the_workflow_runs_the_script() -> None:
    workflow = yaml.safe_load((CI / "github.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["review"]["steps"]
    assert workflow["permissions"] == {"contents": "read"}
    assert f"/{SCRIPT.name} " in steps[-1]["run"]
    assert os.access(SCRIPT, os.X_OK)
