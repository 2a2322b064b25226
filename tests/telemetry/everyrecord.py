"""Every decision has a record that equals what was answered: over many decisions, with one sink that works and one that fails
half-way. What the second one lost is counted to the record.

python -m tests.telemetry.everyrecord [--decisions 100000]
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import assert_never

import msgspec
from msgspec import Struct

from authz.model import Allow, Decision, DecisionRecord, Deny, Record, Reply
from authz.review.recordfile import read_records
from authz.telemetry.records import RecordWriter
from authz.telemetry.sinks import FileSink, StreamSink
from tests.place import lay_out, opened_at
from tests.telemetry.failing import FailsHalfWay
from tests.telemetry.traffic import decide


class Found(Struct, frozen=True):
    """written  records of the sink that works · kept, lost: of the sink that fails"""

    decisions: int
    written: int
    kept: int
    lost: int
    kinds: frozenset[str]


def check(folder: Path, count: int) -> Found:
    """Raises `AssertionError` where a record is missing, comes twice or says something else than its answer."""
    config = lay_out(folder)
    config.write_text("store: 'sqlite:///:memory:'\nrecords: {file: ''}\n")
    told: Counter[tuple[str, str]] = Counter()

    def tell(sink: str, outcome: str, records: int) -> None:
        told[sink, outcome] += records

    path = folder / "all.jsonl"
    broken = FailsHalfWay(healthy=count // 4, failing=count // 2)
    sinks = (FileSink(path, max_bytes=20_000_000, keep=1_000), StreamSink("broken", broken))
    decisions: list[Decision] = []
    with opened_at(config) as place:
        writers = [RecordWriter(sink, tell, queued=1_000_000) for sink in sinks]
        pdp = place.engine.pdp

        def write(record: Record) -> None:
            for writer in writers:
                writer.write(record)

        pdp._record = write
        decisions = decide(place, count)
        for writer in writers:
            writer.close()

    answers = {decision.record.decision_id: decision for decision in decisions}
    assert len(answers) == len(decisions)
    numbered = sorted(path.parent.glob("all.jsonl.*"), key=lambda each: -int(each.suffix[1:]))
    written = _compare(answers, [record for file in (*numbered, path) for record in read_records([file])])
    assert told["file", "written"] == written == len(decisions)
    kept = _compare(answers, [msgspec.json.decode(line, type=Record) for line in bytes(broken.taken).split(b"\n")[:-1]])
    assert told["broken", "written"] == kept
    return Found(len(decisions), written, kept, told["broken", "failed"], frozenset(type(each).__name__ for each in decisions))


def _compare(answers: dict[str, Decision], records: Sequence[Record]) -> int:
    """Each record is of one decision, stands once, and says what was answered; answers how many there are."""
    seen: set[str] = set()
    for record in records:
        assert isinstance(record, DecisionRecord)
        assert record.decision_id not in seen
        seen.add(record.decision_id)
        decision = answers[record.decision_id]
        assert msgspec.json.encode(record) == msgspec.json.encode(decision.record)
        match decision:
            case Allow():
                assert (record.effect, record.status, record.reason) == ("allow", 200, None)
                assert record.reservation_id == decision.reservation_id
            case Reply():
                assert (record.effect, record.status, record.reservation_id) == ("allow", 200, "")
            case Deny():
                assert (record.effect, record.status, record.reason) == ("deny", decision.status, decision.reason)
                before, private, after = record.message.partition("…")
                assert decision.message.startswith(before)
                assert decision.message.endswith(after)
                assert private or record.message == decision.message
            case _:
                assert_never(decision)
    return len(seen)


def main() -> None:
    parser = argparse.ArgumentParser(description="a record for every decision")
    parser.add_argument("--decisions", type=int, default=100_000)
    with tempfile.TemporaryDirectory() as folder:
        found = check(Path(folder), parser.parse_args().decisions)
    sys.stdout.write(f"{found}\n")
    assert found.kept + found.lost == found.decisions


if __name__ == "__main__":
    main()
