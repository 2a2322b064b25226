"""`authz.v1.Decisions`: what an enforcement point that is no Envoy asks, and what people are shown. Its contract stands in
`decisions.proto`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime
from typing import Final, TypeVar

import grpc
from google.protobuf.message import Message

from authz.api import encoding, faults
from authz.api.callers import Caller, Metadata, credentials, identified, key_of
from authz.api.faults import Fault, invalid
from authz.api.watching import Watch, watching
from authz.api.wire import decisions_pb2 as wire
from authz.calls import settled
from authz.compose import Engine
from authz.errors import StoreUnavailable
from authz.model import Allow, Decision, Outcome, Receipt
from authz.review.explain import Described, Explainer, asked_of, named

SERVICE: Final = "authz.v1.Decisions"
MAX_REQUESTS: Final = 256
MAX_WATCHERS: Final = 16
MAX_EXPLAINING: Final = 8
"""An explanation tries hundreds of variants: they are worked out one at a time, and so many may wait."""
MAX_DAYS: Final = 366
AT_ONCE: Final = 4
"""So many decisions are worked out at a time, as in the library: more would only wait for each other inside the store."""

_EFFECTS: Final = ("", "allow", "deny")
_RETRY_S: Final = 1.0

Asked = TypeVar("Asked", bound=Message)
Decided = tuple[Decision, ...]
Context = grpc.aio.ServicerContext[bytes, bytes]


class Decisions:
    """draining  is set when the sidecar stops: a watch never ends by itself."""

    def __init__(self, engine: Engine, draining: asyncio.Event) -> None:
        self._engine, self._draining = engine, draining
        self._explaining = asyncio.Lock()
        self._waiting = 0
        self._threads = ThreadPoolExecutor(AT_ONCE, "authz-api")

    def handler(self) -> grpc.GenericRpcHandler:
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Decide": _unary(wire.DecideRequest, self._decide),
                "DecideMany": _unary(wire.DecideManyRequest, self._decide_many),
                "Settle": _unary(wire.SettleRequest, self._settle),
                "Void": _unary(wire.VoidRequest, self._void),
                "Explain": _unary(wire.ExplainRequest, self._explain),
                "ListUsage": _unary(wire.ListUsageRequest, self._list_usage),
                "WatchDecisions": grpc.unary_stream_rpc_method_handler(self._watch),
            },
        )

    async def _decide(self, asked: wire.DecideRequest, context: Context) -> wire.DecideResponse:
        _require_request(asked, "request")
        request = encoding.request_of(asked.request)
        (decided,) = await self._decided(lambda: (self._engine.pdp.decide(request),), context)
        return encoding.decision(decided, with_key=asked.include_upstream_key)

    async def _decide_many(self, asked: wire.DecideManyRequest, context: Context) -> wire.DecideManyResponse:
        if len(asked.requests) > MAX_REQUESTS:
            raise invalid("requests", f"found {len(asked.requests)}", f"at most {MAX_REQUESTS}")
        for at, each in enumerate(asked.requests):
            _require_request(each, f"requests[{at}].request")
        requests = [encoding.request_of(each.request) for each in asked.requests]
        decided = await self._decided(lambda: self._engine.pdp.decide_many(requests), context)
        return wire.DecideManyResponse(
            responses=[
                encoding.decision(decision, with_key=each.include_upstream_key)
                for decision, each in zip(decided, asked.requests, strict=True)
            ]
        )

    async def _decided(self, decide: Callable[[], Decided], context: Context) -> Decided:
        """In a thread: a loop that waits for the store does not hear that a client has gone."""
        deciding = asyncio.wrap_future(self._threads.submit(decide))
        try:
            decided = await asyncio.shield(deciding)
        except asyncio.CancelledError:
            deciding.add_done_callback(self._give_back)
            raise
        left_s = context.time_remaining()
        if left_s is not None and left_s <= 0:
            self._give_back(deciding)
        return decided

    def _give_back(self, deciding: asyncio.Future[Decided]) -> None:
        """What was decided for a client who has gone."""
        if deciding.cancelled() or deciding.exception() is not None:
            return
        for decision in deciding.result():
            if isinstance(decision, Allow):
                self._engine.settle(Receipt(decision.reservation_id, "", Outcome.NOT_SENT, 0, None))

    async def _settle(self, asked: wire.SettleRequest, context: Context) -> wire.SettleResponse:
        try:
            receipt = encoding.receipt_of(asked)
        except ValueError as error:
            raise invalid("outcome", str(error), "a known outcome") from None
        try:
            settled(receipt.reservation_id, receipt.usage)
        except ValueError as error:
            raise invalid("usage", str(error), "counts that can be believed") from None
        return self._end(receipt)

    async def _void(self, asked: wire.VoidRequest, context: Context) -> wire.SettleResponse:
        return self._end(Receipt(asked.reservation_id, "", Outcome.NOT_SENT, 0, None))

    def _end(self, receipt: Receipt) -> wire.SettleResponse:
        if not receipt.reservation_id:
            raise invalid("reservation_id", "found none", "the one that an allow gave")
        change = self._engine.settle(receipt)
        if change is None:
            return wire.SettleResponse(deferred=True)
        if change.state is None:
            raise Fault(grpc.StatusCode.NOT_FOUND, "there is no such reservation", field="reservation_id")
        return wire.SettleResponse(changed=change.changed, state=change.state.value)

    async def _explain(self, asked: wire.ExplainRequest, context: Context) -> wire.ExplainResponse:
        described = Described(
            principal=asked.principal,
            model=asked.model,
            team=asked.team,
            action=asked.action or "chat",
            input_tokens=asked.input_tokens,
            max_output_tokens=asked.max_output_tokens,
            stream=asked.stream,
            tools=asked.tools,
            service_tier=asked.service_tier or "on_demand",
            source_ip=asked.source_ip,
        )
        bundle, caller = self._engine.bundle, self._caller(credentials(context))
        try:
            caller.require(key_of(named(asked.principal)), asked.team)
        except ValueError as error:
            raise invalid("principal", str(error), '`Key::"x"`, `User::"x"` or the name of a key') from None
        try:
            question = asked_of(bundle, described, self._engine.clock())
        except ValueError as error:
            raise Fault(grpc.StatusCode.NOT_FOUND, str(error), field="principal") from None
        if self._waiting >= MAX_EXPLAINING:
            raise _too_many(f"{MAX_EXPLAINING} explanations are waited for already")
        self._waiting += 1
        try:
            async with self._explaining:
                return encoding.explanation(await asyncio.to_thread(Explainer(bundle, self._engine.store).explain, question))
        finally:
            self._waiting -= 1

    async def _list_usage(self, asked: wire.ListUsageRequest, context: Context) -> wire.ListUsageResponse:
        now_s = self._engine.clock() // 1_000_000_000
        today = datetime.fromtimestamp(now_s, self._engine.bundle.time_zone).date()
        first, last = _day("first_day", asked.first_day, today), _day("last_day", asked.last_day, today)
        if not 0 <= (last - first).days < MAX_DAYS:
            raise invalid("last_day", f"found `{first}` to `{last}`", f"1 to {MAX_DAYS} days")
        caller = self._caller(credentials(context))
        caller.require_some()
        rows = await asyncio.to_thread(self._engine.store.usage, first.isoformat(), last.isoformat())
        return wire.ListUsageResponse(rows=[encoding.usage_row(row) for row in rows if caller.sees(row.key, row.team)])

    def _caller(self, said: Metadata) -> Caller:
        """Raises `Fault`."""
        engine = self._engine
        return identified(said, engine.authenticator, engine.bundle, engine.clock())

    async def _watch(self, raw: bytes, context: Context) -> AsyncIterator[bytes]:
        try:
            asked = wire.WatchDecisionsRequest()
            faults.parse(asked, raw)
            if asked.effect not in _EFFECTS:
                raise invalid("effect", f"found `{asked.effect}`", "`allow`, `deny` or nothing")
            said = credentials(context)
            watch = Watch(asked, lambda: self._caller(said), self._engine.clock)
            if len(self._engine.watched.watchers) >= MAX_WATCHERS:
                raise _too_many(f"{MAX_WATCHERS} watch already")
            with watching(self._engine.watched, self._draining) as records:
                yield wire.WatchDecisionsResponse().SerializeToString()
                async for record, dropped in records:
                    if (shown := watch.shown(record, dropped)) is not None:
                        yield shown.SerializeToString()
        except Fault as fault:
            await _end_with(fault, context)


def _unary(kind: type[Asked], answer: Callable[[Asked, Context], Awaitable[Message]]) -> grpc.RpcMethodHandler[bytes, bytes]:
    async def serve(raw: bytes, context: Context) -> bytes:
        asked = kind()
        try:
            faults.parse(asked, raw)
            return (await answer(asked, context)).SerializeToString()
        except Fault as fault:
            return await _end_with(fault, context)
        except StoreUnavailable:
            message = "the store does not answer"
            unavailable = Fault(grpc.StatusCode.UNAVAILABLE, message, retry_after_s=_RETRY_S)
            return await _end_with(unavailable, context)

    return grpc.unary_unary_rpc_method_handler(serve)


async def _end_with(fault: Fault, context: Context) -> bytes:
    await context.abort(fault.code, fault.message, fault.metadata())
    raise AssertionError("abort raises")


def _too_many(message: str) -> Fault:
    return Fault(grpc.StatusCode.RESOURCE_EXHAUSTED, message, retry_after_s=_RETRY_S)


def _require_request(asked: wire.DecideRequest, field: str) -> None:
    if not asked.HasField("request"):
        raise invalid(field, "found none", "the request to decide on")


def _day(field: str, text: str, today: date) -> date:
    try:
        found = date.fromisoformat(text) if text else today
    except ValueError:
        found = None
    if found is None or (text and found.isoformat() != text):
        raise invalid(field, f"found `{text}`", "YYYY-MM-DD")
    return found
