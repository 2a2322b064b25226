"""The dashboard and the alert rules speak of metrics and labels that a scrape really has, and leave none out of sight."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser
import pytest
import yaml

from tests.place import ROOT
from tests.telemetry.everything import Labels, emitted

DASHBOARD = ROOT / "deploy" / "grafana" / "authz.json"
RULES = ROOT / "deploy" / "prometheus" / "alerts.yaml"
METRIC = re.compile(r"\bauthz_[a-z_]+")
GROUPED = re.compile(r"\b(?:by|on) \(([a-z_, ]*)\)")
SELECTED = re.compile(r"([a-z_]+)\s*(?:=~|!~|!=|=)\s*\"")


@pytest.fixture(scope="module")
def scraped(tmp_path_factory: pytest.TempPathFactory) -> Labels:
    return emitted(tmp_path_factory.mktemp("scraped"))[0]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text())["panels"]
    return found


def rules() -> list[dict[str, Any]]:
    return [rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]]


def expressions() -> Iterator[tuple[str, str]]:
    for rule in rules():
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel.get("targets", []):
            yield panel["title"], target["expr"]


EXPRESSIONS = sorted(set(expressions()))


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_an_expression_names_what_a_scrape_has(where: str, expression: str, scraped: Labels) -> None:
    metrics = set(METRIC.findall(expression))
    assert metrics
    assert metrics <= scraped.keys()
    known = set().union(*(scraped[metric] for metric in metrics)) | {"le"}
    named = {label.strip() for group in GROUPED.findall(expression) for label in group.split(",") if label.strip()}
    assert named | set(SELECTED.findall(expression)) <= known
    # A value that a label is compared with is one that is documented.
    document = (ROOT / "docs" / "observability.md").read_text()
    for value in re.findall(r"!?=\s*\"([a-z_]+)\"", expression):
        assert f"`{value}`" in document or value == "deny"


@pytest.mark.parametrize(("where", "expression"), EXPRESSIONS, ids=[where for where, _ in EXPRESSIONS])
def test_an_expression_is_promql(where: str, expression: str) -> None:
    filled = expression.replace("$team", ".*").replace("$model", ".*")
    promql_parser.parse(filled)


def test_a_broken_expression_is_no_promql() -> None:
    with pytest.raises(ValueError, match="unclosed"):
        promql_parser.parse("sum(rate(authz_decisions_total[5m])")


def test_every_metric_is_on_the_dashboard(scraped: Labels) -> None:
    shown = {name for panel in panels() for target in panel.get("targets", []) for name in METRIC.findall(target["expr"])}
    assert {name for name in scraped if name.startswith("authz_") and not name.endswith("_created")} == shown


def test_a_rule_is_whole_and_its_text_speaks_of_labels_that_its_expression_keeps() -> None:
    found = rules()
    assert len({rule["alert"] for rule in found}) == len(found)
    for rule in found:
        assert rule.keys() <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert re.fullmatch(r"[A-Z][A-Za-z]+", rule["alert"])
        assert re.fullmatch(r"\d+[smh]", rule.get("for", "1m"))
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"].keys() == {"summary", "description"}
        kept = {label.strip() for group in GROUPED.findall(rule["expr"]) for label in group.split(",")}
        for text in rule["annotations"].values():
            assert text.count("{{") == text.count("}}")
            for template in re.findall(r"\{\{(.*?)\}\}", text):
                assert re.fullmatch(r" (\$labels\.[a-z_]+|\$value( \| humanize(Percentage|Duration))?) ", template)
            assert set(re.findall(r"\$labels\.([a-z_]+)", text)) <= kept, rule["alert"]


def test_panels_stand_side_by_side_and_legends_name_labels_that_are_kept() -> None:
    taken: set[tuple[int, int]] = set()
    assert len({panel["id"] for panel in panels()}) == len(panels())
    for panel in panels():
        at = panel["gridPos"]
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        assert max(x for x, _ in cells) < 24
        taken |= cells
        for target in panel.get("targets", []):
            kept = {label.strip() for group in GROUPED.findall(target["expr"]) for label in group.split(",")}
            assert set(re.findall(r"\{\{(.*?)\}\}", target["legendFormat"])) <= kept, panel["title"]
            assert target["datasource"] == panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
