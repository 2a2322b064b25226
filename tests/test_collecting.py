"""A batch is settled once, from what its output says, and from nothing that cannot be its output."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest
from msgspec import structs

from authz.collecting import GIVE_UP_NS, Collector, Found, Reader, Unreadable, added
from authz.model import Secret, Usage, Work
from authz.quota.belongings import Belonging
from authz.store import Store, open_store
from demo.standin import StandIn

NS = 10**9
KEY = "gsk_made_up"
WORK = Work("m", "chat", "/v1/chat/completions", 3, 100, 40, 30, 20, 60, 20, False)
BATCH = Belonging("batch_1", "acme", "bulk", "m", WORK, "r1", 0)


def row(name: str, usage: Any = None, status: int = 200) -> bytes:
    body = {"id": "x"} | ({"usage": usage} if usage else {})
    return json.dumps({"custom_id": name, "response": {"status_code": status, "body": body}, "error": None}).encode()


def used(prompt: int, completion: int, cached: int = 0) -> dict[str, Any]:
    details = {"cached_tokens": cached}
    return {"prompt_tokens": prompt, "completion_tokens": completion, "prompt_tokens_details": details}


class Upstream:
    """What it answers by path; a status where it does not."""

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {f"/{path.replace('__', '/')}": answer for path, answer in answers.items()}
        self.asked: list[str] = []

    def __call__(self, path: str, key: Secret) -> Iterator[bytes]:
        assert key.reveal() == KEY
        self.asked.append(path)
        answer = self.answers.get(path)
        if answer is None:
            raise Unreadable("status 404")
        whole = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        for at in range(0, len(whole), 97):
            yield whole[at : at + 97]


class Settler:
    def __init__(self) -> None:
        self.settled: list[tuple[str, Usage | None, int]] = []

    def settle_batch(self, reservation_id: str, usage: Usage | None, answered: int) -> None:
        self.settled.append((reservation_id, usage, answered))


class Place:
    def __init__(self, upstream: Upstream) -> None:
        self.store: Store = open_store("sqlite:///:memory:")
        self.store.keep(BATCH)
        self.settler, self.now_ns, self.key = Settler(), 0, Secret(KEY)
        self.collector = Collector(
            self.store,
            self.settler,
            read=upstream,
            key=lambda team, now_ns: self.key,
            clock=lambda: self.now_ns,
            every_ns=30 * NS,
        )

    def collect(self, after_s: int = 0) -> int:
        """How many have ended."""
        self.now_ns += after_s * NS
        before = len(self.settler.settled)
        self.collector.collect()
        return len(self.settler.settled) - before


def said(status: str, output: str | None = None, **more: Any) -> dict[str, Any]:
    return {"id": "batch_1", "object": "batch", "status": status, "output_file_id": output} | more


def test_a_batch_is_asked_after_until_it_has_ended_and_settled_once() -> None:
    upstream = Upstream(batches__batch_1=said("in_progress"))
    place = Place(upstream)
    assert (place.collect(), place.collect(), place.settler.settled) == (0, 0, [])
    assert upstream.asked == ["/batches/batch_1"], "once in thirty seconds"
    upstream.answers |= {
        "/batches/batch_1": said("completed", "file-o", error_file_id="file-e"),
        "/files/file-o/content": row("a", used(10, 5)) + b"\n" + row("b", used(20, 6, 4)) + b"\n",
    }
    assert place.collect(30) == 1
    assert place.settler.settled == [("r1", Usage(30, 11, 4), 2)]
    assert place.collect(3000) == 0
    for name in ("file-o", "file-e"):
        found = place.store.belonging(name)
        assert found is not None
        assert (found.team, found.organisation, found.model, found.work) == ("bulk", "acme", "m", None)


@pytest.mark.parametrize("status", ["failed", "expired", "cancelled"])
def test_a_batch_that_wrote_nothing_used_nothing(status: str) -> None:
    place = Place(Upstream(batches__batch_1=said(status)))
    assert place.collect() == 1
    assert place.settler.settled == [("r1", Usage(0, 0), 0)]


@pytest.mark.parametrize("status", ["expired", "cancelled"])
def test_what_was_answered_before_the_end_counts(status: str) -> None:
    place = Place(Upstream(batches__batch_1=said(status, "f"), files__f__content=row("a", used(1, 2))))
    assert place.collect() == 1
    assert place.settler.settled == [("r1", Usage(1, 2), 1)]


@pytest.mark.parametrize(
    "answers",
    [
        {},
        {"batches__batch_1": b"<html>"},
        {"batches__batch_1": b"x" * 2**21},
        {"batches__batch_1": said("completed", "f") | {"id": "batch_2"}},
        {"batches__batch_1": said("completed", "../batches")},
        {"batches__batch_1": said("completed", "f")},
        {"batches__batch_1": said("completed", "f"), "files__f__content": b"not JSON"},
        {"batches__batch_1": said("completed", "f"), "files__f__content": row("a") + b"\n" + row("a")},
        {"batches__batch_1": said("completed", "f"), "files__f__content": b"\n".join(map(row, "abcd"))},
        {"batches__batch_1": said("a new word")},
    ],
)
def test_what_cannot_be_read_settles_nothing_and_is_tried_again(answers: dict[str, Any]) -> None:
    upstream = Upstream(**answers)
    place = Place(upstream)
    assert (place.collect(), place.settler.settled) == (0, [])
    asked = len(upstream.asked)
    place.collect(30)
    assert len(upstream.asked) == 2 * asked


def test_after_a_week_and_a_day_nobody_asks_any_more() -> None:
    upstream = Upstream()
    place = Place(upstream)
    place.collect(GIVE_UP_NS // NS + 1)
    place.collect(60)
    assert (upstream.asked, place.settler.settled) == ([], [])


def test_many_are_due_at_once_and_none_is_forgotten() -> None:
    place = Place(Upstream(**{f"batches__b{number}": said("failed", id=f"b{number}") for number in range(45)}))
    place.store.batch_ended(BATCH.id)
    for number in range(45):
        place.store.keep(structs.replace(BATCH, id=f"b{number}", reservation=f"r{number}"))
    assert [place.collector.collect() for _ in range(4)] == [True, True, False, False]
    assert sorted(name for name, _, _ in place.settler.settled) == sorted(f"r{number}" for number in range(45))


def test_without_a_key_it_waits() -> None:
    upstream = Upstream(batches__batch_1=said("failed"))
    place = Place(upstream)
    place.key = None  # type: ignore[assignment]
    assert (place.collect(), upstream.asked) == (0, [])
    place.key = Secret(KEY)
    assert place.collect(30) == 1


@pytest.mark.parametrize(
    "strange", [None, used(0, 5), used(-1, 5), used(2**30, 1), {"prompt_tokens": 1}, {"prompt_tokens": "1"}, "text"]
)
def test_a70_one_answered_line_without_a_count_leaves_the_bound(strange: Any) -> None:
    assert added([row("a", used(10, 5)), row("b", strange)], 3) == Found(None, 2)


def test_lines_that_were_not_answered_cost_nothing() -> None:
    rows = [row("a", used(10, 5)), row("b", used(7, 7), status=400), json.dumps({"custom_id": "c", "response": None}).encode()]
    assert added(rows, 3) == Found(Usage(10, 5), 1)


def test_the_upstream_is_asked_with_its_own_key_and_nobody_in_the_clear() -> None:
    with StandIn(KEY) as groq, closing(Reader(f"{groq.url}/openai/v1")) as read:
        assert b'"object"' in b"".join(read("/models", Secret(KEY)))
        assert groq.received()[-1].header("authorization") == (f"Bearer {KEY}",)
        with pytest.raises(Unreadable, match="status 404"):
            next(read("/batches/b", Secret(KEY)))
        with pytest.raises(Unreadable, match="status 401"):
            next(read("/models", Secret("gsk_other")))
        groq.stop()
        with pytest.raises(Unreadable, match=r"ConnectError|RemoteProtocolError"):
            next(read("/models", Secret(KEY)))
    with pytest.raises(Unreadable, match="in the clear"):
        next(Reader("http://192.0.2.1/openai/v1")("/models", Secret(KEY)))
