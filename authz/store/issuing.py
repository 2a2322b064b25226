"""Issued keys and the audit chain, inside one transaction."""

from __future__ import annotations

from authz.identity.keys import IssuedKey, decode_row, encode_row
from authz.store.database import Connection


def change(connection: Connection, number: int, entry: bytes, rows: tuple[IssuedKey, ...]) -> bool:
    kept = connection.execute("SELECT body FROM audit WHERE number = ?", (number,)).fetchone()
    if kept is not None:
        return bool(kept[0] == entry)
    (last,) = connection.execute("SELECT coalesce(max(number), 0) FROM audit").fetchone()
    if number != last + 1 or any(_sequence(connection, row.digest) != row.sequence for row in rows):
        return False
    connection.execute("INSERT INTO audit (number, body) VALUES (?, ?)", (number, entry))
    for row in rows:
        connection.execute(
            "INSERT OR REPLACE INTO issued_keys (digest, sequence, body)"
            " VALUES (?, (SELECT coalesce(max(sequence), 0) + 1 FROM issued_keys), ?)",
            (row.digest, encode_row(row)),
        )
    return True


def _sequence(connection: Connection, digest: str) -> int:
    row = connection.execute("SELECT sequence FROM issued_keys WHERE digest = ?", (digest,)).fetchone()
    return int(row[0]) if row is not None else 0


def keys_since(connection: Connection, sequence: int, at_most: int) -> tuple[IssuedKey, ...]:
    rows = connection.execute(
        "SELECT body, sequence FROM issued_keys WHERE sequence > ? ORDER BY sequence LIMIT ?", (sequence, at_most)
    )
    return tuple(decode_row(body, number) for body, number in rows)


def note_uses(connection: Connection, uses: dict[str, int]) -> None:
    connection.executemany(
        "INSERT INTO key_uses (digest, used_ns) VALUES (?, ?)"
        " ON CONFLICT (digest) DO UPDATE SET used_ns = max(used_ns, excluded.used_ns)",
        uses.items(),
    )


def key_uses(connection: Connection) -> dict[str, int]:
    return dict(connection.execute("SELECT digest, used_ns FROM key_uses").fetchall())


def audit_since(connection: Connection, number: int, at_most: int) -> tuple[bytes, ...]:
    rows = connection.execute("SELECT body FROM audit WHERE number > ? ORDER BY number LIMIT ?", (number, at_most))
    return tuple(body for (body,) in rows)


def audit_last(connection: Connection) -> bytes:
    row = connection.execute("SELECT body FROM audit ORDER BY number DESC LIMIT 1").fetchone()
    return bytes(row[0]) if row is not None else b""
