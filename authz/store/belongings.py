"""Whose the files and batches at the upstream are, inside one transaction."""

from __future__ import annotations

from typing import Final

import msgspec

from authz.quota.belongings import Belonging
from authz.store.database import Connection

encode: Final = msgspec.msgpack.Encoder().encode
decode: Final = msgspec.msgpack.Decoder(Belonging).decode


def keep(connection: Connection, belonging: Belonging) -> None:
    due_ns = belonging.made_ns if belonging.reservation else None
    connection.execute(
        "INSERT INTO belongings (id, made_ns, due_ns, body) VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (belonging.id, belonging.made_ns, due_ns, encode(belonging)),
    )


def find(connection: Connection, identity: str) -> Belonging | None:
    row = connection.execute("SELECT body FROM belongings WHERE id = ?", (identity,)).fetchone()
    return decode(row[0]) if row is not None else None


def due(connection: Connection, now_ns: int, at_most: int) -> list[tuple[str, bytes]]:
    return connection.execute(
        "SELECT id, body FROM belongings WHERE due_ns <= ? ORDER BY due_ns, id LIMIT ?", (now_ns, at_most)
    ).fetchall()


def claim(connection: Connection, now_ns: int, next_ns: int, at_most: int) -> tuple[Belonging, ...]:
    rows = due(connection, now_ns, at_most)
    connection.executemany("UPDATE belongings SET due_ns = ? WHERE id = ?", [(next_ns, identity) for identity, _ in rows])
    return tuple(decode(body) for _, body in rows)


def ended(connection: Connection, identity: str) -> None:
    connection.execute("UPDATE belongings SET due_ns = NULL WHERE id = ?", (identity,))


def prune(connection: Connection, before_ns: int, at_most: int) -> int:
    return connection.execute(
        "DELETE FROM belongings WHERE id IN (SELECT id FROM belongings WHERE made_ns < ? ORDER BY made_ns LIMIT ?)",
        (before_ns, at_most),
    ).rowcount
