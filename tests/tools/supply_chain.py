"""What is shipped beside our own code: `python -m tests.tools.supply_chain licenses | audit`.

licenses   the licence of everything in requirements/runtime.txt; exit code 1 where one is not in ALLOWED
audit      known vulnerabilities of it, as far as a data source is reachable; exit code 1 where there are some, and 2 where
           something could not be looked up: what nobody has looked at is not clean
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table

ROOT: Final = Path(__file__).resolve().parents[2]
RUNTIME: Final = ROOT / "requirements" / "runtime.txt"
BIN: Final = Path(sys.executable).parent

ALLOWED: Final = frozenset({
    "0BSD", "3-Clause BSD License", "Apache-2.0", "Apache Software License", "BSD License", "BSD-2-Clause", "BSD-3-Clause",
    "ISC", "MIT", "MIT License", "MIT-0", "Mozilla Public License 2.0 (MPL 2.0)", "PSF-2.0",
})  # fmt: skip
"""What may be shipped with ours, as packages write it. The Mozilla licence is for certifi's list of authorities, unchanged."""

TOLD_ELSEWHERE: Final = {"cedarpy": "Apache-2.0"}
"""Packages whose metadata name none: what the licence file says that they carry."""


def pinned(path: Path = RUNTIME) -> dict[str, str]:
    """Versions by name, lower case with dashes; those of other platforms too."""
    return {name.lower().replace("_", "-"): version for name, version in re.findall(r"(?m)^([\w.-]+)==(\S+)", path.read_text())}


def installed(names: dict[str, str]) -> list[str]:
    """Of these, what this platform has."""
    here = {(found.metadata["Name"] or "").lower().replace("_", "-") for found in metadata.distributions()}
    return sorted(name for name in names if name in here)


def allowed(licence: str) -> bool:
    """Whether one side of every `OR`, and every side of an `AND`, is on the list."""
    return any(all(part in ALLOWED for part in re.split(r" AND |; ", side)) for side in licence.split(" OR "))


def licenses() -> int:
    names = installed(pinned())
    command = [str(BIN / "pip-licenses"), "--format=json", "--from=mixed", "--packages", *names]
    rows: list[dict[str, str]] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    table, unknown = Table("package", "version", "licence", title="What requirements/runtime.txt brings along"), []
    for row in rows:
        licence = TOLD_ELSEWHERE.get(row["Name"].lower(), row["License"])
        table.add_row(row["Name"], row["Version"], licence)
        if not allowed(licence):
            unknown.append(f"{row['Name']}: `{licence}` is not a licence that we ship with")
    if missing := set(names) - {row["Name"].lower().replace("_", "-") for row in rows}:
        unknown.append(f"nothing is known of {', '.join(sorted(missing))}")
    console = Console()
    console.print(table)
    console.print("\n".join(unknown) or f"{len(rows)} packages, each under a licence that we ship with", highlight=False)
    return 1 if unknown else 0


def audit() -> int:
    command = [str(BIN / "pip-audit"), "--disable-pip", "--require-hashes", "-r", str(RUNTIME)]
    command += ["--format", "json", "--progress-spinner", "off", "--timeout", "10"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    code, said = judged(done.stdout, done.stderr)
    sys.stdout.write(said + "\n")
    return code


def judged(answer: str, problem: str) -> tuple[int, str]:
    """The exit code and what to say of pip-audit's answer; it calls a package clean of which its source knows nothing."""
    try:
        rows: list[dict[str, Any]] = json.loads(answer)["dependencies"]
    except (ValueError, KeyError, TypeError):
        return 2, f"Nothing was looked up: no source of known vulnerabilities is reachable.\n{problem.strip()[-500:]}"
    found = [f"{row['name']} {row['version']}: {each['id']}" for row in rows for each in row.get("vulns", ())]
    skipped = [row["name"] for row in rows if "skip_reason" in row]
    if found:
        return 1, "\n".join(["Known vulnerabilities:", *found])
    if skipped or not rows:
        return 2, (
            f"{len(skipped)} of {len(rows)} packages were not looked up: the source that was reached knows nothing of them. "
            f"This is no clean result. They are: {', '.join(skipped)}"
        )
    return 0, f"{len(rows)} packages looked up, no known vulnerability"


_COMMANDS: Final[dict[str, Callable[[], int]]] = {"licenses": licenses, "audit": audit}

if __name__ == "__main__":
    if len(sys.argv) != 2 or sys.argv[1] not in _COMMANDS:
        sys.exit(f"expected one of: {', '.join(_COMMANDS)}")
    sys.exit(_COMMANDS[sys.argv[1]]())
