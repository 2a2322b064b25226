"""The structure holds: imports run downwards, no clock below the root, a driver has one home, files stay small."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

import authz
from authz.reasons import SPEC, Reason

ROOT = Path(authz.__file__).parent
FILES = sorted(path for path in ROOT.rglob("*.py") if not path.name.endswith("_pb2.py"))

FLOORS: list[set[str]] = [
    {"model", "reasons", "errors", "settings", "listening", "clock", "yamlfile", "audit"},
    {"identity", "inference", "policy", "quota", "telemetry", "transport"},
    {"bundle", "answers"},
    {"recording", "reporting"},
    {"verdicts", "batching"},
    {"pdp", "settlement", "store", "fallback", "alerts", "administration", "published", "calls", "pep", "collecting"},
    {"review"},
    {"compose", "limiting"},
    {"envoy", "api"},
    {"authorizer", "server", "supervisor"},
    {"sdk", "asgi"},
    {"cli"},
    {"__main__"},
]
"""From the ground up. The ground and the phases do not import their neighbours of other names, except within the ground."""

ONE_HOME = {"cedarpy": "policy", "sqlite3": "store", "redis": "store", "grpc_reflection": "server"}


WIRE = {"google": {"envoy", "api"}}
"""Wire types stop at the adapters."""


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """Whole dotted names that a file imports, also inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {f"{node.module}.{name.name}" for name in node.names} | {node.module}
    return found


def floor(name: str) -> int:
    return next(number for number, rooms in enumerate(FLOORS) if name in rooms)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_run_downwards(path: Path) -> None:
    if path == ROOT / "__init__.py":
        return  # the face hands names on
    here = room(path)
    for name in imported(path):
        if not name.startswith("authz."):
            continue
        there = name.split(".")[1]
        if there == here or not any(there in rooms for rooms in FLOORS):
            continue
        assert floor(there) < floor(here) or floor(here) == floor(there) == 0, f"{here} imports {there}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_driver_has_one_home(path: Path) -> None:
    for name in imported(path):
        driver = name.split(".")[0]
        homes = WIRE.get(driver) or ({ONE_HOME[driver]} if driver in ONE_HOME else None)
        assert homes is None or room(path) in homes, f"{name} is imported outside {homes}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_clock_and_no_chance_below_the_root(path: Path) -> None:
    if room(path) in {"cli", "__main__", "compose", "clock", "server"}:
        return
    assert not imported(path) & {"time", "uuid", "secrets", "random"}
    names = {
        f"{node.value.id}.{node.attr}"
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
    }
    assert not names & {"datetime.now", "datetime.utcnow", "date.today"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_has_one_job(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 420


DOCUMENTS = sorted([*ROOT.parent.glob("*.md"), *ROOT.parent.glob("docs/**/*.md"), *ROOT.parent.glob("deploy/**/*.md")])


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT.parent)))
def test_what_a_document_links_to_is_there(path: Path) -> None:
    prose = re.sub(r"```.*?```", "", path.read_text(), flags=re.DOTALL)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", prose) if "://" not in link]
    assert [link for link in links if not (path.parent / link).exists()] == []


def test_every_reason_has_a_status_and_a_docstring() -> None:
    assert set(SPEC) == set(Reason)
    tree = ast.parse((ROOT / "reasons.py").read_text())
    body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == "Reason")
    members = [index for index, node in enumerate(body) if isinstance(node, ast.Assign)]
    assert len(members) == len(Reason)
    for index in members:
        assert isinstance(body[index + 1], ast.Expr), "each reason says in a docstring when it is given"


def test_import_authz_is_light() -> None:
    code = "import authz, sys; print([n for n in ('grpc', 'opentelemetry', 'redis', 'cedarpy', 'httpx') if n in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_import_authz_costs_less_than_a_third_of_what_its_http_client_does() -> None:
    """Both in a fresh process each, the best of several: 150 ms were promised where httpx takes a hundred."""
    code = "import time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"

    def best_s(module: str) -> float:
        command = [sys.executable, "-c", code.format(module)]
        return min(float(subprocess.check_output(command, text=True)) for _ in range(3))

    assert best_s("authz") < best_s("httpx") / 3


def test_every_public_name_is_there_and_nothing_else() -> None:
    assert sorted(authz.__all__) == sorted(dir(authz))
    for name in authz.__all__:
        assert getattr(authz, name) is not None
    with pytest.raises(AttributeError, match="nothing_of_ours"):
        authz.nothing_of_ours  # noqa: B018  # looking it up is the test
