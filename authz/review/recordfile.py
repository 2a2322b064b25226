"""Files of records, read as one stream in the order of their time."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

import msgspec

from authz.errors import ConfigError
from authz.model import Record
from authz.telemetry.records import timestamp

_decode: Final = msgspec.json.Decoder(Record).decode


def read_records(paths: Sequence[Path], advanced: Callable[[int], None] = lambda count: None) -> Iterator[Record]:
    """Every record of all files, the earlier first; each file is in order already, as a sidecar writes it.

    advanced  is told how many bytes were read. Raises `ConfigError` with file and line; a last line that was cut off by the
    end of a process is passed over.
    """
    if len(paths) == 1:
        return _records(paths[0], advanced)
    return heapq.merge(*(_records(path, advanced) for path in paths), key=lambda record: record.time)


def since(records: Iterable[Record], from_ns: int) -> Iterator[Record]:
    """Those of `from_ns` and later."""
    first = timestamp(from_ns)  # every record's time is written alike, so their order is that of the texts
    return (record for record in records if record.time >= first)


def _records(path: Path, advanced: Callable[[int], None]) -> Iterator[Record]:
    try:
        with path.open("rb") as file:
            for number, line in enumerate(file, start=1):
                advanced(len(line))
                try:
                    yield _decode(line)
                except msgspec.MsgspecError as error:
                    if line.startswith(b"{") and not line.endswith(b"\n"):
                        return
                    raise ConfigError(str(path), f"not a record of authz: {error}", line=number, column=1) from None
    except OSError as error:
        raise ConfigError(str(path), f"cannot be read: {(error.strerror or str(error)).lower()}") from None
