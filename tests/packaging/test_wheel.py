"""What is shipped: the wheel holds every file of the package, and the Dockerfile's steps give a working command."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy of just what the Dockerfile copies, so that a missing COPY shows."""
    source = tmp_path_factory.mktemp("source")
    for line in (ROOT / "Dockerfile").read_text().splitlines():
        words = line.split()
        if words[:1] == ["COPY"] and not words[1].startswith("--"):
            for name in words[1:-1]:
                subprocess.run(["cp", "-r", str(ROOT / name.rstrip("/")), str(source)], check=True)
    command = [sys.executable, "-m", "build", "--no-isolation", "--wheel", "--outdir", str(source / "dist"), str(source)]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return next((source / "dist").glob("*.whl"))


def test_the_wheel_holds_the_whole_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "authz").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == tracked


def test_the_installed_command_runs(wheel: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path)
    done = subprocess.run(
        [sys.executable, "-m", "authz", "--help"],
        check=True,
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(tmp_path)},
    )
    for command in ("serve", "envoy-config", "keys", "usage", "health"):
        assert command in done.stdout


def test_every_requirement_is_pinned_with_hashes_and_no_host_is_named() -> None:
    for path in sorted((ROOT / "requirements").glob("*.txt")):
        text = path.read_text()
        assert "://" not in text
        logical = text.replace("\\\n", " ").splitlines()
        for line in logical:
            if line.strip() and not line.lstrip().startswith("#"):
                assert "==" in line, f"{path.name}: {line}"
                assert "--hash=sha256:" in line, f"{path.name}: {line}"
