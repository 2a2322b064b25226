"""What `make mutation` came to, by file: `python -m tests.tools.mutation_score`.

mutmut leaves a `.meta` file beside each mutated one, with the exit code of the tests for every mutant: 0 where all of them
passed, so that nobody noticed; None where it has not been tried.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.table import Table

MUTANTS: Final = Path("mutants/authz")
SURVIVED: Final = 0
NO_TESTS: Final = (5, 33)


def main() -> int:
    table = Table("file", "mutants tried", "killed", "survived", "reached by no test", "score, %")
    all_killed, all_tried = 0, 0
    for meta in sorted(MUTANTS.rglob("*.py.meta")):
        codes = [code for code in json.loads(meta.read_text())["exit_code_by_key"].values() if code is not None]
        survived, unreached = codes.count(SURVIVED), sum(code in NO_TESTS for code in codes)
        killed = len(codes) - survived - unreached
        if codes:
            row = (len(codes), killed, survived, unreached, f"{100 * killed / len(codes):.1f}")
            table.add_row(str(meta.relative_to(MUTANTS).with_suffix("")), *map(str, row))
            all_killed, all_tried = all_killed + killed, all_tried + len(codes)
    if not all_tried:
        sys.stderr.write("nothing has been tried yet: `make mutation` comes first\n")
        return 2
    table.add_section()
    table.add_row("all", str(all_tried), str(all_killed), "", "", f"{100 * all_killed / all_tried:.1f}")
    Console().print(table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
