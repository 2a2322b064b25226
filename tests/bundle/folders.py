"""Copies of the reference bundle with one thing changed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Final

REFERENCE: Final = Path(__file__).parents[2] / "policies"


def copy(into: Path) -> Path:
    folder = into / "bundle"
    shutil.copytree(REFERENCE, folder)
    return folder


def edit(folder: Path, name: str, old: str, new: str) -> None:
    """Replaces text that must be there, so that a test does not go on testing nothing."""
    file = folder / name
    text = file.read_text(encoding="utf-8")
    assert old in text, f"{old!r} is not in {name}"
    file.write_text(text.replace(old, new, 1), encoding="utf-8")
