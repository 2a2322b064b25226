"""Recorded decisions decided again: nothing changes under the same bundle, and what changes under another is told."""

from __future__ import annotations

import gzip
from collections import Counter
from pathlib import Path

import msgspec
import pytest

from authz.bundle import load_bundle
from authz.errors import ConfigError
from authz.model import DecisionRecord, Record, SettlementRecord
from authz.review.recordfile import read_records, since
from authz.review.replay import Outcomes, run, time_ns
from tests.bundle.folders import REFERENCE, copy, edit
from tests.review import replayspeed, traffic

DECISIONS = 1_200


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return traffic.record(tmp_path_factory.mktemp("records"), DECISIONS)


def against(folder: Path, records: Path) -> Outcomes:
    return run(load_bundle(folder), read_records([records]))


def answers(outcomes: Outcomes) -> Counter[tuple[str, str, str]]:
    found: Counter[tuple[str, str, str]] = Counter()
    for change, number in outcomes.changed.items():
        found[(change.team, change.before, change.after)] += number
    return found


def test_the_traffic_meets_every_kind_of_answer(records: Path) -> None:
    """Otherwise the tests below would hold for want of anything that could change."""
    found = list(read_records([records]))
    decisions = [record for record in found if isinstance(record, DecisionRecord)]
    assert {record.reason.value if record.reason else record.effect for record in decisions} == {
        "allow",
        "rate_limit_exceeded",
        "model_not_available",
        "model_decommissioned",
        "model_not_priced",
        "model_not_found",
        "invalid_api_key",
    }
    assert {record.state for record in found if isinstance(record, SettlementRecord)} == {"settled", "voided"}


def test_under_the_same_bundle_nothing_changes(records: Path) -> None:
    outcomes = against(REFERENCE, records)
    assert outcomes.decisions == DECISIONS
    assert outcomes.judged > DECISIONS * 0.9
    assert outcomes.changed == Counter()
    assert outcomes.spend
    for spend in outcomes.spend.values():
        assert spend.before_nanousd == spend.after_nanousd > 0


def test_days_of_traffic_are_replayed_without_a_change(tmp_path: Path) -> None:
    """The long run, which tells the time: `python -m tests.review.replayspeed --decisions 100000`."""
    result = replayspeed.measure(250, tmp_path, a_day=100)
    assert (result.decisions, result.changed) == (300, 0)


def test_a_permit_that_is_gone_denies_exactly_what_it_had_allowed(tmp_path: Path, records: Path) -> None:
    folder = copy(tmp_path)
    (folder / "chatbot.cedar").unlink()
    for case in ("models.yaml", "limits.yaml"):
        (folder / "tests" / case).unlink()
    allowed = sum(
        1 for record in read_records([records]) if isinstance(record, DecisionRecord) and "chatbot-models" in record.policies
    )
    changed = answers(against(folder, records))
    assert {(team, after) for team, _, after in changed} == {("chatbot", "model_not_available")}
    assert changed.total() == allowed


def test_a_lowered_budget_refuses_from_the_request_on_at_which_it_is_reached(tmp_path: Path, records: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "quotas.yaml", "limit: 500 USD/month\n    alerts: [100 USD, 250 USD, 400 USD]", "limit: 0.01 USD/month")
    outcomes = against(folder, records)
    assert {(before, after) for _, before, after in answers(outcomes)} == {
        ("allow", "spend_cap_reached"),
        ("rate_limit_exceeded", "spend_cap_reached"),
        ("rate_limit_exceeded", "allow"),  # before the cap's end some do not fit under it, and leave room in a window
    }
    assert {change.by for change in outcomes.changed if change.after != "allow"} == {("org-spend",)}
    assert sum(spend.after_nanousd for spend in outcomes.spend.values()) <= 10_000_000
    assert sum(spend.before_nanousd for spend in outcomes.spend.values()) > 10_000_000


def test_a_counter_begins_with_what_it_held(tmp_path: Path, records: Path) -> None:
    """The records say that 450 USD of the month were used before the first of them."""
    lines: list[Record] = []
    for record in read_records([records]):
        if isinstance(record, DecisionRecord):
            states = tuple(
                msgspec.structs.replace(state, used=state.used + 450 * 10**9) if state.quota == "org-spend" else state
                for state in record.quotas
            )
            record = msgspec.structs.replace(record, quotas=states)
        lines.append(record)
    file = tmp_path / "late.jsonl"
    file.write_bytes(b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    folder = copy(tmp_path)
    edit(folder, "quotas.yaml", "limit: 500 USD/month", "limit: 450 USD/month")
    changed = answers(against(folder, file))
    assert {after for _, _, after in changed} == {"spend_cap_reached"}
    assert answers(against(REFERENCE, file)) == Counter()


def test_a_raised_limit_allows_what_was_refused(tmp_path: Path, records: Path) -> None:
    folder = copy(tmp_path)
    for name in ("60/minute", "500/minute", "100000/minute", "500000/minute"):
        edit(folder, "quotas.yaml", f"limit: {name}", "limit: 1000000000/minute")
    refused = sum(1 for record in read_records([records]) if isinstance(record, DecisionRecord) and record.quota is not None)
    changed = answers(against(folder, records))
    assert {(before, after) for _, before, after in changed} == {("rate_limit_exceeded", "allow")}
    assert changed.total() == refused > 0


def test_a_key_that_is_disabled_is_denied(tmp_path: Path, records: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "directory.yaml", "research-lab: {", "research-lab: {disabled: true, ")
    outcomes = against(folder, records)
    assert {(change.team, change.after) for change in outcomes.changed} == {("research", "invalid_api_key")}


def test_files_of_several_sidecars_are_one_stream(tmp_path: Path, records: Path) -> None:
    lines = records.read_bytes().splitlines(keepends=True)
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    for place, file in enumerate(files):
        file.write_bytes(b"".join(lines[place::2]))
    times = [record.time for record in read_records(files)]
    assert len(times) == len(lines)
    assert times == sorted(times)


def test_a_torn_last_line_is_passed_over_and_a_bad_one_is_not(tmp_path: Path, records: Path) -> None:
    lines = records.read_bytes().splitlines(keepends=True)
    file = tmp_path / "torn.jsonl"
    file.write_bytes(b"".join(lines[:3]) + lines[3][:40])
    assert len(list(read_records([file]))) == 3
    file.write_bytes(lines[0] + b'{"kind": "decision"}\n' + lines[1])
    with pytest.raises(ConfigError, match="not a record of authz") as caught:
        list(read_records([file]))
    assert caught.value.line == 2
    file.write_bytes(gzip.compress(lines[0]))
    with pytest.raises(ConfigError, match="not a record of authz"):
        list(read_records([file]))


def test_the_last_days_records_are_those_of_a_moment_and_later(records: Path) -> None:
    everything = list(read_records([records]))
    middle = time_ns(everything[len(everything) // 2].time)
    late = list(since(read_records([records]), middle))
    assert 0 < len(late) < len(everything)
    assert late == everything[-len(late) :]
    assert time_ns(everything[-len(late) - 1].time) < middle <= time_ns(late[0].time)
