"""Which test holds which promise: `docs/security.md`'s table, made from the tests themselves.

A test of a case is named after it, `test_a17_…`, and the rest of its name is the promise. `make attacks` writes the table.
"""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Final, NamedTuple

TESTS: Final = Path(__file__).resolve().parents[1]
DOCUMENT: Final = TESTS.parent / "docs" / "security.md"
CASES: Final = range(1, 84)
BEGIN: Final = "<!-- made by `make attacks`: not to be edited by hand -->"
END: Final = "<!-- until here -->"

_NAME: Final = re.compile(r"test_a(\d{1,2})_\w+")


class Named(NamedTuple):
    """test  `tests/attacks/test_bodies.py::test_a17_…`"""

    case: int
    test: str


def named() -> list[Named]:
    """Every test that is named after a case, by case; of one case those of `tests/attacks` first."""
    found = []
    for path in sorted(TESTS.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            match = _NAME.fullmatch(node.name) if isinstance(node, ast.FunctionDef) else None
            if match is not None:
                where = f"{path.relative_to(TESTS.parent)}::{match.group()}"
                found.append(Named(int(match.group(1)), where))
    return sorted(found, key=lambda each: (each.case, not each.test.startswith("tests/attacks/"), each.test))


def table() -> str:
    rows = ["| case | test | in |", "|---|---|---|"]
    for each in named():
        file, _, name = each.test.partition("::")
        rows.append(f"| A{each.case} | `{name}` | `{file}` |")
    return "\n".join(rows)


def written(document: str) -> str:
    """The document with the table as it is now. Raises `ValueError` where it has no place for it."""
    before, begin, rest = document.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError(f"expected `{BEGIN}` and `{END}`")
    return f"{before}{BEGIN}\n\n{table()}\n\n{END}{after}"


if __name__ == "__main__":
    DOCUMENT.write_text(written(DOCUMENT.read_text(encoding="utf-8")), encoding="utf-8")
    sys.stdout.write(f"{len(named())} tests of {len({each.case for each in named()})} cases\n")
