"""The library: decides and settles as the sidecar does, in any number of threads and tasks, and never in a forked child."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from msgspec import structs

from authz import Allow, AsyncAuthorizer, Denied, Deny, NotOpen, Receipt, Request, Usage, chat_request
from authz.authorizer import AT_ONCE
from authz.errors import StoreUnavailable
from authz.model import DecisionRecord, Outcome, Reply, SettlementRecord
from authz.reasons import Reason
from tests.library import Library, library
from tests.place import UPSTREAM_KEY, lay_out

OPEN = "openai/gpt-oss-120b"
USED = Usage(input_tokens=100, output_tokens=50)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Library]:
    with library(tmp_path) as place:
        yield place


def models_request(secret: str) -> Request:
    return Request("GET", "/openai/v1/models", (("authorization", f"Bearer {secret}"),), b"")


def ended(place: Library) -> tuple[Outcome, str, Usage | None]:
    settlement = place.one()[1]
    return settlement.outcome, settlement.state, settlement.usage


# ---- one request


def test_decide_settle_and_void(place: Library) -> None:
    request = place.request(place.issue("chatbot-prod"))
    first, second = place.authorizer.decide(request), place.authorizer.decide(request)
    assert isinstance(first, Allow)
    assert isinstance(second, Allow)
    for _ in range(2):
        place.authorizer.settle(first.reservation_id, USED)
        place.authorizer.void(second.reservation_id)
        place.authorizer.settle(second.reservation_id, USED)
    records = [record for record in place.records() if isinstance(record, SettlementRecord)]
    assert [(record.state, record.usage) for record in records] == [("settled", USED), ("voided", None)]


@pytest.mark.parametrize("usage", [Usage(0, 0), Usage(-1, 5), Usage(5, 5, 6), Usage(2**40, 1)])
def test_counts_that_cannot_be_are_the_callers_mistake(place: Library, usage: Usage) -> None:
    with pytest.raises(ValueError, match="expected counts of 0 to"):
        place.authorizer.settle("any", usage)


def test_a_block_settles_what_it_says(place: Library) -> None:
    with place.authorizer.reserve(place.request(place.issue("chatbot-prod"))) as call:
        assert call.upstream_key.reveal() == UPSTREAM_KEY
        assert dict(call.headers)["x-ratelimit-limit-requests"] == "500"
        call.settle(USED)
        call.void()  # the first word counts
    assert ended(place) == (Outcome.ANSWERED, "settled", USED)


def test_a_block_that_never_took_the_key_owes_nothing(place: Library) -> None:
    with place.authorizer.reserve(place.request(place.issue("chatbot-prod"))):
        pass
    assert ended(place) == (Outcome.NOT_SENT, "voided", None)


@pytest.mark.parametrize("failing", [False, True])
def test_a_block_that_says_nothing_pays_the_estimate(place: Library, failing: bool) -> None:
    def act() -> None:
        with place.authorizer.reserve(place.request(place.issue("chatbot-prod"))) as call:
            call.upstream_key.reveal()
            if failing:
                raise LookupError("of the block's own")

    if failing:
        with pytest.raises(LookupError, match="own"):
            act()
    else:
        act()
    decision, settlement = place.one()
    assert decision.estimate is not None
    assert settlement.outcome is (Outcome.ABANDONED if failing else Outcome.ANSWERED)
    assert (settlement.state, settlement.amounts) == ("settled", decision.estimate.at_most)


def test_a_block_that_can_prove_that_nothing_left_owes_nothing(place: Library) -> None:
    def act() -> None:
        with place.authorizer.reserve(place.request(place.issue("chatbot-prod"))) as call:
            call.upstream_key.reveal()
            call.void()
            raise ConnectionError

    with pytest.raises(ConnectionError):
        act()
    assert ended(place) == (Outcome.NOT_SENT, "voided", None)


def test_a_denied_block_is_not_entered(place: Library) -> None:
    with pytest.raises(Denied) as caught, place.authorizer.reserve(place.request("authz_wrong")):
        raise AssertionError
    assert caught.value.deny.reason is Reason.INVALID_API_KEY
    assert str(caught.value) == "invalid_api_key: Invalid API Key"


def test_what_is_answered_here_has_no_block(place: Library) -> None:
    request = models_request(place.issue("chatbot-prod"))
    assert isinstance(place.authorizer.decide(request), Reply)
    with pytest.raises(ValueError, match="expected one that goes upstream"), place.authorizer.reserve(request):
        raise AssertionError


def test_many_are_decided_in_order_and_one_denial_touches_no_other(place: Library) -> None:
    secret = place.issue("batch-processor")
    good = place.request(secret)
    requests = [good, place.request("authz_wrong"), place.request(secret, OPEN), models_request(secret), *[good] * 61]
    many = place.authorizer.decide_many(requests)
    assert [type(decision) for decision in many] == [Allow, Deny, Deny, Reply, *[Allow] * 59, Deny, Deny]
    assert [decision.record.decision_id for decision in many] == [
        record.decision_id for record in place.records() if isinstance(record, DecisionRecord)
    ]
    assert place.authorizer.decide_many([]) == ()


def test_many_at_once_are_decided_as_one_after_the_other(tmp_path: Path) -> None:
    found = []
    for name in ("many", "one"):
        (tmp_path / name).mkdir()
        with library(tmp_path / name) as place:
            secrets = [place.issue(key) for key in ("batch-processor", "chatbot-prod", "analytics-reports")]
            requests = [place.request(secret, model) for secret in secrets for model in ("llama-3.1-8b-instant", OPEN) * 31]
            decide = place.authorizer.decide
            decided = place.authorizer.decide_many(requests) if name == "many" else tuple(map(decide, requests))
            own = {"decision_id": "", "time": "", "duration_us": 0, "reservation_id": ""}
            found.append([structs.replace(decision.record, **own) for decision in decided])
    assert found[0] == found[1]


def test_many_are_one_call_of_the_store(place: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    store = place.engine.store
    asked = type(store).reserve_many

    def counted(self: object, holds: list[object], now_ns: int) -> object:
        calls.append(len(holds))
        return asked(self, holds, now_ns)  # type: ignore[arg-type]

    monkeypatch.setattr(type(store), "reserve_many", counted)
    place.authorizer.decide_many([place.request(place.issue("chatbot-prod"))] * 20)
    assert calls == [20]


def test_without_a_store_all_of_many_are_denied_each_for_itself(place: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise StoreUnavailable("locked")

    secret = place.issue("chatbot-prod")
    monkeypatch.setattr(type(place.engine.store), "reserve_many", gone)
    many = place.authorizer.decide_many([place.request(secret), place.request("authz_wrong")])
    assert [decision.record.reason for decision in many] == [Reason.STORE_UNAVAILABLE, Reason.INVALID_API_KEY]


def test_chat_request_is_what_an_sdk_would_send(place: Library) -> None:
    body = {"model": "llama-3.1-8b-instant", "messages": [{"role": "user", "content": "hi"}]}
    request = chat_request(place.issue("chatbot-prod"), body, source_ip="192.0.2.1")
    record = place.authorizer.decide(request).record
    assert (record.effect, record.endpoint, record.source_ip) == ("allow", "chat.completions", "192.0.2.1")


# ---- many at a time

CROWD = 1_000
ROOM = 60


def crowd(place: Library) -> list[Request]:
    secret = place.issue("batch-processor")
    return [place.request(secret)] * CROWD


def assert_exact(place: Library, decided: list[bool]) -> None:
    """Exactly as many as there is room for, each on record once, each ended, nothing left pending."""
    assert (len(decided), sum(decided)) == (CROWD, ROOM)
    records = place.records()
    assert sum(isinstance(record, DecisionRecord) for record in records) == CROWD
    assert sum(isinstance(record, SettlementRecord) for record in records) == ROOM
    rows = place.engine.store.usage("2026-11-30", "2026-11-30")
    assert sum(row.requests for row in rows) == ROOM
    assert sum(row.pending_requests for row in rows) == 0


def test_a65_a_thousand_threads_on_one_authorizer(place: Library) -> None:
    ready = threading.Barrier(CROWD)

    def act(request: Request) -> bool:
        ready.wait()
        try:
            with place.authorizer.reserve(request) as call:
                call.settle(USED)
        except Denied:
            return False
        return True

    before = threading.stack_size(256 * 1024)
    try:
        with ThreadPoolExecutor(CROWD) as threads:
            assert_exact(place, list(threads.map(act, crowd(place))))
    finally:
        threading.stack_size(before)


def test_a65_a_thousand_tasks_on_one_authorizer(place: Library) -> None:
    async def act(authorizer: AsyncAuthorizer, request: Request) -> bool:
        try:
            async with authorizer.reserve(request) as call:
                call.settle(USED)
        except Denied:
            return False
        return True

    async def go(requests: list[Request]) -> list[bool]:
        authorizer = AsyncAuthorizer(place.authorizer)
        found = await asyncio.gather(*(act(authorizer, request) for request in requests))
        authorizer.stop()
        return found

    assert_exact(place, asyncio.run(go(crowd(place))))


def test_threads_and_tasks_share_one(place: Library) -> None:
    request = place.request(place.issue("chatbot-prod"))

    async def go() -> None:
        authorizer = AsyncAuthorizer(place.authorizer)
        both = asyncio.gather(*(authorizer.decide(request) for _ in range(50)))
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(place.authorizer.decide, [request] * 50)) + list(await both)
        assert all(isinstance(decision, Allow) for decision in found)
        authorizer.stop()

    asyncio.run(go())


# ---- tasks


def test_the_same_for_tasks(place: Library) -> None:
    request = place.request(place.issue("chatbot-prod"))

    async def go() -> None:
        authorizer = AsyncAuthorizer(place.authorizer)
        assert authorizer.upstream == place.authorizer.upstream
        first, second = await authorizer.decide_many([request, request])
        assert isinstance(first, Allow)
        assert isinstance(second, Allow)
        await authorizer.settle(first.reservation_id, USED)
        await authorizer.void(second.reservation_id)
        assert isinstance(await authorizer.decide(models_request("authz_wrong")), Deny)
        with pytest.raises(Denied):
            async with authorizer.reserve(place.request("authz_wrong")):
                raise AssertionError
        with pytest.raises(ValueError, match="expected counts"):
            await authorizer.settle("any", Usage(0, 0))
        await authorizer.aclose()
        with pytest.raises(NotOpen):
            await authorizer.decide(request)

    asyncio.run(go())
    states = [record.state for record in place.records() if isinstance(record, SettlementRecord)]
    assert states == ["settled", "voided"]


class Gate:
    """Holds whoever calls through it, until it is opened."""

    def __init__(self) -> None:
        self.reached, self.open = threading.Event(), threading.Event()

    def __call__(self) -> None:
        self.reached.set()
        assert self.open.wait(30)


def held_up(place: Library, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A store that takes its time with every reservation."""
    gate = Gate()
    reserve = place.engine.fallback.reserve

    def slow(*args: object) -> object:
        gate()
        return reserve(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(place.engine.fallback, "reserve", slow)
    return gate


def test_a_task_that_is_cancelled_while_it_is_decided_gives_everything_back(
    place: Library, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, request = held_up(place, monkeypatch), place.request(place.issue("chatbot-prod"))

    async def go() -> None:
        authorizer = AsyncAuthorizer(place.authorizer)
        deciding = asyncio.create_task(authorizer.decide(request))
        await asyncio.to_thread(gate.reached.wait, 30)
        deciding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await deciding
        gate.open.set()
        await authorizer.aclose()

    asyncio.run(go())
    assert ended(place) == (Outcome.NOT_SENT, "voided", None)


def test_a_task_that_is_cancelled_amid_its_block_is_settled(place: Library) -> None:
    request = place.request(place.issue("chatbot-prod"))

    async def go() -> None:
        authorizer, inside = AsyncAuthorizer(place.authorizer), asyncio.Event()

        async def act() -> None:
            async with authorizer.reserve(request) as call:
                call.upstream_key.reveal()
                inside.set()
                await asyncio.Event().wait()

        acting = asyncio.create_task(act())
        await inside.wait()
        acting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await acting
        await authorizer.aclose()

    asyncio.run(go())
    assert ended(place)[:2] == (Outcome.ABANDONED, "settled")


def test_the_loop_goes_on_while_the_store_takes_its_time(place: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, request = held_up(place, monkeypatch), place.request(place.issue("chatbot-prod"))

    async def go() -> None:
        authorizer = AsyncAuthorizer(place.authorizer)
        waiting = [asyncio.create_task(authorizer.decide(request)) for _ in range(2 * AT_ONCE)]
        await asyncio.to_thread(gate.reached.wait, 30)
        assert not any(task.done() for task in waiting)  # this line runs while all of them wait
        gate.open.set()
        assert all(isinstance(decision, Allow) for decision in await asyncio.gather(*waiting))
        await authorizer.aclose()

    asyncio.run(go())


# ---- closing, forking, opening


def test_closed_is_closed(place: Library) -> None:
    place.authorizer.close()
    place.authorizer.close()
    request = place.request("authz_any")
    for act in (
        lambda: place.authorizer.decide(request),
        lambda: place.authorizer.decide_many([request]),
        lambda: place.authorizer.settle("any", USED),
        lambda: place.authorizer.void("any"),
        lambda: place.authorizer.report(Receipt("any", "", Outcome.NOT_SENT, 0, None)),
    ):
        with pytest.raises(NotOpen, match="closed"):
            act()


def test_closing_waits_for_what_is_under_way(place: Library, monkeypatch: pytest.MonkeyPatch) -> None:
    gate, request = held_up(place, monkeypatch), place.request(place.issue("chatbot-prod"))
    with ThreadPoolExecutor(3) as threads:
        deciding = threads.submit(place.authorizer.decide, request)
        assert gate.reached.wait(30)
        closing = [threads.submit(place.authorizer.close) for _ in range(2)]
        assert not deciding.done()
        gate.open.set()
        assert isinstance(deciding.result(30), Allow)
        for each in closing:
            each.result(30)


FORK = """
import os, sys
from authz import Allow, Authorizer, NotOpen, chat_request

config, secret = sys.argv[1:]
request = chat_request(secret, {"model": "llama-3.1-8b-instant", "messages": [{"role": "user", "content": "x"}]})
with Authorizer.open(config) as authorizer:
    assert isinstance(authorizer.decide(request), Allow)
    child = os.fork()
    if child == 0:
        try:
            authorizer.decide(request)
        except NotOpen as error:
            print(error, flush=True)
        authorizer.close()
        with Authorizer.open(config) as own:
            assert isinstance(own.decide(request), Allow)
        print("own", flush=True)
        sys.exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert isinstance(authorizer.decide(request), Allow)
print("parent", flush=True)
"""


def opened_elsewhere(script: str, *arguments: str) -> str:
    environ = {"GROQ_API_KEY": UPSTREAM_KEY, "PATH": "/usr/bin:/bin"}
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def config_and_secret(tmp_path: Path) -> tuple[str, str]:
    config = lay_out(tmp_path)
    command = [sys.executable, "-m", "authz", "keys", "create", "chatbot-prod", "--config", str(config)]
    return str(config), subprocess.check_output(command, text=True).strip()


def test_a_fork_after_opening_is_refused_clearly_and_may_open_its_own(config_and_secret: tuple[str, str]) -> None:
    said = opened_elsewhere(FORK, *config_and_secret).splitlines()
    assert said == ["opened before this process was forked, expected one that was opened in it", "own", "parent"]


HOST = """
import sys
from opentelemetry.metrics import set_meter_provider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from authz import Authorizer, chat_request

config, secret = sys.argv[1:]
reader = InMemoryMetricReader()
set_meter_provider(MeterProvider([reader]))
with Authorizer.open(config) as authorizer:
    authorizer.decide(chat_request(secret, {"model": "gpt-9"}))
    metrics = reader.get_metrics_data().resource_metrics[0].scope_metrics[0].metrics
    print([metric.name for metric in metrics if metric.name == "authz.decisions"])
"""


def test_a_library_serves_no_port_and_counts_with_its_hosts_meters(config_and_secret: tuple[str, str]) -> None:
    """A sidecar has the port of the same settings already."""
    config, secret = config_and_secret
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with Path(config).open("a") as file:
            file.write(f"metrics: {{listen: '127.0.0.1:{taken.getsockname()[1]}'}}\n")
        assert opened_elsewhere(HOST, config, secret).strip() == "['authz.decisions']"
