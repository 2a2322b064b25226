"""`make demo` does what README says: a pass through the real Envoy, as a table, and exit code 0."""

from __future__ import annotations

import subprocess
import sys

import pytest

from tests.place import ROOT

pytestmark = pytest.mark.xdist_group("e2e")


def test_the_demo_comes_out_as_expected() -> None:
    done = subprocess.run([sys.executable, "-m", "demo"], cwd=ROOT, capture_output=True, text=True, timeout=110, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every row as expected" in done.stdout
    assert "NOT every row" not in done.stdout
