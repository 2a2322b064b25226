"""Every reservation in a store's books, whatever became of it: what no report of the product lists, read where it is kept."""

from __future__ import annotations

import sqlite3
import time
from collections import defaultdict
from contextlib import closing
from typing import Final

from msgspec import Struct

from authz.quota.ledger import State
from authz.store.redis.rows import decode_mixed
from tests.chaos.fleet import Fleet

STATES: Final = (State.PENDING, State.SETTLED, State.VOIDED, State.EXPIRED, State.CORRECTED)
"""By the numbers that both stores have for them."""


class Reserved(Struct, frozen=True):
    id: str
    request_id: str
    state: State
    deadline_ns: int


def by_request(fleet: Fleet) -> dict[str, list[Reserved]]:
    """Under Envoy's own id of the request that each was made for."""
    found: dict[str, list[Reserved]] = defaultdict(list)
    for each in _redis(fleet) if fleet.redis is not None else _sqlite(fleet):
        found[each.request_id].append(each)
    return found


def pending(fleet: Fleet) -> int:
    return sum(each.state is State.PENDING for group in by_request(fleet).values() for each in group)


def overdue(fleet: Fleet, sweep_ns: int = 2_000_000_000) -> int:
    """Reservations that are pending although their deadline and a sweep are over: none, or they leak (I8)."""
    line_ns = time.time_ns() - sweep_ns
    groups = by_request(fleet).values()
    return sum(each.state is State.PENDING and each.deadline_ns < line_ns for group in groups for each in group)


def _sqlite(fleet: Fleet) -> list[Reserved]:
    with closing(sqlite3.connect(f"file:{fleet.store_path}?mode=ro", uri=True, timeout=5)) as connection:
        rows = connection.execute("SELECT id, request_id, state, deadline_ns FROM reservations").fetchall()
    return [Reserved(identity, request_id, STATES[state], deadline) for identity, request_id, state, deadline in rows]


def _redis(fleet: Fleet) -> list[Reserved]:
    assert fleet.redis is not None
    client = fleet.redis.client
    found = []
    for name in client.scan_iter(match="authz:*:heads"):
        for identity, head in client.hscan_iter(name, count=1000):
            state, _, _, deadline, request_id, *_ = decode_mixed(head)
            found.append(Reserved(identity.decode(), str(request_id), STATES[int(state)], int(deadline)))
    return found
