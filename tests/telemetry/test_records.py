"""Records: one JSON line each, off the path; what a broken sink or a full queue loses is counted to the record."""

from __future__ import annotations

import io
import json
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.errors import ConfigError
from authz.model import DecisionRecord, Record, SettlementRecord
from authz.reasons import Reason
from authz.review.recordfile import read_records
from authz.telemetry.records import RecordWriter
from authz.telemetry.sinks import FileSink, StreamSink
from tests.place import lay_out, opened_at
from tests.telemetry.everyrecord import check


def record(message: str = "", **fields: Any) -> DecisionRecord:
    known: dict[str, Any] = {
        "decision_id": "d",
        "time": "2026-11-23T00:00:00.000+00:00",
        "duration_us": 1,
        "reservation_id": "",
        "request_id": "r",
        "bundle": "b",
        "effect": "deny",
        "status": 401,
        "reason": Reason.INVALID_API_KEY,
        "message": message,
    }
    return DecisionRecord(**known | fields)


class Told:
    """What a writer told of."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()

    def __call__(self, sink: str, outcome: str, count: int) -> None:
        self.counts[outcome] += count


def test_a_record_is_one_line_whatever_is_in_it() -> None:
    stream, told = io.BytesIO(), Told()
    with RecordWriter(StreamSink("file", stream), told) as records:  # type: ignore[arg-type]  # takes everything, as raw files do
        records.write(record('a\nb"\u2028'))
        records.write(record("second"))
    lines = stream.getvalue().decode().split("\n")
    assert [json.loads(line)["message"] for line in lines[:-1]] == ['a\nb"\u2028', "second"]
    assert lines[-1] == ""
    assert told.counts == {"written": 2}


class Flaky(io.RawIOBase):
    """Takes `room` bytes, in pieces, then fails; `room` may be raised again."""

    def __init__(self, room: int, piece: int) -> None:
        self.room, self.piece, self.taken = room, piece, b""
        self.failed = threading.Event()

    def write(self, data: Any) -> int:
        if not self.room:
            self.failed.set()
            raise OSError(28, "No space left on device")
        some = bytes(data[: min(self.piece, self.room)])
        self.room -= len(some)
        self.taken += some
        return len(some)


@given(st.lists(st.integers(1, 5), max_size=8), st.lists(st.integers(0, 900), max_size=8), st.integers(1, 400))
def test_lines_stay_whole_and_the_lost_are_counted_whatever_room_there_is(
    batches: list[int], rooms: list[int], piece: int
) -> None:
    stream = Flaky(0, piece)
    sink = StreamSink("file", stream)
    lost = sent = 0
    for index, size in enumerate(batches):
        stream.room += rooms[index] if index < len(rooms) else 0
        lost += sink.write([record(str(sent + number)) for number in range(size)])
        sent += size
    sink.close()
    lost += sink.begun
    whole, rest = stream.taken.split(b"\n")[:-1], stream.taken.split(b"\n")[-1]
    kept = [int(msgspec.json.decode(line, type=Record).message) for line in whole]
    assert len(kept) + lost == sent
    assert kept == sorted(set(kept))
    assert bool(rest) == bool(sink.begun)


@pytest.mark.parametrize("rest_comes", [True, False])
def test_a_line_that_was_begun_is_told_of_once(rest_comes: bool) -> None:
    """As written when its rest is out, as failed where the sink closes before; until then as neither."""
    stream = Flaky(100, 4096)
    told = Told()
    writer = RecordWriter(StreamSink("file", stream), told, gather_s=0)
    writer.write(record("0"))
    assert stream.failed.wait(10)
    stream.room = 100_000 if rest_comes else 0
    writer.write(record("1"))
    writer.close()
    assert told.counts == ({"written": 2} if rest_comes else {"failed": 2})


class Stuck:
    """A sink that takes nothing until it is let go."""

    name = "file"
    begun = 0

    def __init__(self) -> None:
        self.go_on = threading.Event()
        self.entered = threading.Event()
        self.taken: list[Record] = []

    def write(self, records: Sequence[Record]) -> int:
        self.entered.set()
        assert self.go_on.wait(10)
        self.taken += records
        return 0

    def close(self) -> None: ...


def test_a_sink_that_hangs_holds_up_nobody_and_what_did_not_fit_is_counted() -> None:
    sink, told = Stuck(), Told()
    writer = RecordWriter(sink, told, queued=5)
    writer.write(record("0"))
    assert sink.entered.wait(10)  # one is under way, five fit into the queue
    for number in range(1, 9):
        writer.write(record(str(number)))
    assert told.counts == {"queue_full": 3}
    sink.go_on.set()
    writer.close()
    assert told.counts == {"queue_full": 3, "written": 6}
    assert [each.message for each in sink.taken if isinstance(each, DecisionRecord)] == list("012345")


class Batches:
    """Notes how many records came at a time."""

    name = "file"
    begun = 0

    def __init__(self) -> None:
        self.sizes: list[int] = []
        self.entered = threading.Event()

    def write(self, records: Sequence[Record]) -> int:
        self.sizes.append(len(records))
        self.entered.set()
        return 0

    def close(self) -> None: ...


def test_a_record_after_a_pause_leaves_at_once_and_what_follows_leaves_together() -> None:
    sink = Batches()
    writer = RecordWriter(sink, gather_s=60)
    writer.write(record("0"))
    assert sink.entered.wait(10)
    for number in range(1, 9):
        writer.write(record(str(number)))
    writer.close()  # waits for no gathering
    assert sink.sizes == [1, 8]


def test_a_full_file_is_turned_over_between_two_lines_and_the_oldest_go(tmp_path: Path) -> None:
    path = tmp_path / "var" / "decisions.jsonl"
    size = len(msgspec.json.encode(record("000"))) + 1
    with RecordWriter(FileSink(path, max_bytes=3 * size, keep=2)) as writer:
        for number in range(20):
            writer.write(record(f"{number:03}"))
    files = [path, path.with_name("decisions.jsonl.1"), path.with_name("decisions.jsonl.2")]
    assert sorted(path.parent.iterdir()) == sorted(files)
    found = [[each.message for each in read_records([file]) if isinstance(each, DecisionRecord)] for file in files]
    assert found == [["018", "019"], ["015", "016", "017"], ["012", "013", "014"]]
    with RecordWriter(FileSink(path, max_bytes=3 * size, keep=2)) as writer:  # goes on where it was
        writer.write(record("020"))
    assert len(path.read_bytes()) == 3 * size


def test_where_no_new_file_can_be_had_the_old_one_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "decisions.jsonl"
    (tmp_path / "decisions.jsonl.1" / "in-the-way").mkdir(parents=True)
    told = Told()
    with RecordWriter(FileSink(path, max_bytes=10), told) as writer:
        for number in range(5):
            writer.write(record(str(number)))
    assert told.counts == {"written": 5}
    assert len(list(read_records([path]))) == 5


def test_a_place_where_nothing_can_be_written_is_said_at_the_start(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="decision records cannot be written: "):
        FileSink(tmp_path / "file" / "decisions.jsonl")


def test_every_decision_has_a_record_that_equals_its_answer_also_when_a_sink_fails_half_way(tmp_path: Path) -> None:
    """The long run: `python -m tests.telemetry.everyrecord --decisions 100000`."""
    found = check(tmp_path, 600)
    assert found.decisions == found.written
    assert 0 < found.lost < found.decisions
    assert found.kept + found.lost == found.decisions
    assert found.kinds == {"Allow", "Deny", "Reply"}


def test_a_settlement_says_whose_it_was(tmp_path: Path) -> None:
    config = lay_out(tmp_path)
    with opened_at(config) as place:
        secret = place.issue("chatbot-prod")
        decision = place.engine.pdp.decide(place.request(secret))
        place.engine.settler.void(decision.record.reservation_id)
        from tests.telemetry.traffic import receipt

        again = place.engine.pdp.decide(place.request(secret))
        place.engine.settle(receipt(again))  # type: ignore[arg-type]  # an Allow, or the next line fails
    *_, settled = [each for each in read_records([tmp_path / "decisions.jsonl"]) if isinstance(each, SettlementRecord)]
    assert (settled.team, settled.key, settled.model, settled.action) == (
        "chatbot",
        "chatbot-prod",
        "llama-3.1-8b-instant",
        "chat",
    )
