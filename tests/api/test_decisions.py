"""`authz.v1.Decisions` on a sidecar's socket: what is decided, how it ends, and who is shown what."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
import pytest
from google.protobuf.descriptor_pb2 import FileDescriptorProto
from grpc_reflection.v1alpha import reflection, reflection_pb2
from msgspec import structs

from authz.api import encoding
from authz.api.decisions import MAX_REQUESTS, MAX_WATCHERS, SERVICE
from authz.api.faults import detail_of
from authz.api.wire import decisions_pb2 as wire
from authz.errors import StoreUnavailable
from authz.model import DecisionRecord, Estimate, Meter, Outcome, QuotaState, Request, SettlementRecord, Usage
from authz.quota.ledger import Held, State, UsageRow
from authz.telemetry.watch import Watcher
from demo.stack import wait_for
from tests.api.running import Client, client_of, encoded
from tests.api.world import peopled, token
from tests.place import START_NS, UPSTREAM_KEY, Place

USED: Final = wire.Usage(input_tokens=100, output_tokens=50)
OPEN: Final = "openai/gpt-oss-120b"
DAY: Final = "2026-11-30"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Place, Client]]:
    with peopled(tmp_path_factory.mktemp("api")) as place, client_of(place.engine) as client:
        yield place, client


@pytest.fixture
def place(shared: tuple[Place, Client]) -> Place:
    shared[0].time.pass_s(120)
    return shared[0]


@pytest.fixture
def client(shared: tuple[Place, Client]) -> Client:
    return shared[1]


def state(place: Place, reservation_id: str) -> State:
    found = place.engine.store.find(reservation_id)
    assert found is not None
    return found.state


def failing(code: grpc.StatusCode, call: Callable[[], object]) -> wire.ErrorDetail:
    """The detail of the error that `call` raises."""
    with pytest.raises(grpc.RpcError) as caught:
        call()
    assert caught.value.code() is code, caught.value.details()
    found = detail_of(caught.value)
    assert found is not None, "every error has a detail"
    return found


# ---- Decide, DecideMany


def test_an_allow_holds_a_reservation_and_shows_the_key_only_to_who_asks_for_it(place: Place, client: Client) -> None:
    request = place.request(place.issue("chatbot-prod"))
    shy, sending = client.decide(request), client.decide(request, with_key=True)
    assert shy.WhichOneof("outcome") == sending.WhichOneof("outcome") == "allowed"
    assert (shy.allowed.upstream_key, sending.allowed.upstream_key) == ("", UPSTREAM_KEY)
    assert state(place, shy.allowed.reservation_id) is State.PENDING
    headers = {header.name: header.value for header in sending.allowed.headers}
    assert headers["x-ratelimit-limit-requests"] == "500"
    assert sending.allowed.upstream == "default/1"
    assert UPSTREAM_KEY not in str(shy)


def test_a_denial_is_an_answer_in_groqs_format(place: Place, client: Client) -> None:
    answer = client.decide(place.request(place.issue("chatbot-prod"), OPEN))
    denied = answer.denied
    assert (denied.status, denied.reason) == (403, "model_not_available")
    assert b'"code":"model_not_available"' in denied.body
    assert ("content-type", "application/json") in [(header.name, header.value) for header in denied.headers]
    assert (answer.record.effect, answer.record.reason, answer.record.reservation_id) == ("deny", "model_not_available", "")


def test_what_is_answered_here_is_a_reply(place: Place, client: Client) -> None:
    secret = place.issue("chatbot-prod")
    answer = client.decide(Request("GET", "/openai/v1/models", (("authorization", f"Bearer {secret}"),), b""))
    assert answer.WhichOneof("outcome") == "replied"
    assert b'"llama-3.1-8b-instant"' in answer.replied.body


def test_the_record_is_the_one_that_is_kept(place: Place, client: Client) -> None:
    request = place.request(place.issue("chatbot-prod"), request_id="pep-1")
    told: list[DecisionRecord] = []
    record = place.engine.watched.record
    place.engine.pdp._record = lambda each: (told.append(each), record(each))  # type: ignore[arg-type, assignment, func-returns-value]
    try:
        answer = client.decide(request)
    finally:
        place.engine.pdp._record = record
    assert answer.record == encoding.decision_record(told[0])
    assert (answer.record.request_id, answer.record.principal) == ("pep-1", 'Key::"chatbot-prod"')


def test_many_are_answered_in_order_and_one_denial_touches_no_neighbour(place: Place, client: Client) -> None:
    secret = place.issue("batch-processor")
    good, bad, foreign = place.request(secret), place.request("authz_wrong"), place.request(secret, OPEN)
    asked = wire.DecideManyRequest(
        requests=[
            wire.DecideRequest(request=encoded(each), include_upstream_key=at == 0)
            for at, each in enumerate([good, bad, foreign, *[good] * 60])
        ]
    )
    answer = client.ask("DecideMany", asked, wire.DecideManyResponse)
    kinds = [each.WhichOneof("outcome") for each in answer.responses]
    assert kinds == ["allowed", "denied", "denied", *["allowed"] * 59, "denied"]
    assert [each.denied.reason for each in answer.responses if each.HasField("denied")] == [
        "invalid_api_key",
        "model_not_available",
        "rate_limit_exceeded",
    ]
    assert [bool(each.allowed.upstream_key) for each in answer.responses].count(True) == 1
    held = {each.allowed.reservation_id for each in answer.responses if each.HasField("allowed")}
    assert len(held) == 60
    assert all(state(place, each) is State.PENDING for each in held)
    assert len(client.ask("DecideMany", wire.DecideManyRequest(), wire.DecideManyResponse).responses) == 0


def test_who_gives_up_before_the_answer_holds_nothing(place: Place, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    request, gone = place.request(place.issue("chatbot-prod")), threading.Event()
    reserve, held = place.engine.fallback.reserve, []

    def slow(*args: Any) -> Any:
        outcome = reserve(*args)
        held.append(outcome)
        assert gone.wait(30)
        return outcome

    monkeypatch.setattr(place.engine.fallback, "reserve", slow)
    asked = wire.DecideRequest(request=encoded(request))
    with pytest.raises(grpc.RpcError) as caught:
        client.ask("Decide", asked, wire.DecideResponse, timeout_s=0.3)
    assert caught.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    gone.set()
    (reservation,) = held
    assert isinstance(reservation, Held)
    wait_for("the reservation to be given back", lambda: state(place, reservation.reservation_id) is State.VOIDED)


# ---- Settle, Void


def decided(place: Place, client: Client) -> str:
    return client.decide(place.request(place.issue("chatbot-prod"))).allowed.reservation_id


def settle(client: Client, **fields: Any) -> wire.SettleResponse:
    return client.ask("Settle", wire.SettleRequest(**fields), wire.SettleResponse)


def test_settling_twice_has_one_effect(place: Place, client: Client) -> None:
    held = decided(place, client)
    assert settle(client, reservation_id=held, usage=USED) == wire.SettleResponse(changed=True, state="settled")
    assert settle(client, reservation_id=held, usage=USED) == wire.SettleResponse(changed=False, state="settled")
    assert client.ask("Void", wire.VoidRequest(reservation_id=held), wire.SettleResponse).state == "settled"


def test_voiding_twice_has_one_effect(place: Place, client: Client) -> None:
    held = decided(place, client)
    for changed in (True, False):
        answer = client.ask("Void", wire.VoidRequest(reservation_id=held), wire.SettleResponse)
        assert (answer.changed, answer.state) == (changed, "voided")


@pytest.mark.parametrize(
    ("outcome", "usage", "ends"),
    [
        (wire.OUTCOME_ANSWERED, None, "settled"),
        (wire.OUTCOME_ABANDONED, None, "settled"),
        (wire.OUTCOME_UPSTREAM_ERROR, None, "voided"),
        (wire.OUTCOME_NOT_SENT, None, "voided"),
    ],
)
def test_how_it_ended_says_what_is_owed(place: Place, client: Client, outcome: Any, usage: Any, ends: str) -> None:
    assert settle(client, reservation_id=decided(place, client), outcome=outcome, usage=usage).state == ends


def test_a_key_that_groq_refused_is_passed_over(place: Place, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[str] = []
    monkeypatch.setattr(place.engine._upstreams, "refuse", lambda upstream, now_ns: refused.append(upstream))
    allowed = client.decide(place.request(place.issue("chatbot-prod"))).allowed
    settle(
        client,
        reservation_id=allowed.reservation_id,
        outcome=wire.OUTCOME_UPSTREAM_ERROR,
        status=401,
        upstream=allowed.upstream,
    )
    assert refused == ["default/1"]


def test_without_a_store_a_settlement_waits_for_it(place: Place, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    held = decided(place, client)

    def gone(*_: object) -> None:
        raise StoreUnavailable("locked")

    with monkeypatch.context() as patched:
        patched.setattr(place.engine.store, "find_many", gone)
        assert settle(client, reservation_id=held, usage=USED) == wire.SettleResponse(deferred=True)
    place.engine.tick()
    assert state(place, held) is State.SETTLED


# ---- errors, each with its detail


def test_a_message_that_says_what_cannot_be_is_an_invalid_argument(place: Place, client: Client) -> None:
    def ask(method: str, asked: Any) -> wire.ErrorDetail:
        return failing(grpc.StatusCode.INVALID_ARGUMENT, lambda: client.ask(method, asked, wire.DecideResponse))

    held = decided(place, client)
    assert ask("Decide", b"\xff\xff\xff").expected == "authz.v1.DecideRequest"
    assert ask("Decide", wire.DecideRequest()).field == "request"
    good = wire.DecideRequest(request=encoded(place.request("authz_wrong")))
    assert ask("DecideMany", wire.DecideManyRequest(requests=[good, wire.DecideRequest()])).field == "requests[1].request"
    many = ask("DecideMany", wire.DecideManyRequest(requests=[good] * (MAX_REQUESTS + 1)))
    assert (many.field, many.expected) == ("requests", "at most 256")
    assert ask("Settle", wire.SettleRequest()).field == "reservation_id"
    assert ask("Void", wire.VoidRequest()).field == "reservation_id"
    assert ask("Settle", wire.SettleRequest(reservation_id=held, outcome=99)).field == "outcome"  # type: ignore[arg-type]
    assert ask("Settle", wire.SettleRequest(reservation_id=held, usage=wire.Usage())).field == "usage"
    assert ask("Settle", wire.SettleRequest(reservation_id=held, usage=wire.Usage(input_tokens=-1))).field == "usage"
    assert ask("ListUsage", wire.ListUsageRequest(first_day="30.11.2026")).field == "first_day"
    assert ask("ListUsage", wire.ListUsageRequest(first_day=DAY, last_day="2026-11-29")).field == "last_day"
    assert ask("ListUsage", wire.ListUsageRequest(first_day="2024-01-01", last_day=DAY)).expected == "1 to 366 days"
    assert state(place, held) is State.PENDING


def test_what_is_not_there_is_not_found(client: Client) -> None:
    detail = failing(grpc.StatusCode.NOT_FOUND, lambda: settle(client, reservation_id="guessed", usage=USED))
    assert detail.field == "reservation_id"
    asked = wire.ExplainRequest(principal="nothing", model="llama-3.1-8b-instant")
    owner = token("Owners")
    detail = failing(grpc.StatusCode.NOT_FOUND, lambda: client.ask("Explain", asked, wire.ExplainResponse, token=owner))
    assert detail.field == "principal"


def test_a_store_that_is_gone_says_when_to_try_again(place: Place, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    def gone(*_: object) -> None:
        raise StoreUnavailable("locked")

    monkeypatch.setattr(type(place.engine.store), "usage", gone)
    owner = token("Owners")
    asked = wire.ListUsageRequest()
    detail = failing(grpc.StatusCode.UNAVAILABLE, lambda: client.ask("ListUsage", asked, wire.ListUsageResponse, token=owner))
    assert detail.retry_after_s > 0


# ---- who is shown what


@pytest.mark.parametrize("credential", ["", "authz_wrong", token("Chat", -1), token("Nobody")])
def test_who_cannot_be_proved_is_shown_nothing(client: Client, credential: str) -> None:
    for method, asked in (
        ("Explain", wire.ExplainRequest(principal="chatbot-prod", model=OPEN)),
        ("ListUsage", wire.ListUsageRequest()),
    ):
        detail = failing(
            grpc.StatusCode.UNAUTHENTICATED,
            lambda: client.ask(method, asked, wire.ExplainResponse, token=credential),  # noqa: B023  # used at once
        )
        assert detail.field == "authorization"
    watch = client.watch(wire.WatchDecisionsRequest(), token=credential)
    assert failing(grpc.StatusCode.UNAUTHENTICATED, lambda: next(watch)).field == "authorization"


def test_no_key_reads_anything_and_neither_does_a_guest(place: Place, client: Client) -> None:
    for credential in (place.issue("chatbot-prod"), token("Guests")):
        asked = wire.ListUsageRequest()
        failing(
            grpc.StatusCode.PERMISSION_DENIED,
            lambda: client.ask("ListUsage", asked, wire.ListUsageResponse, token=credential),  # noqa: B023  # used at once
        )
        watch = client.watch(wire.WatchDecisionsRequest(), token=credential)
        failing(grpc.StatusCode.PERMISSION_DENIED, lambda: next(watch))  # noqa: B023  # used at once


def test_usage_is_of_those_whom_the_caller_may_read(place: Place, client: Client) -> None:
    for key in ("chatbot-prod", "research-lab"):
        allowed = client.decide(place.request(place.issue(key), "llama-3.3-70b-versatile")).allowed
        settle(client, reservation_id=allowed.reservation_id, usage=USED)

    def keys(group: str, **days: str) -> set[str]:
        answer = client.ask("ListUsage", wire.ListUsageRequest(**days), wire.ListUsageResponse, token=token(group))
        return {row.key for row in answer.rows}

    assert {"chatbot-prod", "research-lab"} <= keys("Owners")
    assert keys("Chat") == {"chatbot-prod"}
    assert keys("Labs") == {"research-lab"}
    assert keys("Owners", first_day="2026-11-01", last_day="2026-11-29") == set()
    rows = client.ask("ListUsage", wire.ListUsageRequest(), wire.ListUsageResponse, token=token("Labs")).rows
    row = next(row for row in rows if row.model == "llama-3.3-70b-versatile")
    assert (row.day, row.team, row.organisation, row.input_tokens) == (DAY, "research", "acme", 100 * row.requests)
    assert row.cost_nanousd == row.requests * (100 * 590 + 50 * 790)


def test_an_explanation_says_what_decides_and_charges_nothing(place: Place, client: Client) -> None:
    def explain(group: str, **fields: Any) -> wire.ExplainResponse:
        asked = wire.ExplainRequest(principal="chatbot-prod", input_tokens=10, max_output_tokens=16, **fields)
        return client.ask("Explain", asked, wire.ExplainResponse, token=token(group))

    before = place.engine.store.balances()
    allowed, denied = explain("Chat", model="llama-3.1-8b-instant"), explain("Owners", model=OPEN)
    assert (allowed.effect, allowed.reason, allowed.principal) == ("allow", "", 'Key::"chatbot-prod"')
    assert [(policy.id, policy.part) for policy in allowed.policies if policy.part == "decides"] == [
        ("chatbot-models", "decides")
    ]
    assert {shown.state.quota for shown in allowed.quotas} == {
        "org-spend",
        "chatbot-prod-requests",
        "chatbot-prod-tokens",
    }
    assert (denied.effect, denied.reason) == ("deny", "model_not_available")
    assert denied.instead
    assert allowed.bundle == place.engine.bundle.digest
    assert place.engine.store.balances() == before
    asked = wire.ExplainRequest(principal="chatbot-prod", model=OPEN)
    detail = failing(
        grpc.StatusCode.PERMISSION_DENIED,
        lambda: client.ask("Explain", asked, wire.ExplainResponse, token=token("Labs")),
    )
    assert detail.field == "authorization"


def test_an_explanation_of_nonsense_says_what_was_expected(client: Client) -> None:
    owner = token("Owners")
    for principal, field in (('Team::"chatbot"', "principal"), ('Key::"', "principal")):
        asked = wire.ExplainRequest(principal=principal, model=OPEN)
        with pytest.raises(grpc.RpcError) as caught:
            client.ask("Explain", asked, wire.ExplainResponse, token=owner)
        assert caught.value.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
        found = detail_of(caught.value)
        assert found is not None
        assert found.field == field


# ---- watching


def test_a_watch_shows_decisions_and_settlements_of_every_door(place: Place, client: Client) -> None:
    watch = client.watch(wire.WatchDecisionsRequest(), token=token("Owners"))
    assert next(watch).WhichOneof("record") is None, "the first message says that the watch is on"
    through_grpc = client.decide(place.request(place.issue("chatbot-prod")))
    settle(client, reservation_id=through_grpc.allowed.reservation_id, usage=USED)
    here = place.engine.pdp.decide(place.request(place.issue("research-lab"), "gpt-9"))
    decision, settlement, denial = next(watch), next(watch), next(watch)
    assert decision.decision == through_grpc.record
    assert settlement.settlement.reservation_id == through_grpc.allowed.reservation_id
    assert (settlement.settlement.usage, settlement.settlement.team) == (USED, "chatbot")
    assert denial.decision == encoding.decision_record(here.record)
    watch.cancel()


def test_a_watch_shows_a_team_its_own_and_what_was_asked_for(place: Place, client: Client) -> None:
    theirs = client.watch(wire.WatchDecisionsRequest(), token=token("Labs"))
    denials = client.watch(wire.WatchDecisionsRequest(effect="deny", team="research"), token=token("Owners"))
    for each in (theirs, denials):
        next(each)
    chat = client.decide(place.request(place.issue("chatbot-prod")))
    settle(client, reservation_id=chat.allowed.reservation_id, usage=USED)
    client.decide(place.request("authz_wrong"))
    lab = place.issue("research-lab")
    allowed, denied = client.decide(place.request(lab, OPEN)), client.decide(place.request(lab, "gpt-9"))
    assert [next(theirs).decision, next(theirs).decision] == [allowed.record, denied.record]
    assert next(denials).decision == denied.record
    theirs.cancel()
    denials.cancel()


def test_a_watch_ends_with_its_credential(place: Place, client: Client) -> None:
    life_s = place.time() // 10**9 - START_NS // 10**9 + 600
    watch = client.watch(wire.WatchDecisionsRequest(), token=token("Labs", life_s))
    next(watch)
    place.time.pass_s(3_600)
    assert failing(grpc.StatusCode.UNAUTHENTICATED, lambda: next(watch)).field == "authorization"


def test_a_wrong_effect_and_too_many_watchers_are_refused(place: Place, client: Client) -> None:
    owner = token("Owners")
    watch = client.watch(wire.WatchDecisionsRequest(effect="maybe"), token=owner)
    assert failing(grpc.StatusCode.INVALID_ARGUMENT, lambda: next(watch)).field == "effect"
    wait_for("earlier watches to end", lambda: not place.engine.watched.watchers)
    watches = [client.watch(wire.WatchDecisionsRequest(), token=owner) for _ in range(MAX_WATCHERS)]
    for each in watches:
        next(each)
    one_more = client.watch(wire.WatchDecisionsRequest(), token=owner)
    assert failing(grpc.StatusCode.RESOURCE_EXHAUSTED, lambda: next(one_more)).retry_after_s > 0
    for each in watches:
        each.cancel()
    wait_for("the watches to end", lambda: not place.engine.watched.watchers)


def test_a_slow_watcher_is_told_how_many_it_lost(place: Place, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Watcher.__init__, "__defaults__", (2,))
    watch = client.watch(wire.WatchDecisionsRequest(), token=token("Owners"))
    next(watch)
    record = client.decide(place.request("authz_wrong")).record
    assert next(watch).decision == record
    asked = wire.DecideManyRequest(requests=[wire.DecideRequest(request=encoded(place.request("authz_wrong")))] * MAX_REQUESTS)
    client.ask("DecideMany", asked, wire.DecideManyResponse)
    seen, lost = 0, 0
    while seen + lost < MAX_REQUESTS:
        message = next(watch)
        seen += message.HasField("decision")
        lost += message.dropped
    assert seen + lost == MAX_REQUESTS
    assert seen
    assert lost, "a queue of two held hundreds"
    watch.cancel()


# ---- what the service says of itself


def reflected(client: Client, asked: Any) -> Any:
    call: Any = client._channel.stream_stream(
        f"/{reflection.SERVICE_NAME}/ServerReflectionInfo",
        request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
        response_deserializer=reflection_pb2.ServerReflectionResponse.FromString,
    )
    (answer,) = call(iter([asked]), timeout=20)
    return answer


def test_reflection_shows_the_whole_service(client: Client) -> None:
    asked = reflection_pb2.ServerReflectionRequest(file_containing_symbol=SERVICE)
    answer = reflected(client, asked).file_descriptor_response
    files = [FileDescriptorProto.FromString(raw) for raw in answer.file_descriptor_proto]
    (service,) = (service for file in files for service in file.service if service.name == "Decisions")
    ours = wire.DESCRIPTOR.services_by_name["Decisions"]
    assert [method.name for method in service.method] == [method.name for method in ours.methods]
    listed = reflected(client, reflection_pb2.ServerReflectionRequest(list_services="*"))
    assert SERVICE in {service.name for service in listed.list_services_response.service}


def test_eight_clients_at_a_time_are_each_answered_their_own(place: Place, client: Client) -> None:
    requests = [place.request(place.issue("chatbot-prod"), request_id=f"pep-{number}") for number in range(200)]
    with ThreadPoolExecutor(8) as threads:
        answers = list(threads.map(client.decide, requests))
    assert [answer.record.request_id for answer in answers] == [request.request_id for request in requests]
    assert len({answer.allowed.reservation_id for answer in answers}) == 200


# ---- every field of ours is a field of theirs


STATE = QuotaState("q", "s", Meter.SPEND, "month", 1, 2, 3, 4.5, enforced=False)
FULL: Final[list[tuple[Any, Callable[[Any], Any]]]] = [
    (
        DecisionRecord(
            decision_id="d",
            time="t",
            duration_us=1,
            reservation_id="r",
            trace_id="a",
            span_id="b",
            request_id="q",
            bundle="b",
            effect="deny",
            status=429,
            roles=("x",),
            shadow_policies=("y",),
            quotas=(STATE,),
            estimate=Estimate({Meter.SPEND: 1}, {Meter.TOKENS: 2}),
        ),
        encoding.decision_record,
    ),
    (
        SettlementRecord(
            time="t",
            reservation_id="r",
            outcome=Outcome.ANSWERED,
            state="settled",
            amounts={Meter.SPEND: 3},
            usage=Usage(1, 2, 1),
        ),
        encoding.settlement_record,
    ),
    (STATE, encoding.quota_state),
    (UsageRow("d", "o", "t", "u", "k", "m", *range(1, 9)), encoding.usage_row),
]


@pytest.mark.parametrize(("value", "encode"), FULL, ids=lambda found: type(found).__name__)
def test_a_message_has_each_field_of_what_it_carries_and_no_other(value: Any, encode: Callable[[Any], Any]) -> None:
    names = [field.name for field in structs.fields(value)]
    message = encode(value)
    assert sorted(field.name for field in message.DESCRIPTOR.fields) == sorted(names)
    for name in names:
        ours, theirs = getattr(value, name), getattr(message, name)
        if isinstance(ours, int | float | str):
            assert theirs == ours, name
