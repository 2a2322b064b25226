"""Records as JSON lines, written beside the path: a slow or full disk costs records (counted), never a decision."""

from __future__ import annotations

import logging
import queue
import threading
from datetime import UTC, datetime
from types import TracebackType
from typing import BinaryIO, Final, Self

import msgspec

from authz.model import Record

_QUEUE: Final = 10_000
_log = logging.getLogger(__name__)


class RecordWriter:
    """Writes records to a stream from a thread of its own, in the order in which they came. `dropped` counts the lost ones."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._encoder = msgspec.json.Encoder()
        self._queue: queue.Queue[Record | None] = queue.Queue(_QUEUE)
        self.dropped = 0
        self._thread = threading.Thread(target=self._run, name="decision-records", daemon=True)
        self._thread.start()

    def write(self, record: Record) -> None:
        try:
            self._queue.put_nowait(record)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Writes what is queued, then ends. The stream stays open: whoever opened it closes it."""
        self._queue.put(None)
        self._thread.join()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        failing = False
        while (record := self._queue.get()) is not None:
            try:
                self._stream.write(self._encoder.encode(record) + b"\n")
                if self._queue.empty():
                    self._stream.flush()
                failing = False
            except OSError as error:
                self.dropped += 1
                if not failing:
                    _log.error("decision records cannot be written", extra={"error": error.strerror})
                failing = True


def moment(time_ns: int) -> str:
    """RFC 3339 in UTC to the second, rounded down: what clients and people are told."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def timestamp(now_ns: int) -> str:
    """As every record writes a moment: ISO 8601 in UTC, to the millisecond."""
    return datetime.fromtimestamp(now_ns / 1e9, UTC).isoformat(timespec="milliseconds")
