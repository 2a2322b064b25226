"""The short version of `make chaos`, and proof that its auditor finds what it looks for."""

from __future__ import annotations

import sqlite3
from contextlib import closing

import pytest
from msgspec.structs import replace

from authz.quota.ledger import State
from demo.standin import Received
from tests.chaos import books
from tests.chaos.audit import Watch, audit
from tests.chaos.faults import pause
from tests.chaos.fleet import OPEN_KEY, Fleet, Kind, Plan, capped
from tests.chaos.load import PROMPT, Load
from tests.chaos.schedule import Row, callers, named, run, strike

pytestmark = pytest.mark.xdist_group("chaos")

SECONDS = 1.2
NOBODY = "a key that nobody issued"


def check(rows: list[Row]) -> None:
    for row in rows:
        assert not row.broken, f"{row.fault}: {row.broken}"
        assert not row.skipped
        assert row.found.upstream > 0
        assert row.found.looks > 0
        assert 0 < row.found.highest <= row.found.cap
    assert any(row.unavailable for row in rows), "nobody felt anything of it"


def test_faults_of_redis_break_no_promise() -> None:
    check(list(run(Plan(Kind.REDIS, sidecars=1, ttl_s=3), named(["redis killed", "redis network refuse"]), SECONDS)))


def test_faults_of_one_file_break_no_promise_and_the_auditor_would_see_it() -> None:
    with Fleet(Plan(Kind.SQLITE, sidecars=1, ttl_s=3)) as fleet, Watch(fleet) as watch:
        faults = named(["all sidecars killed", "database locked", "no file may grow"])
        check([strike(fleet, watch, fault, capped(number), SECONDS) for number, fault in enumerate(faults)])
        before = len(fleet.groq.received())
        with Load(fleet.url, callers(fleet, capped(9)), threads=2) as load:
            pause(0.5)
        received = fleet.groq.received()[before:]
        assert audit(fleet, load.sent, received, watch).broken == []
        tamper(fleet, {request.header("x-request-id")[0] for request in received})
        watch.above = 1
        said = "\n".join(audit(fleet, load.sent, [*received, _as_if_from(received, load, NOBODY)], watch).broken)
    for finding in (
        "1 reservations are pending",
        "overspent",
        "1 acknowledged reservations lost",
        "settled with other tokens",
        f"failed open for `{NOBODY}`",
        "balances are not",
        "a secret is in leak",
    ):
        assert finding in said


def tamper(fleet: Fleet, request_ids: set[str]) -> None:
    """Breaks every promise by hand."""
    ours = [each for name, group in books.by_request(fleet).items() if name in request_ids for each in group]
    victim, other, *_ = [each.id for each in ours if each.state is State.SETTLED]
    with closing(sqlite3.connect(fleet.store_path)) as connection:
        connection.execute("DELETE FROM reservations WHERE id = ?", (victim,))
        connection.execute("UPDATE reservations SET state = 0, deadline_ns = 9000000000000000000 WHERE id = ?", (other,))
        connection.execute("DELETE FROM journal WHERE reservation = ?", (other,))
        connection.commit()
    (fleet.folder / "leak").write_text(fleet.secrets[OPEN_KEY])
    for config in fleet.configs:
        path = config.parent / "decisions.jsonl"
        path.write_text(path.read_text().replace('"output_tokens":', '"output_tokens":1'))


def _as_if_from(received: list[Received], load: Load, name: str) -> Received:
    """A request of somebody's who must never get through, as it would look at the upstream."""
    (number, *_) = [each.number for each in load.sent if each.caller.name == name]
    return replace(received[0], body=f"{PROMPT} {number};".encode())
