"""What was learned of each key and model, inside one transaction."""

from __future__ import annotations

from typing import Final

import msgspec

from authz.quota.calibration import Lesson, added
from authz.store.database import Connection

_encode: Final = msgspec.msgpack.Encoder().encode
_decode: Final = msgspec.msgpack.Decoder(dict[int, int]).decode


def learn(connection: Connection, lessons: tuple[Lesson, ...], now_ns: int) -> None:
    for lesson in lessons:
        name = (lesson.key, lesson.model)
        row = connection.execute("SELECT counts FROM lessons WHERE key = ? AND model = ?", name).fetchone()
        counts = added(_decode(row[0]) if row is not None else {}, lesson.counts)
        connection.execute(
            "INSERT OR REPLACE INTO lessons (key, model, at_ns, counts) VALUES (?, ?, ?, ?)", (*name, now_ns, _encode(counts))
        )


def learned_since(connection: Connection, sequence: int, at_most: int) -> tuple[Lesson, ...]:
    rows = connection.execute(
        "SELECT key, model, counts, sequence FROM lessons WHERE sequence > ? ORDER BY sequence LIMIT ?", (sequence, at_most)
    )
    return tuple(Lesson(key, model, _decode(counts), number) for key, model, counts, number in rows)


def prune(connection: Connection, before_ns: int, at_most: int) -> int:
    """The rows that were changed longest ago come first, whatever is in them."""
    return connection.execute(
        "DELETE FROM lessons WHERE sequence IN ("
        " SELECT sequence FROM (SELECT sequence, at_ns FROM lessons ORDER BY sequence LIMIT ?) WHERE at_ns < ?)",
        (at_most, before_ns),
    ).rowcount
