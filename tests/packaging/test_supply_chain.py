"""What is shipped is known, licensed and pinned, and nothing of it runs before it is imported."""

from __future__ import annotations

import json
import subprocess
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest
import yaml

from tests.tools.supply_chain import BIN, ROOT, RUNTIME, allowed, installed, judged, licenses, pinned

EDITABLE = "__editable__.authz-"
OF_DEVELOPMENT = {"a1_coverage.pth", "distutils-precedence.pth"}
"""coverage (of mutmut) and setuptools, neither of which is shipped."""


def test_no_package_that_is_shipped_runs_code_at_the_start_of_every_interpreter() -> None:
    """A `.pth` file in a package is how code gets to run unasked (A63): only our own editable install and tools have one."""
    shipped = set(pinned())
    for found in metadata.distributions():
        name = (found.metadata["Name"] or "").lower().replace("_", "-")
        if name in shipped:
            assert not [path for path in found.files or () if path.suffix == ".pth"], name
    there = {path.name for path in Path(sysconfig.get_paths()["purelib"]).glob("*.pth")}
    assert {name for name in there if not name.startswith(EDITABLE)} <= OF_DEVELOPMENT


def test_everything_that_is_shipped_has_a_licence_on_the_list() -> None:
    assert licenses() == 0


@pytest.mark.parametrize(
    ("licence", "well"),
    [
        ("MIT", True),
        ("Apache-2.0 OR GPL-3.0", True),
        ("MIT AND PSF-2.0", True),
        ("GPL-3.0", False),
        ("MIT AND GPL-3.0", False),
        ("UNKNOWN", False),
        ("", False),
    ],
)
def test_one_that_is_not_on_the_list_is_told(licence: str, well: bool) -> None:
    assert allowed(licence) is well


def test_what_nobody_has_looked_up_is_not_clean() -> None:
    known = {"name": "a", "version": "1", "vulns": []}
    bad = {"name": "b", "version": "2", "vulns": [{"id": "PYSEC-1"}]}
    skipped = {"name": "c", "skip_reason": "not found"}
    assert judged(json.dumps({"dependencies": [known]}), "")[0] == 0
    assert judged(json.dumps({"dependencies": [known, bad, skipped]}), "") == (1, "Known vulnerabilities:\nb 2: PYSEC-1")
    code, said = judged(json.dumps({"dependencies": [known, skipped]}), "")
    assert (code, "1 of 2 packages were not looked up" in said) == (2, True)
    for silent in ("", "[]", '{"dependencies": []}'):
        assert judged(silent, "ConnectionError")[0] == 2


def test_the_bill_of_materials_names_everything_that_is_pinned(tmp_path: Path) -> None:
    path = tmp_path / "sbom.json"
    command = [str(BIN / "cyclonedx-py"), "requirements", "--short-PURLs", "--of", "JSON", "-o", str(path), str(RUNTIME)]
    subprocess.run(command, check=True, capture_output=True)
    rows = json.loads(path.read_text())["components"]
    assert {row["name"].lower().replace("_", "-"): row["version"] for row in rows} == pinned()
    assert all(row["externalReferences"][0]["hashes"] for row in rows)
    assert len(installed(pinned())) > 40


def test_the_bots_folder_is_where_the_pins_are() -> None:
    updates = yaml.safe_load((ROOT / ".github" / "dependabot.yml").read_text())["updates"]
    folders = {update["package-ecosystem"]: update["directory"].lstrip("/") for update in updates}
    assert list((ROOT / folders["pip"]).glob("*.txt"))
    assert (ROOT / folders["docker"] / "Dockerfile").is_file()
