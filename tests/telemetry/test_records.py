"""Decision records: one JSON line each, off the path, and a broken sink costs records that are counted."""

from __future__ import annotations

import io
import json

from authz.model import DecisionRecord
from authz.reasons import Reason
from authz.telemetry.records import RecordWriter


def record(message: str = "") -> DecisionRecord:
    return DecisionRecord(
        decision_id="d",
        time="2026-11-23T00:00:00.000+00:00",
        duration_us=1,
        reservation_id="",
        request_id="r",
        bundle="b",
        effect="deny",
        status=401,
        reason=Reason.INVALID_API_KEY,
        message=message,
    )


def test_a_record_is_one_line_whatever_is_in_it() -> None:
    stream = io.BytesIO()
    with RecordWriter(stream) as records:
        records.write(record('a\nb"\u2028'))
        records.write(record("second"))
    lines = stream.getvalue().decode().split("\n")
    assert [json.loads(line)["message"] for line in lines[:-1]] == ['a\nb"\u2028', "second"]
    assert lines[-1] == ""


class Broken(io.BytesIO):
    def write(self, data: object) -> int:
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_counted_and_nothing_is_raised() -> None:
    with RecordWriter(Broken()) as records:
        for _ in range(3):
            records.write(record())
    assert records.dropped == 3
