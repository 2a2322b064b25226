"""Checks, from their arrival to their answers: bytes in, bytes out, whatever the transport.

What arrived together is decided together: up to `CHUNK` at a time, in one call of the store, and each chunk's answers leave
before the next one is begun. Who comes while others wait, waits in a fair and bounded queue. Whom it has no room for, or whose
deadline would pass before its turn, is told so at once, with a denial like any other: nothing is decided late, and nothing is
reserved for somebody who has left.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Final, Protocol

from authz.envoy.answer import encode
from authz.envoy.check import decode_check
from authz.envoy.queue import FIRST, FairQueue, Lane, places
from authz.errors import Refused
from authz.model import Allow, Decision, Deny, Request
from authz.reasons import Reason
from authz.transport import UNKNOWN, Call

CHUNK: Final = 8
_SLOWER: Final = 0.1
_FASTER: Final = 0.5
"""How much of the last chunk's pace is believed at once: a store that hung and is back must not be waited for any longer."""

_RETRY_AFTER_S: Final = 1
_NO_ROOM: Final = "Too many requests are waiting for a decision. Please try again in 1s."
_TOO_LATE: Final = "This request could not be decided in time. Please try again in 1s."


class Decider(Protocol):
    """As much of a PDP as a Check needs."""

    def decide(self, request: Request) -> Decision: ...

    def decide_many(self, requests: Sequence[Request]) -> Sequence[Decision]: ...

    def reject(self, refused: Refused, request: Request | None = None) -> Deny: ...


class _Waiting:
    __slots__ = ("answered", "call", "request")

    def __init__(self, call: Call, request: Request) -> None:
        self.call, self.request, self.answered = call, request, False


class Checks:
    """Answers Checks; all in one thread, the loop's.

    tenant   whose request one seems to be, as far as is known without any I/O: for fairness alone, nothing rests on it
    void     gives back what an allow holds that nobody heard, by its reservation's id; must not raise
    steady   a steady clock, ns: deadlines are by it
    soon     calls back once what has arrived is read: the loop's `call_soon`
    room     how many requests may wait, each counted once for every 64 KiB of its body
    """

    def __init__(
        self,
        pdp: Decider,
        *,
        tenant: Callable[[Request], str],
        void: Callable[[str], None],
        steady: Callable[[], int],
        soon: Callable[[Callable[[], None]], object],
        room: int,
    ) -> None:
        self._pdp, self._tenant, self._void, self._steady, self._soon = pdp, tenant, void, steady, soon
        self._queue: FairQueue[_Waiting] = FairQueue(room)
        self._alone: list[_Waiting] = []
        self._turning = False
        self._each_ns = 0.0

    def __call__(self, call: Call) -> None:
        """An `Answerer`."""
        try:
            request = decode_check(call.message, call.traceparent)
        except Refused as refused:
            call.answer(encode(self._pdp.reject(refused)))
            return
        waiting = _Waiting(call, request)
        lane = FIRST if self._queue.is_short(CHUNK) else self._tenant(request)
        if self._comes_too_late(call, lane):
            self._shed(waiting, _TOO_LATE)
            return
        ticket, gone = self._queue.put(waiting, lane, places(len(request.body or b"")))
        for other in gone:
            self._shed(other, _NO_ROOM)
            other.call.line.flush()
        if ticket is None:
            self._shed(waiting, _NO_ROOM)
            return
        call.withdrawn = partial(self._queue.leave, ticket)
        self._turn_soon()

    def _turn_soon(self) -> None:
        if not self._turning:
            self._turning = True
            self._soon(self._turn)

    def _turn(self) -> None:
        """One chunk, from the queue to the wire."""
        self._turning = False
        chunk = [self._alone.pop()] if self._alone else self._queue.take(CHUNK)
        if self._queue or self._alone:
            self._turn_soon()
        try:
            self._decide([each for each in chunk if not each.call.cancelled and not self._is_late(each)])
        finally:
            # A fault of ours in one request must not take its neighbours along: they are decided one by one.
            unanswered = [each for each in chunk if not each.answered and not each.call.cancelled]
            if len(chunk) == 1:
                for each in unanswered:
                    each.call.fail(UNKNOWN, "the decision failed")
            elif unanswered:
                self._alone += unanswered
                self._turn_soon()
            for line in {each.call.line for each in chunk}:
                line.flush()

    def _decide(self, due: Sequence[_Waiting]) -> None:
        if not due:
            return
        began_ns = self._steady()
        requests = [each.request for each in due]
        decisions = [self._pdp.decide(requests[0])] if len(due) == 1 else self._pdp.decide_many(requests)
        for each, decision in zip(due, decisions, strict=True):
            unheard = None
            if isinstance(decision, Allow):
                unheard = partial(self._void, decision.reservation_id)
            each.call.answer(encode(decision), unheard)
            each.answered = True
        took_ns = (self._steady() - began_ns) / len(due)
        self._each_ns += (took_ns - self._each_ns) * (_SLOWER if took_ns > self._each_ns else _FASTER)

    def _is_late(self, waiting: _Waiting) -> bool:
        deadline_ns = waiting.call.deadline_ns
        late = deadline_ns is not None and self._steady() >= deadline_ns
        if late:
            self._shed(waiting, _TOO_LATE)
        return late

    def _comes_too_late(self, call: Call, lane: Lane) -> bool:
        """Whether its deadline passes before its turn, as things go. Where nobody waits, trying is how to find out."""
        if call.deadline_ns is None or not self._queue:
            return False
        return self._steady() + (self._queue.ahead(lane) + 1) * self._each_ns >= call.deadline_ns

    def _shed(self, waiting: _Waiting, message: str) -> None:
        refused = Refused(Reason.OVERLOADED, message, retry_after_s=_RETRY_AFTER_S)
        waiting.call.answer(encode(self._pdp.reject(refused, waiting.request)))
        waiting.answered = True
