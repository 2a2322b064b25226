"""Records on their way out, beside the path: a slow or broken sink costs records, which are counted, and never a decision."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from queue import Empty, SimpleQueue
from types import TracebackType
from typing import Final, Protocol, Self

from authz.model import Record

_QUEUE: Final = 10_000
_BATCH: Final = 256
"""Records that a sink gets at a time: what it does with them it does under the interpreter's one lock, and decisions wait."""

GATHER_S: Final = 0.05
"""How long records gather. A thread that wakes up takes the lock from the decisions, and that costs these far more than the
encoding of what it wakes up for."""

_CLOSE_S: Final = 5.0

WRITTEN: Final = "written"
QUEUE_FULL: Final = "queue_full"
FAILED: Final = "failed"

_log = logging.getLogger(__name__)


class Sink(Protocol):
    """Where records end. Used by one thread at a time; neither method raises for what the outside does."""

    @property
    def name(self) -> str:
        """`stdout`, `file` or `otlp`."""
        ...

    @property
    def begun(self) -> int:
        """How many records are out in part, and neither written nor lost so far; what is begun when it is closed is lost."""
        ...

    def write(self, records: Sequence[Record]) -> int:
        """Answers how many of them are lost."""
        ...

    def close(self) -> None: ...


class RecordWriter:
    """Gives records to one sink from a thread of its own, in the order in which they came.

    queued  records that wait, at most; each thread that writes at the same instant may add one more
    gather_s  from one call of the sink to the next, unless a whole batch waits: what comes after a pause goes out at once
    told  is told how many were `written`, or lost because of a `queue_full` or a sink that `failed`. Every record that came to
          `write` is told of once, at the latest when `close` is over; only of a sink that hangs by then nothing is known.
    """

    def __init__(
        self,
        sink: Sink,
        told: Callable[[str, str, int], None] = lambda sink, outcome, count: None,
        *,
        queued: int = _QUEUE,
        gather_s: float = GATHER_S,
    ) -> None:
        self._sink, self._told, self._gather_s = sink, told, gather_s
        self._queue: SimpleQueue[Record | None] = SimpleQueue()
        self._queued, self._dropped = queued, 0
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"records-{sink.name}", daemon=True)
        self._thread.start()

    def write(self, record: Record) -> None:
        """Never waits."""
        if self._queue.qsize() < self._queued:
            self._queue.put(record)
        else:
            self._dropped += 1
            self._told(self._sink.name, QUEUE_FULL, 1)

    def close(self) -> None:
        """Gives the sink what is queued, then ends. A sink that does not come back is left alone after some seconds."""
        self._queue.put(None)
        self._closing.set()
        self._thread.join(_CLOSE_S)
        if self._thread.is_alive():
            _log.error("a sink of decision records does not answer", extra={"sink": self._sink.name})

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _run(self) -> None:
        going_on, dropped = True, 0
        while going_on:
            batch = self._batch()
            going_on = batch[-1] is not None
            records = [record for record in batch if record is not None]
            if records:
                begun = self._sink.begun
                lost = self._sink.write(records)
                self._tell(len(records) + begun - lost - self._sink.begun, lost)
            if (missed := self._dropped) != dropped:  # told from here: a log line on the path could wait for a terminal
                _log.error("records came faster than their sink takes them", extra={"sink": self._sink.name, "lost": missed})
                dropped = missed
            if self._queue.qsize() < _BATCH:
                self._closing.wait(self._gather_s)
        self._sink.close()
        self._tell(0, self._sink.begun)

    def _batch(self) -> list[Record | None]:
        """What waits, at least one; None is the end."""
        batch = [self._queue.get()]
        while batch[-1] is not None and len(batch) < _BATCH:
            try:
                batch.append(self._queue.get_nowait())
            except Empty:
                break
        return batch

    def _tell(self, written: int, lost: int) -> None:
        if written:
            self._told(self._sink.name, WRITTEN, written)
        if lost:
            self._told(self._sink.name, FAILED, lost)


def moment(time_ns: int) -> str:
    """RFC 3339 in UTC to the second, rounded down: what clients and people are told."""
    return datetime.fromtimestamp(time_ns // 1_000_000_000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def timestamp(now_ns: int) -> str:
    """As every record writes a moment: ISO 8601 in UTC, to the millisecond, rounded down."""
    second, rest = divmod(now_ns, 1_000_000_000)
    return f"{_second(second)}.{rest // 1_000_000:03}+00:00"


@lru_cache(maxsize=64)
def _second(epoch_s: int) -> str:
    return datetime.fromtimestamp(epoch_s, UTC).strftime("%Y-%m-%dT%H:%M:%S")
