"""docs/records.md and its schema say what a record holds, and nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
from msgspec.structs import fields

from authz.model import DecisionRecord, QuotaState, Record, SettlementRecord
from tests.place import ROOT, lay_out, opened_at
from tests.telemetry.traffic import decide

DOCUMENT = ROOT / "docs" / "records.md"
SCHEMA = ROOT / "docs" / "records.schema.json"


def schema() -> dict[str, Any]:
    title = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "A line of authz's records, version 1"}
    found = title | msgspec.json.schema(Record)
    # A reason may be added within a version, so a reader that knows the list of today must not stumble over tomorrow's.
    found["$defs"]["Reason"] = {"description": "The code of a refusal; README has the list.", "type": "string"}
    return found


def written() -> str:
    return json.dumps(schema(), indent=2, sort_keys=True) + "\n"


def documented(header: str) -> list[str]:
    lines = DOCUMENT.read_text().splitlines()
    at = lines.index(f"| {header} | what it says |")
    found = []
    for line in lines[at + 2 :]:
        if not line.startswith("|"):
            break
        found.append(re.findall(r"`([^`]+)`", line)[0])
    return found


@pytest.mark.parametrize(
    ("header", "kind", "tag"),
    [
        ("field", DecisionRecord, ["kind"]),
        ("field of a settlement", SettlementRecord, ["kind"]),
        ("field of `quotas`", QuotaState, []),
    ],
)
def test_every_field_is_documented_in_its_order(header: str, kind: type[msgspec.Struct], tag: list[str]) -> None:
    assert documented(header) == tag + [field.name for field in fields(kind)]


def test_the_schema_is_that_of_the_code() -> None:
    """Renewed by `python -m tests.telemetry.test_record_schema`."""
    assert SCHEMA.read_text() == written()


def test_a_change_of_what_there_was_needs_another_version() -> None:
    """What version 1 had: a field may come, none may go. Whoever has to change this list raises `version`."""
    assert {field.name for field in fields(DecisionRecord)} >= FIRST_DECISION
    assert {field.name for field in fields(SettlementRecord)} >= FIRST_SETTLEMENT
    assert {f.default for kind in (DecisionRecord, SettlementRecord) for f in fields(kind) if f.name == "version"} == {1}


def test_lines_hold_what_the_schema_says_and_no_more(tmp_path: Path) -> None:
    with opened_at(lay_out(tmp_path)) as place:
        decide(place, 60)
    properties = {name: set(found["properties"]) for name, found in schema()["$defs"].items() if name.endswith("Record")}
    kinds = set()
    for line in (tmp_path / "decisions.jsonl").read_text().splitlines():
        said = json.loads(line)
        kinds.add(said["kind"])
        assert set(said) <= properties["DecisionRecord" if said["kind"] == "decision" else "SettlementRecord"]
        assert said["version"] == 1
    assert kinds == {"decision", "settlement"}


FIRST_DECISION = {
    "decision_id",
    "time",
    "duration_us",
    "reservation_id",
    "trace_id",
    "span_id",
    "version",
    "request_id",
    "bundle",
    "effect",
    "status",
    "reason",
    "message",
    "principal",
    "team",
    "organisation",
    "user",
    "roles",
    "method",
    "path",
    "action",
    "models",
    "model",
    "endpoint",
    "stream",
    "service_tier",
    "tools",
    "source_ip",
    "policies",
    "policy_errors",
    "shadow_policies",
    "quotas",
    "quota",
    "estimate",
}
FIRST_SETTLEMENT = {
    "time",
    "reservation_id",
    "version",
    "outcome",
    "state",
    "team",
    "user",
    "key",
    "model",
    "action",
    "amounts",
    "usage",
}


if __name__ == "__main__":
    SCHEMA.write_text(written())
