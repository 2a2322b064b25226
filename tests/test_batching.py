"""Batches through the library: the answer itself names the file, so it is known at once; and a review sees them alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import groq
import httpx
import pytest

from authz import AuthorizedTransport
from authz.model import DecisionRecord, Meter, Outcome, Receipt, SettlementRecord
from authz.quota.ledger import State
from authz.review import replay
from tests.e2e.media import CHAT, up, with_batches
from tests.library import Library, library

URL: Any = "/v1/chat/completions"


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Library]:
    with library(tmp_path, change=with_batches) as made:
        yield made


def jsonl(*words: str) -> bytes:
    bodies = ({"model": CHAT, "messages": [{"role": "user", "content": each}], "max_tokens": 30} for each in words)
    rows = ({"custom_id": str(at), "method": "POST", "url": URL, "body": body} for at, body in enumerate(bodies))
    return "\n".join(map(json.dumps, rows)).encode()


def through(place: Library, key: str, call: Callable[[groq.Groq], Any]) -> Any:
    client = httpx.Client(transport=AuthorizedTransport(place.authorizer))
    with groq.Groq(api_key=place.issue(key), max_retries=0, http_client=client) as sdk:
        return call(sdk)


def made(place: Library, *words: str) -> Any:
    file = through(place, "media", lambda sdk: sdk.files.create(file=("b.jsonl", jsonl(*words)), purpose="batch"))
    return through(place, "media", lambda sdk: sdk.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h"))


def collect(place: Library) -> None:
    for _ in range(3):
        place.time.pass_s(30)
        place.engine.collector.collect()


def test_a_batch_is_known_at_once_and_settled_when_it_has_ended(place: Library) -> None:
    batch = made(place, "a", "b" * 200)
    held = [each for each in place.records() if isinstance(each, DecisionRecord)][-1]
    reservation = place.engine.store.find(held.reservation_id)
    assert reservation is not None
    assert (reservation.state, reservation.terms.at_most[Meter.REQUESTS]) == (State.PENDING, 2)
    collect(place)
    used = place.groq.desk.used[batch.id]
    (settled,) = (each for each in place.records() if isinstance(each, SettlementRecord))
    fresh, answered = sum(each.prompt_tokens for each in used), sum(each.completion_tokens for each in used)
    assert (settled.reservation_id, settled.outcome) == (held.reservation_id, Outcome.ANSWERED)
    assert settled.amounts[Meter.SPEND] == up(fresh * 37_500 + answered * 150_000, 1000)
    assert settled.amounts[Meter.REQUESTS] == 2
    output = through(place, "media", lambda sdk: sdk.batches.retrieve(batch.id)).output_file_id
    assert len(through(place, "media", lambda sdk: sdk.files.content(output).read()).splitlines()) == 2


def test_a_settlement_that_comes_twice_or_late_has_one_effect(place: Library) -> None:
    made(place, "a")
    held = [each for each in place.records() if isinstance(each, DecisionRecord)][-1]
    place.time.pass_s(26 * 3600)
    place.engine.settler.expire(100)
    expired = place.engine.store.find(held.reservation_id)
    assert expired is not None
    assert expired.state is State.EXPIRED
    collect(place)
    corrected = place.engine.store.find(held.reservation_id)
    assert corrected is not None
    assert corrected.state is State.CORRECTED
    place.engine.settler.settle_batch(held.reservation_id, None, 1)
    place.engine.settle(Receipt(held.reservation_id, "", Outcome.ANSWERED, 200, None))
    assert place.engine.store.balances() == place.engine.store.replay()
    assert sum(row.pending_requests for row in place.engine.store.usage("2000-01-01", "2999-12-31")) == 0


def test_the_same_bundle_decides_recorded_batches_as_it_did(place: Library) -> None:
    made(place, "a", "b")
    collect(place)
    with pytest.raises(groq.ConflictError):
        through(place, "rivals", lambda sdk: sdk.batches.retrieve("batch_00000002"))
    records = place.records()
    outcomes = replay.run(place.engine.bundle, records)
    assert outcomes.judged > 0
    assert not {change: count for change, count in outcomes.changed.items() if change.before == "allow"}
    spend = outcomes.spend["media"]
    assert spend.before_nanousd == spend.after_nanousd > 0


def test_a_team_that_may_no_longer_make_batches_makes_none_of_what_it_has_uploaded(place: Library) -> None:
    file = through(place, "media", lambda sdk: sdk.files.create(file=("b.jsonl", jsonl("a")), purpose="batch"))
    (place.folder / "policies/stop.cedar").write_text(
        '@id("stop")\nforbid (principal, action == Action::"chat", resource)\nwhen { context.service_tier == "batch" };\n'
    )
    assert place.engine.source.refresh(), place.engine.source.status
    with pytest.raises(groq.PermissionDeniedError, match="Denied by policy `stop`"):
        through(place, "media", lambda sdk: sdk.batches.create(input_file_id=file.id, endpoint=URL, completion_window="24h"))
