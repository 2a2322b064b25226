"""Alerts inside one transaction: written where a settlement reaches a threshold, handed out until each target has them."""

from __future__ import annotations

from typing import Final

import msgspec

from authz.quota.ledger import DELIVER_WITHIN_NS, Alert, Charge, Delivery, alert_id
from authz.store import accounts
from authz.store.database import Connection

_encode: Final = msgspec.json.Encoder().encode
_decode: Final = msgspec.json.Decoder(Alert).decode


def write(
    connection: Connection,
    charges: tuple[Charge, ...],
    organisation: str,
    posted_in: dict[str, tuple[int, int, int]],
    now_ns: int,
) -> tuple[Alert, ...]:
    """The thresholds reached that nobody has been told of. The row that is written here is what makes it once.

    posted_in  by the name of each counter in which something was posted: its id, the bucket, and what is posted in that
    """
    told: list[Alert] = []
    for charge in charges:
        if not charge.alerts_at or charge.counter not in posted_in:
            continue
        counter, bucket, posted = posted_in[charge.counter]
        if posted < charge.alerts_at[0]:
            continue
        raised = total_raised(connection, charge.counter, bucket)
        for alert in accounts.alerts_due(charge, posted, raised=raised, organisation=organisation):
            inserted = connection.execute(
                "INSERT OR IGNORE INTO alerts (counter, bucket, threshold, id, at_ns, body) VALUES (?, ?, ?, ?, ?, ?)",
                (counter, bucket, alert.threshold, alert_id(charge.counter, bucket, alert.threshold), now_ns, _encode(alert)),
            )
            if inserted.rowcount == 1:
                told.append(alert)
    return tuple(told)


def total_raised(connection: Connection, counter: str, bucket: int) -> int:
    """What the raises of a period add up to, from the record itself."""
    (total,) = connection.execute(
        "SELECT coalesce(sum(amount), 0) FROM raises WHERE counter = ? AND bucket = ?", (counter, bucket)
    ).fetchone()
    return int(total)


def waiting(connection: Connection, target: str, now_ns: int, at_most: int) -> tuple[Delivery, ...]:
    """What `target` could be told of now, as if it were claimed."""
    rows = connection.execute(
        "SELECT alerts.id, body, bucket, at_ns, coalesce(attempts, 0) FROM alerts"
        " LEFT JOIN deliveries ON alert = alerts.id AND target = ?"
        " WHERE at_ns >= ? AND coalesce(delivered_ns, 0) = 0 AND coalesce(next_ns, 0) <= ?"
        " ORDER BY at_ns, alerts.id LIMIT ?",
        (target, now_ns - DELIVER_WITHIN_NS, now_ns, at_most),
    )
    return tuple(
        Delivery(identity, _decode(body), bucket, at_ns, attempts + 1) for identity, body, bucket, at_ns, attempts in rows
    )


def claim(connection: Connection, target: str, now_ns: int, lease_ns: int, at_most: int) -> tuple[Delivery, ...]:
    found = waiting(connection, target, now_ns, at_most)
    connection.executemany(
        "INSERT OR REPLACE INTO deliveries (target, alert, attempts, next_ns, delivered_ns) VALUES (?, ?, ?, ?, 0)",
        [(target, delivery.id, delivery.attempts, now_ns + lease_ns) for delivery in found],
    )
    return found


def delivered(connection: Connection, target: str, alert: str, now_ns: int) -> None:
    connection.execute("UPDATE deliveries SET delivered_ns = ? WHERE target = ? AND alert = ?", (now_ns, target, alert))


def retry(connection: Connection, target: str, alert: str, next_ns: int) -> None:
    connection.execute("UPDATE deliveries SET next_ns = ? WHERE target = ? AND alert = ?", (next_ns, target, alert))
