"""Records as JSON lines: to standard output, or to a file that is turned over when it is full.

Nothing is buffered here, so that what is lost is known to the line. A line that was begun stays begun: its rest comes before
the next one, so that a disk with room again goes on with whole lines.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
from collections.abc import Iterator, Sequence
from io import RawIOBase
from pathlib import Path
from typing import Final, cast

import msgspec

from authz.errors import ConfigError
from authz.model import Record

_lines_of: Final = msgspec.json.Encoder().encode_lines
"""A line holds no line break but its last byte: in JSON they are escaped. So line breaks count lines."""

_log = logging.getLogger(__name__)


class StreamSink:
    """Lines to a raw stream, which may take a part of what it is given, or fail. It is not closed here."""

    def __init__(self, name: str, stream: RawIOBase) -> None:
        self.name: Final = name
        self._stream = stream
        self._rest = b""
        self._failing = False

    def write(self, records: Sequence[Record]) -> int:
        return self._write(_lines_of(records))

    @property
    def begun(self) -> int:
        return 1 if self._rest else 0

    def close(self) -> None: ...

    def _write(self, lines: bytes) -> int:
        """Answers how many of the lines are lost; one that was begun is not, as long as its rest is kept."""
        data = self._rest + lines
        written = self._push(data)
        if written == len(data):
            self._rest = b""
            return 0
        if written < len(self._rest):
            self._rest = self._rest[written:]
            return lines.count(b"\n")
        begun = written > 0 and data[written - 1 : written] != b"\n"
        self._rest = data[written : data.index(b"\n", written) + 1] if begun else b""
        return data.count(b"\n", written) - begun

    def _push(self, data: bytes) -> int:
        """Answers how many bytes the stream took before it failed."""
        written, view = 0, memoryview(data)
        try:
            while written < len(data):
                taken = self._stream.write(view[written:])
                if not taken:
                    raise BlockingIOError(errno.EAGAIN, "it takes nothing")
                written += taken
        except OSError as error:
            self._failed(error)
        else:
            self._failing = False
        return written

    def _failed(self, error: OSError) -> None:
        if not self._failing:  # once, not for every record
            _log.error("decision records cannot be written", extra={"sink": self.name, "error": error.strerror})
        self._failing = True


class FileSink(StreamSink):
    """A file, and at most `keep` older ones beside it: `x.jsonl.1` is the newest of these.

    max_bytes  after which a new file is begun, between two lines; 0 for never
    """

    def __init__(self, path: Path, *, max_bytes: int = 0, keep: int = 1) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            super().__init__("file", _append(path))
        except OSError as error:
            raise ConfigError(str(path), f"decision records cannot be written: {(error.strerror or '').lower()}") from None
        self._path, self._max_bytes, self._keep = path, max_bytes, keep

    def close(self) -> None:
        self._stream.close()

    def _write(self, lines: bytes) -> int:
        if not self._max_bytes:
            return super()._write(lines)
        size = self._stream.seek(0, 2)
        if size + len(lines) <= self._max_bytes:
            return super()._write(lines)
        lost, begun = 0, 0
        for start, end in _spans(lines):
            if size and size + end - start > self._max_bytes:
                lost += super()._write(lines[begun:start])
                begun, size = start, self._turn_over()
            size += end - start
        return lost + super()._write(lines[begun:])

    def _turn_over(self) -> int:
        """Answers the size of the file to go on with. Where a new one cannot be had that is the old one."""
        if self._rest:  # the end of a line belongs to its beginning
            return self._stream.seek(0, 2)
        try:
            if self._is_mine():
                for number in range(self._keep - 1, 0, -1):
                    older = self._numbered(number)
                    if older.exists():
                        older.replace(self._numbered(number + 1))
                self._path.replace(self._numbered(1))
            fresh = _append(self._path)
        except OSError as error:
            self._failed(error)
            return self._stream.seek(0, 2)
        self._stream.close()
        self._stream = fresh
        return fresh.seek(0, 2)

    def _is_mine(self) -> bool:
        """Whether the file is still the one that is written to: another worker may have turned it over before."""
        return self._path.stat().st_ino == os.fstat(self._stream.fileno()).st_ino

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


def standard_output() -> StreamSink:
    return StreamSink("stdout", cast("RawIOBase", open(sys.stdout.fileno(), "wb", buffering=0, closefd=False)))


def _spans(lines: bytes) -> Iterator[tuple[int, int]]:
    """Where each line begins and ends."""
    start = 0
    while start < len(lines):
        end = lines.index(b"\n", start) + 1
        yield start, end
        start = end


def _append(path: Path) -> RawIOBase:
    return cast("RawIOBase", path.open("ab", buffering=0))
