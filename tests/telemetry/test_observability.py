"""docs/observability.md says what there is and nothing else: each table against what an engine really told."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import authz
from tests.place import ROOT
from tests.telemetry.collector import Collector, values
from tests.telemetry.everything import Labels, emitted

Told = tuple[Labels, Collector]
DOCUMENT = ROOT / "docs" / "observability.md"


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Told:
    return emitted(tmp_path_factory.mktemp("everything"))


def rows(header: str) -> Iterator[list[list[str]]]:
    """Of the table under `header`: for each row, what stands in backticks in each cell."""
    lines = iter(DOCUMENT.read_text().splitlines())
    for line in lines:
        if line.startswith(f"| {header} |"):
            break
    assert next(lines).startswith("|--")
    for line in lines:
        if not line.startswith("|"):
            return
        yield [re.findall(r"`([^`]+)`", cell) for cell in re.split(r"(?<!\\)\|", line)[1:-1]]


def test_every_metric_and_its_attributes_are_documented_and_emitted(told: Told) -> None:
    labels, collector = told
    documented = {row[1][0]: set(row[2]) for row in rows("metric")}
    scraped: Labels = {}
    for name, found in labels.items():
        if name == "target_info":
            continue
        family = re.sub(r"_(bucket|count|sum|created)$", "", name) if "duration" in name else name.removesuffix("_created")
        scraped.setdefault(family, set()).update(found)
    assert scraped == documented
    assert {row[0][0] for row in rows("metric")} == collector.metric_names() | {
        "authz.budget.used.usd",  # not read any more when the last export is made
        "authz.budget.limit.usd",
    }


def test_every_span_and_its_attributes_are_documented_and_emitted(told: Told) -> None:
    _, collector = told
    found: dict[str, set[str]] = {}
    for span in collector.spans():
        found.setdefault(span.name, set()).update(values(span.attributes))
    assert found == {row[0][0]: set(row[1]) for row in rows("span")}


def test_every_event_and_its_attributes_are_documented_and_emitted(told: Told) -> None:
    _, collector = told
    found: dict[str, set[str]] = {}
    for log in collector.logs():
        found.setdefault(log.event_name, set()).update(values(log.attributes))
    assert found == {row[0][0]: set(row[1]) for row in rows("event")}


def logged() -> Iterator[tuple[str, str]]:
    """Message and level of everything above `info` that the code logs."""
    for path in Path(authz.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "_log"
                and node.func.attr in {"warning", "error", "exception", "critical"}
            ):
                assert isinstance(node.args[0], ast.Constant), f"{path}: a message is a constant, so that it can be looked for"
                yield str(node.args[0].value), node.func.attr


def test_every_message_of_the_process_log_is_documented() -> None:
    assert set(logged()) == {(row[0][0], row[1][0]) for row in rows("message")}
