"""From a Check's arrival to its answer: what is decided together, who is shed, what a fault touches. The clock is a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import pytest

from authz.envoy.checks import CHUNK, Checks
from authz.envoy.wire import check_pb2
from authz.errors import Refused
from authz.model import Decision, Deny, Request
from authz.reasons import Reason
from authz.transport import Call, Unheard
from tests.envoy.sidecar import allow, deny

MS: Final = 1_000_000


def check(tenant: str = "a", body: bytes = b"") -> bytes:
    made = check_pb2.CheckRequest()
    http = made.attributes.request.http
    http.method, http.path, http.raw_body = "POST", f"/{tenant}", body
    return made.SerializeToString()


class Line:
    """Keeps what is answered, and when it was flushed."""

    def __init__(self, it: It) -> None:
        self._it = it
        self.answered: dict[int, check_pb2.CheckResponse] = {}
        self.unheard: dict[int, Unheard | None] = {}
        self.failed: list[int] = []
        self.flushed: list[set[int]] = []

    def answer(self, stream: int, message: bytes, unheard: Unheard | None = None) -> None:
        assert stream not in self.answered
        self.answered[stream] = check_pb2.CheckResponse.FromString(message)
        self.unheard[stream] = unheard

    def fail(self, stream: int, status: int, message: str) -> None:
        self.failed.append(stream)

    def flush(self) -> None:
        self.flushed.append(set(self.answered))


class It:
    """Checks with a PDP that takes `each_ns` for a request, and remembers what it was asked together."""

    def __init__(self, room: int = 100, each_ns: int = MS) -> None:
        self.now_ns, self.each_ns = 0, each_ns
        self.together: list[list[str]] = []
        self.voided: list[str] = []
        self.rejected: list[Request | None] = []
        self.decides: Callable[[Request], Decision] = lambda request: allow(request.path)
        self.turns: list[Callable[[], None]] = []
        self.line = Line(self)
        self.streams = 0
        self.checks = Checks(
            self,
            tenant=lambda request: request.path,
            void=self.voided.append,
            steady=lambda: self.now_ns,
            soon=self.turns.append,
            room=room,
        )

    def decide(self, request: Request) -> Decision:
        return self.decide_many([request])[0]

    def decide_many(self, requests: Sequence[Request]) -> Sequence[Decision]:
        self.together.append([request.path for request in requests])
        self.now_ns += self.each_ns * len(requests)
        return [self.decides(request) for request in requests]

    def reject(self, refused: Refused, request: Request | None = None) -> Deny:
        self.rejected.append(request)
        return deny(refused.reason, (("retry-after", str(refused.retry_after_s)),) if refused.retry_after_s else ())

    def come(
        self, tenant: str = "a", *, deadline_ns: int | None = None, raw: bytes | None = None, line: Line | None = None
    ) -> Call:
        self.streams += 1
        call = Call(line or self.line, self.streams, raw if raw is not None else check(tenant), "", deadline_ns)
        self.checks(call)
        return call

    def turn(self) -> bool:
        """One turn, if one is due."""
        if self.turns:
            self.turns.pop(0)()
            return True
        return False

    def settle(self) -> None:
        while self.turn():
            pass

    def reason(self, call: Call) -> str:
        """Why it was denied; empty for an allow."""
        answer = self.line.answered[call.stream]
        return dict(answer.dynamic_metadata).get("reason", "")  # type: ignore[return-value]  # a Struct's values are any


def test_one_is_decided_alone_and_eight_together_a_chunk_at_a_time() -> None:
    it = It()
    it.come()
    assert it.line.answered == {}, "whoever else has arrived comes along"
    it.settle()
    calls = [it.come() for _ in range(CHUNK + 3)]
    it.turn()
    assert it.line.flushed[-1] == {1, *[call.stream for call in calls[:CHUNK]]}
    it.settle()
    assert [len(each) for each in it.together] == [1, CHUNK, 3]
    assert len(it.line.flushed) == 3


def test_each_has_its_own_outcome() -> None:
    it = It()
    it.decides = lambda request: deny(Reason.POLICY_DENIED) if request.path == "/b" else allow(request.path)
    calls = [it.come(tenant) for tenant in "abca"]
    it.settle()
    assert [it.reason(call) for call in calls] == ["", "policy_denied", "", ""]
    assert it.line.answered[calls[2].stream].dynamic_metadata["reservation"] == "/c"


def test_what_cannot_be_read_is_denied_at_once_and_touches_nobody() -> None:
    it = It()
    good = it.come()
    bad = it.come(raw=b"\xff\xff")
    assert it.reason(bad) == "invalid_request_error"
    it.settle()
    assert it.reason(good) == ""


def test_every_line_of_a_chunk_is_flushed() -> None:
    it = It()
    lines = [Line(it), Line(it)]
    for line in lines:
        it.come(line=line)
    it.settle()
    assert [len(line.flushed) for line in lines] == [1, 1]


# ---- those who leave


def test_an_allow_that_nobody_heard_is_given_back_and_a_denial_is_nothing_to_give() -> None:
    it = It()
    call = it.come()
    it.settle()
    unheard = it.line.unheard[call.stream]
    assert unheard is not None
    unheard()
    assert it.voided == ["/a"]
    it.decides = lambda request: deny(Reason.POLICY_DENIED)
    call = it.come()
    it.settle()
    assert it.line.unheard[call.stream] is None


def test_who_leaves_before_its_turn_is_not_decided() -> None:
    it = It()
    calls = [it.come(tenant) for tenant in "abc"]
    calls[1].cancel()
    it.settle()
    assert it.together == [["/a", "/c"]]
    alone = it.come("d")
    alone.cancel()
    it.settle()
    assert len(it.together) == 1


# ---- more than there is time or room for


def test_beyond_its_room_the_queue_sheds_at_once_with_a_503_that_says_when_to_try_again() -> None:
    it = It(room=20)
    calls = [it.come() for _ in range(50)]
    shed = [call for call in calls if call.stream in it.line.answered]
    assert len(shed) == 30
    assert it.together == [], "nothing was decided for them"
    answer = it.line.answered[shed[0].stream].denied_response
    assert answer.status.code == 503
    assert {header.header.key: header.header.value for header in answer.headers}["retry-after"] == "1"
    assert it.reason(shed[0]) == "overloaded"
    assert all(request is not None and request.path == "/a" for request in it.rejected), "recorded as what they were"
    it.settle()
    assert len(it.line.answered) == 50
    assert sum(len(each) for each in it.together) == 20


def test_it_recovers_at_once() -> None:
    it = It(room=20)
    for _ in range(50):
        it.come()
    it.settle()
    call = it.come(deadline_ns=it.now_ns + 10 * MS)
    it.settle()
    assert it.reason(call) == ""


def test_a_passed_deadline_is_not_decided() -> None:
    it = It()
    calls = [it.come(deadline_ns=it.now_ns + MS) for _ in range(3)]
    it.now_ns += 2 * MS  # the loop was held up
    it.settle()
    assert it.together == []
    assert {it.reason(call) for call in calls} == {"overloaded"}


def test_a_deadline_that_would_pass_before_its_turn_is_told_so_on_arrival() -> None:
    it = It(each_ns=10 * MS)
    for _ in range(40):  # it learns its own pace
        it.come()
        it.settle()
    for _ in range(20):
        it.come()
    in_time, late = it.come(deadline_ns=it.now_ns + 500 * MS), it.come(deadline_ns=it.now_ns + 50 * MS)
    assert late.stream in it.line.answered
    assert in_time.stream not in it.line.answered
    it.settle()
    assert (it.reason(in_time), it.reason(late)) == ("", "overloaded")


def test_a_store_that_hung_is_not_held_against_it() -> None:
    it = It(each_ns=5_000 * MS)
    for _ in range(40):
        it.come()
        it.settle()
    it.each_ns = MS  # it is back
    decided = 0
    for _ in range(40):
        calls = [it.come(deadline_ns=it.now_ns + 600 * MS) for _ in range(4)]
        it.settle()
        decided = sum(it.reason(call) == "" for call in calls)
    assert decided == 4


@pytest.mark.parametrize("tenants", [1, 5])
def test_a_flood_leaves_the_others_their_turn(tenants: int) -> None:
    """The stated factor: whoever is not the flood waits at most for the chunk under way and its own, where up to `CHUNK`
    tenants wait: 2 × CHUNK decisions."""
    it = It(room=1_000)
    for _ in range(3_000):
        it.come("flood")
    others = [it.come(f"t{number}") for number in range(tenants)]
    began_ns = it.now_ns
    it.turn()
    it.turn()
    assert it.now_ns - began_ns <= 2 * CHUNK * MS
    assert all(it.reason(call) == "" for call in others)
    assert sum(path == "/flood" for chunk in it.together for path in chunk) > 0


def test_a_flood_that_fills_the_queue_makes_room_for_others() -> None:
    it = It(room=50)
    for _ in range(200):
        it.come("flood")
    shed = len(it.line.answered)
    it.line.flushed.clear()
    other = it.come("other")
    assert len(it.line.answered) == shed + 1
    assert it.line.flushed, "the one that had to go hears of it at once"
    it.settle()
    assert it.reason(other) == ""


# ---- faults of ours


def test_a_fault_in_one_is_an_error_to_it_and_to_nobody_else() -> None:
    it = It()

    def decides(request: Request) -> Decision:
        if request.path == "/poison":
            raise ZeroDivisionError
        return allow(request.path)

    it.decides = decides
    calls = [it.come(tenant) for tenant in ("a", "poison", "b")]
    raised = 0
    while it.turns:
        try:
            it.turn()
        except ZeroDivisionError:
            raised += 1
    assert raised == 2, "together, and alone; the loop logs it"
    assert it.line.failed == [calls[1].stream]
    assert [it.reason(calls[0]), it.reason(calls[2])] == ["", ""]
