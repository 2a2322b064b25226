"""What earlier runs found worth keeping: `corpus/TARGET.txt`, one input a line, written as Python writes bytes."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent / "corpus"
MAX_BYTES: Final = 4_000
MOST: Final = 48


def kept(target: str) -> tuple[bytes, ...]:
    path = FOLDER / f"{target}.txt"
    lines = path.read_text(encoding="ascii").splitlines() if path.exists() else []
    return tuple(ast.literal_eval(line) for line in lines)


def keep(target: str, inputs: list[bytes]) -> int:
    """The shortest of them; answers how many."""
    chosen = sorted({each for each in inputs if 0 < len(each) <= MAX_BYTES}, key=lambda each: (len(each), each))[:MOST]
    (FOLDER / f"{target}.txt").write_text("".join(f"{each!r}\n" for each in chosen), encoding="ascii")
    return len(chosen)
