"""A65 to A83: what is held, what is posted, and what nobody gets for nothing."""

from __future__ import annotations

import json
import socket
import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from time import monotonic, time_ns
from typing import Any
from zoneinfo import ZoneInfo

import httpx
import pytest

from authz.errors import ConfigError
from authz.identity.keys import digest
from authz.inference import chat as chats
from authz.inference import estimate
from authz.inference.pricebook import ModelSpec, read_pricebook
from authz.model import MAX_AMOUNT, Allow, Deny, Meter, Usage
from authz.quota.ledger import Full, Held, State
from authz.quota.windows import NS, Period, calendar
from authz.reasons import Reason
from authz.store import Store, open_store
from authz.yamlfile import parse_yaml
from demo.answers import Behaviour
from demo.answers import Usage as Reported
from demo.stack import wait_for
from tests.attacks.door import Door, Reply, chat
from tests.e2e.conftest import CHAT, MESSAGES
from tests.issued import revoke
from tests.place import lay_out, opened_at
from tests.store.builders import NOW, TTL_NS, actual, charge, hold, terms
from tests.store.places import PLACES, RedisPlace
from tests.store.redis_server import RedisServer, free_port
from tests.test_money import allowed, answered, budget, denied, opened

THROUGH_ENVOY = pytest.mark.xdist_group("attacks")
TOKENS, SPEND, FLIGHT = Meter.TOKENS, Meter.SPEND, Meter.IN_FLIGHT


@pytest.fixture(params=sorted(PLACES))
def store(request: pytest.FixtureRequest) -> Iterator[Store]:
    place = PLACES[request.param]()
    yield place.open()
    place.close()


def reserve(store: Store, *charges: Any, at_ns: int = NOW, **fields: Any) -> str:
    held = store.reserve(hold(*charges, **fields), at_ns)
    assert isinstance(held, Held), held
    return held.reservation_id


def is_refused(store: Store, *charges: Any, at_ns: int = NOW) -> bool:
    """And if so, nothing has changed."""
    before = store.balances()
    full = isinstance(store.reserve(hold(*charges), at_ns), Full)
    assert not full or store.balances() == store.replay() == before
    return full


def sums(store: Store, counter: str) -> tuple[int, int]:
    """Posted and pending."""
    cells = store.balances().get(counter, {}).values()
    return sum(cell[0] for cell in cells), sum(cell[1] for cell in cells)


@THROUGH_ENVOY
def test_a65_of_200_at_once_with_room_for_10_exactly_10_are_admitted(door: Door) -> None:
    before = len(door.stack.groq.received())

    def ask(_: int) -> Reply:
        reply = door.ask(key="ten")
        while reply.status == 503:  # a machine that is too busy to decide in time says so, as an SDK knows
            reply = door.ask(key="ten")
        return reply

    with ThreadPoolExecutor(40) as pool:
        replies = list(pool.map(ask, range(200)))
    while (reply := ask(0)).status == 200:  # what such a one may have held was given back: room, and not an eleventh place
        replies.append(reply)
    assert {reply.code for reply in replies if reply.status != 200} == {"rate_limit_exceeded"}
    assert [reply.status for reply in replies].count(200) == len(door.forwarded(before)) == 10


@contextmanager
def streaming(door: Door, **fields: Any) -> Iterator[Iterator[str]]:
    headers, body = door.headers("media"), chat(stream=True, **fields)
    with httpx.stream("POST", door.stack.url + CHAT, json=body, headers=headers, trust_env=False, timeout=10) as answer:
        assert answer.status_code == 200
        yield answer.iter_lines()


@THROUGH_ENVOY
def test_a66_who_leaves_mid_stream_pays_the_estimate_and_a_late_settlement_corrects_it(door: Door, tmp_path: Path) -> None:
    door.stack.groq.behave(Behaviour(chunk_delay_s=0.05))

    def leave() -> Reply:
        with streaming(door) as lines:
            next(lines)
        return Reply(200, b"")

    (record,) = door.admitted(leave)
    ended = door.settlement_of(record)
    assert (ended["outcome"], ended["state"], ended["usage"]) == ("abandoned", "settled", None)
    assert ended["amounts"]["spend"] == record["estimate"]["at_most"]["spend"] > 0
    with opened(tmp_path, [budget("500 USD/month")]) as place:
        allow = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
        place.time.pass_s(1_000)
        place.engine.tick()
        change = place.engine.settle(answered(allow, 10, 20))
        assert change is not None
        assert (change.changed, change.state) == (True, State.CORRECTED)
        (row,) = place.engine.store.usage("2026-11-30", "2026-11-30")
        assert row.cost_nanousd == 20 * 50 + 10 * 80


def test_a67_a_settlement_that_is_lost_is_posted_at_its_estimate_at_the_deadline(tmp_path: Path) -> None:
    with opened(tmp_path, [budget("500 USD/month")]) as place:
        allow = allowed(place.engine.pdp.decide(place.request(place.issue("chatbot-prod"))))
        assert allow.record.estimate is not None
        for seconds, state in ((899, State.PENDING), (2, State.EXPIRED)):
            place.time.pass_s(seconds)
            place.engine.tick()
            found = place.engine.store.find(allow.reservation_id)
            assert found is not None
            assert found.state is state
        (counter,) = place.engine.store.balances()
        assert sums(place.engine.store, counter) == (allow.record.estimate.at_most[SPEND], 0)


def test_a68_what_comes_twice_or_out_of_order_has_one_effect(store: Store) -> None:
    for first, rest in (("settle", ("settle", "void")), ("void", ("settle", "void"))):
        name = f"c-{first}"
        identity = reserve(store, charge(SPEND, 40, 100, name), charge(FLIGHT, 1, 9, f"{name}-flight"))
        ends = {
            "settle": lambda identity=identity: store.settle(identity, actual(Usage(1, 1), spend=12, in_flight=0), NOW),
            "void": lambda identity=identity: store.void(identity, NOW),
        }
        assert ends[first]().changed
        before = store.balances()
        for again in rest * 3:
            assert not ends[again]().changed
        assert store.expire(NOW + 2 * TTL_NS, 10) == ()
        assert store.balances() == store.replay() == before
        assert sums(store, name) == ((12, 0) if first == "settle" else (0, 0))


def test_a69_what_is_used_above_what_was_reserved_is_posted_in_full_and_the_next_is_denied(tmp_path: Path) -> None:
    with opened(tmp_path, [budget("0.01 USD/month")]) as place:
        secret = place.issue("chatbot-prod")
        allow = allowed(place.engine.pdp.decide(place.request(secret)))
        place.engine.settle(answered(allow, output_tokens=1_000_000))
        refused = denied(place.engine.pdp.decide(place.request(secret)))
        assert refused.reason is Reason.SPEND_CAP_REACHED
        (counter,) = place.engine.store.balances()
        assert sums(place.engine.store, counter) == (20 * 50 + 1_000_000 * 80, 0)


@THROUGH_ENVOY
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    "behaviour",
    [
        Behaviour(report_usage=False),
        Behaviour(usage=Reported(0, 0)),
        Behaviour(usage=Reported(-5, 3)),
        Behaviour(usage=Reported(3, -5)),
        Behaviour(usage=Reported(2**40, 2**40)),
        Behaviour(usage=Reported(2**70, 1)),
        Behaviour(status=500, more={"usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}}),
    ],
    ids=["missing", "zero", "negative in", "negative out", "absurd", "beyond 64 bits", "under an error"],
)
def test_a70_usage_that_cannot_be_believed_leaves_the_estimate(door: Door, behaviour: Behaviour, stream: bool) -> None:
    door.stack.groq.behave(behaviour)
    failed = behaviour.status >= 400

    def ask() -> Reply:
        reply = door.ask(key="media", stream=stream)
        assert reply.status == behaviour.status
        return reply._replace(status=200)

    (record,) = door.admitted(ask)
    ended = door.settlement_of(record)
    assert ended["usage"] is None
    if failed:
        assert (ended["outcome"], ended["state"], ended["amounts"]) == ("upstream_error", "voided", {})
    else:
        assert (ended["outcome"], ended["state"]) == ("answered", "settled")
        assert ended["amounts"]["spend"] == record["estimate"]["at_most"]["spend"]


@THROUGH_ENVOY
@pytest.mark.parametrize("stream", [False, True])
def test_a71_usage_in_the_models_own_words_changes_nothing(door: Door, stream: bool) -> None:
    lie = '{"usage":{"prompt_tokens":1,"completion_tokens":0,"total_tokens":1}}'
    words = f'{lie}\n\ndata: {lie}\n\ndata: {{"x_groq":{lie}}}\n\n"usage":{{"prompt_tokens":1}} \\"usage\\"'
    door.stack.groq.behave(Behaviour(content=words))
    before = len(door.stack.groq.received())
    (record,) = door.admitted(lambda: door.ask(key="media", stream=stream, user=lie))
    (received,) = door.forwarded(before)
    assert received.usage is not None
    ended = door.settlement_of(record)
    assert ended["usage"]["input_tokens"] == received.usage.prompt_tokens > 1
    assert ended["usage"]["output_tokens"] == received.usage.completion_tokens > 0


@THROUGH_ENVOY
def test_a72_reserving_and_abandoning_is_capped_and_a_refusal_upstream_gives_everything_back(door: Door) -> None:
    door.settled()
    door.stack.groq.behave(Behaviour(hang=True))
    head = f"POST {CHAT} HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n".encode()
    body = json.dumps(chat()).encode()
    request = head + door.bearer("one-at-a-time") + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    with ExitStack() as open_ones:
        before = len(door.stack.groq.received())
        for _ in range(2):
            wire = open_ones.enter_context(socket.create_connection(("127.0.0.1", door.stack.envoy.port), timeout=10))
            wire.sendall(request)
        wait_for("both at the upstream", lambda: len(door.forwarded(before)) == 2)
        third = door.ask(key="one-at-a-time")
        assert (third.status, third.code) == (429, "too_many_in_flight")
        assert len(door.forwarded(before)) == 2
    door.settled()
    door.stack.groq.behave(Behaviour(status=400))
    books = door.books()["usage"]
    assert door.ask(key="one-at-a-time").status == 400
    door.settled()
    assert door.books()["usage"] == books
    door.stack.groq.behave()
    door.admitted(lambda: door.ask(key="one-at-a-time"))


def test_a73_a_wall_clock_that_jumps_admits_nothing_extra(store: Store) -> None:
    wanted = charge(Meter.REQUESTS, 1, 10)
    for _ in range(10):
        reserve(store, wanted)
    for jump_s in (-1, -59, -3_600, -86_400 * 40, 0, 30, -30, 58, -3_600, 59, -1):
        assert is_refused(store, wanted, at_ns=NOW + jump_s * NS), jump_s
    reserve(store, wanted, at_ns=NOW + (59 + 62) * NS)  # a minute after the latest that anybody saw, it is free again


def test_a74_replicas_whose_clocks_differ_admit_nothing_extra() -> None:
    place = RedisPlace()
    replicas = (open_store(place.uri, wait_s=5), open_store(place.uri, wait_s=5))  # as in production: by Redis's own clock
    try:
        now_ns, wanted = time_ns(), charge(Meter.REQUESTS, 1, 10)
        apart_ns = (0, 120 * NS, -120 * NS, 86_400 * NS)
        taken = 0
        for step in range(60):
            answer = replicas[step % 2].reserve(hold(wanted), now_ns + apart_ns[step % 4])
            taken += isinstance(answer, Held)
        assert taken == 10
        assert replicas[0].balances() == replicas[1].replay()
    finally:
        for store in replicas:
            store.close()
        place.close()


@pytest.mark.parametrize("amount", [-1, -(2**63), MAX_AMOUNT + 1])
def test_a75_a_negative_or_absurd_cost_is_refused_and_nothing_is_free(store: Store, amount: int) -> None:
    kept = reserve(store, charge(TOKENS, 1, 10))
    before = store.balances()
    for attempt in (
        lambda: store.reserve(hold(charge(TOKENS, amount, 10), on=terms()), NOW),
        lambda: store.reserve(hold(charge(TOKENS, 1, 10), on=terms(spend=amount)), NOW),
        lambda: store.settle(kept, actual(tokens=amount), NOW),
        lambda: store.settle(kept, actual(Usage(1, amount), tokens=1), NOW),
    ):
        with pytest.raises(ValueError, match="an amount of"):
            attempt()
    assert store.balances() == store.replay() == before
    # And no request costs nothing: whatever it asks for, something is held for it.
    for body in (
        {"model": "m", "messages": MESSAGES},
        {"model": "m", "messages": [{"role": "user", "content": ""}], "max_tokens": 1},
    ):
        assert estimated(body) > 0


def estimated(body: dict[str, Any]) -> int:

    model = priced("0.00001")
    found, _ = estimate.of(chats.read(json.dumps(body).encode()), model)
    assert min(found.at_most[meter] for meter in (Meter.REQUESTS, Meter.TOKENS, Meter.INPUT_TOKENS)) > 0
    return found.at_most[SPEND]


def test_a76_of_several_limits_all_are_charged_or_none(store: Store) -> None:
    reserve(store, charge(SPEND, 90, 100))
    roomy = [charge(TOKENS, 300, 1_000), charge(Meter.REQUESTS, 1, 10), charge(FLIGHT, 1, 10)]
    for place in range(len(roomy) + 1):
        assert is_refused(store, *roomy[:place], charge(SPEND, 11, 100), *roomy[place:])
    reserve(store, *roomy, charge(SPEND, 10, 100))
    assert [sums(store, name)[1] for name in ("spend", "tokens", "requests", "in_flight")] == [100, 300, 1, 1]


@THROUGH_ENVOY
def test_a77_a_denial_charges_nothing(door: Door) -> None:
    while door.ask(key="ten").status == 200:
        pass
    reasons = {
        "rate_limit_exceeded": partial(door.ask, key="ten"),
        "spend_cap_reached": partial(door.ask, key="media-poor"),
        "model_not_available": partial(door.ask, model="openai/gpt-oss-120b"),
        "model_not_found": partial(door.ask, model="nothing"),
        "model_not_priced": partial(door.ask, service_tier="performance"),
        "model_decommissioned": partial(door.ask, model="gemma2-9b-it"),
        "invalid_request_error": partial(door.ask, n=2),
        "unknown_url": partial(door.post, b"{}", path="/openai/v1/fine_tuning/jobs"),
        "unsupported_media_type": partial(door.post, b"{}", content_type="text/plain"),
        "request_too_large": partial(door.post, b"x" * 1_100_000),
    }
    with door.untouched():
        for code, ask in reasons.items():
            reply = ask()
            assert reply.status >= 400
            assert reply.code == code


def test_a78_across_a_windows_edge_the_limit_still_holds(store: Store) -> None:
    """100 at the end of one minute leave nothing for the beginning of the next: no span of a minute has more than 100."""
    edge = (NOW // (60 * NS) + 1) * 60 * NS
    for step in range(100):
        reserve(store, charge(Meter.REQUESTS, 1, 100), at_ns=edge - NS + step * 1_000_000)
    for after_s in (0, 1, 29, 30, 57):
        assert is_refused(store, charge(Meter.REQUESTS, 1, 100), at_ns=edge + after_s * NS), after_s
    reserve(store, charge(Meter.REQUESTS, 1, 100), at_ns=edge + 61 * NS)


def on_redis(folder: Path, server: RedisServer) -> Path:
    config = lay_out(folder)
    config.write_text(config.read_text().replace("sqlite:///authz.db", server.uri))
    return config


def test_a79_redis_gone_read_only_full_or_forgetful_is_the_declared_failure_within_the_deadline(tmp_path: Path) -> None:
    server = RedisServer(port=free_port())
    try:
        with opened_at(on_redis(tmp_path, server)) as place:
            secret = place.issue("chatbot-prod")

            def ask(reason: Reason | None) -> None:
                place.time.pass_s(2)  # after a failure nobody waits for the store for a second
                began = monotonic()
                decision = place.engine.pdp.decide(place.request(secret))
                assert monotonic() - began < 1
                if reason is None:
                    assert isinstance(decision, Allow), decision
                else:
                    assert isinstance(decision, Deny)
                    assert (decision.reason, decision.status) == (reason, 503)

            ask(None)
            server.client.replicaof("127.0.0.1", str(free_port()))
            ask(Reason.STORE_UNAVAILABLE)
            server.client.replicaof("NO", "ONE")
            ask(None)
            server.client.config_set("maxmemory", 1)
            ask(Reason.STORE_UNAVAILABLE)
            server.client.config_set("maxmemory", 0)
            ask(None)
            server.client.script_flush()
            ask(None)
            balances = place.engine.store.balances()
            assert balances == place.engine.store.replay()
            server.kill()
            ask(Reason.STORE_UNAVAILABLE)
    finally:
        server.close()


@pytest.mark.parametrize("fault", ["full", "read-only", "locked"])
def test_a80_a_disk_that_is_full_read_only_or_locked_denies_and_recovers_by_itself(tmp_path: Path, fault: str) -> None:
    with opened_at(lay_out(tmp_path)) as place, closing(sqlite3.connect(tmp_path / "authz.db", isolation_level=None)) as other:
        secret = place.issue("chatbot-prod")
        store: Any = place.engine.store

        def pragma(text: str) -> None:
            store._decisions._connection.execute(f"PRAGMA {text}")

        if fault == "locked":
            other.execute("BEGIN IMMEDIATE")
        else:
            pragma("max_page_count=1" if fault == "full" else "query_only=ON")
        refused: Allow | Deny | None = None
        while not isinstance(refused, Deny):  # a full disk takes what fits into the last page
            decision = place.engine.pdp.decide(place.request(secret, max_tokens=1))
            assert isinstance(decision, Allow | Deny)
            refused = decision
            place.time.pass_s(2)
        assert (refused.reason, refused.status) == (Reason.STORE_UNAVAILABLE, 503)
        assert store.balances() == store.replay()
        if fault == "locked":
            other.execute("ROLLBACK")
        elif fault == "full":
            pragma("max_page_count=1000000")
        place.time.pass_s(2)
        allowed(place.engine.pdp.decide(place.request(secret, max_tokens=1)))
        assert store.balances() == store.replay()


def test_a81_money_is_whole_nano_dollars_everywhere(tmp_path: Path) -> None:
    with opened(tmp_path, [budget("0.30 USD/month", alerts=["0.10 USD"])]) as place:
        secret = place.issue("chatbot-prod")
        for _ in range(30):
            place.engine.settle(answered(allowed(place.engine.pdp.decide(place.request(secret))), 7, 3))
        (row,) = place.engine.store.usage("2026-11-30", "2026-11-30")
        assert row.cost_nanousd == 30 * (3 * 50 + 7 * 80)
        (counter,) = place.engine.store.balances()
        assert sums(place.engine.store, counter) == (row.cost_nanousd, 0)
        with closing(sqlite3.connect(tmp_path / "authz.db")) as database:
            for table, column in (("usage", "cost_nanousd"), ("usage", "estimated_nanousd"), ("raises", "amount")):
                kinds = {name: kind for _, name, kind, *_ in database.execute(f"PRAGMA table_info({table})")}
                assert kinds[column] == "INTEGER"
    records = [json.loads(line) for line in (tmp_path / "decisions.jsonl").read_text().splitlines()]
    money = [record["amounts"]["spend"] for record in records if record["kind"] == "settlement"]
    money += [record["estimate"]["at_most"]["spend"] for record in records if record["kind"] == "decision"]
    assert {type(amount) for amount in money} == {int}
    for price in ("0.0000000001", "-0.05", "NaN", "0x1", "0.05 USD", "1/3"):
        with pytest.raises(ConfigError, match="expected an amount in USD"):
            priced(price)


def priced(input_usd: str) -> ModelSpec:
    """A model of this price for a million tokens of input, and of none for output."""
    price = f'price: {{input: "{input_usd}", output: "0"}}'
    text = f'version: "1"\nmodels: {{m: {{actions: [chat], {price}, context_tokens: 100, max_output_tokens: 10}}}}'
    return read_pricebook(parse_yaml(text, "models.yaml")).models["m"]


@pytest.mark.parametrize(
    ("before", "after", "period"),
    [
        ("2026-01-31T23:59:59", "2026-02-01T00:00:05", Period.MONTH),
        ("2026-03-28T23:59:59", "2026-03-29T03:30:00", Period.DAY),  # a day of 23 hours begins
        ("2026-10-25T02:30:00", "2026-10-26T00:00:05", Period.DAY),  # one of 25 hours ends
    ],
)
def test_a82_what_spans_a_reset_or_a_change_of_clocks_is_charged_where_it_was_reserved(
    store: Store, before: str, after: str, period: Period
) -> None:
    zone = ZoneInfo("Europe/Berlin")
    first_ns, then_ns = (int(datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()) * NS for text in (before, after))
    window = calendar(period, "Europe/Berlin")
    wanted = partial(charge, SPEND, limit=100, window=window)
    held = reserve(store, wanted(40), at_ns=first_ns)
    reserve(store, wanted(100), at_ns=then_ns)  # the new period is not burdened by what the old one holds
    store.settle(held, actual(spend=70), then_ns)
    assert store.balances()["spend"] == {window.bucket(first_ns): (70, 0), window.bucket(then_ns): (0, 100)}
    assert window.bucket(first_ns) != window.bucket(then_ns)
    assert store.balances() == store.replay()


def test_a83_what_changes_in_flight_does_not_change_what_was_agreed(tmp_path: Path) -> None:
    """The key is revoked, the price is tripled, the quota is gone; it settles at the price it was reserved at."""
    with opened(tmp_path, [budget("500 USD/month")]) as place:
        secret = place.issue("chatbot-prod")
        allow = allowed(place.engine.pdp.decide(place.request(secret)))
        assert revoke(place.engine.store, digest(secret), place.time())
        models = tmp_path / "policies/models.yaml"
        models.write_text(models.read_text().replace('{input: "0.05", output: "0.08"}', '{input: "0.15", output: "0.24"}'))
        (tmp_path / "policies/quotas.yaml").write_text("quotas: []")
        assert place.engine.source.refresh()
        place.engine.tick()
        assert denied(place.engine.pdp.decide(place.request(secret))).reason is Reason.INVALID_API_KEY
        place.engine.settle(answered(allow, 1_000, 2_000))
        (row,) = place.engine.store.usage("2026-11-30", "2026-11-30")
        assert row.cost_nanousd == 2_000 * 50 + 1_000 * 80
        assert place.engine.store.balances() == place.engine.store.replay()
        (posted,) = (sum(cell[0] for cell in cells.values()) for cells in place.engine.store.balances().values())
        assert posted == row.cost_nanousd
