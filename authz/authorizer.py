"""The library's face: the same engine, without a proxy in between.

`Authorizer` is for threads. `AsyncAuthorizer` is the same for tasks of an event loop: its work is done in a few threads, so
that the loop never waits for the store. Both are safe to share, and refuse to work in a process that was forked after they
were opened: there, open another.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Final, ParamSpec, Self, TypeVar, assert_never

import msgspec

from authz.calls import Call, settled
from authz.compose import Engine, open_engine
from authz.errors import Denied, NotOpen, Refused
from authz.model import Allow, Decision, Deny, Outcome, Receipt, Reply, Request, Usage
from authz.settings import Settings, Upstream, read_settings

AT_ONCE: Final = 4
"""So many threads are in the engine at a time. More would only wait for each other inside the store, whose patience is bounded:
with 8 of a thousand on a busy machine, one in a thousand was denied for it. Here they wait for their turn, however long."""

P = ParamSpec("P")
T = TypeVar("T")


class Authorizer:
    """Decides and settles in this process. Safe in threads, any number of them.

    >>> with Authorizer.open("authz.yaml") as authorizer:
    ...     with authorizer.reserve(chat_request(api_key, body)) as call:
    ...         answer = send(body, call.upstream_key.reveal())
    ...         call.settle(Usage(input_tokens=12, output_tokens=40))

    Every method raises `NotOpen` after `close`, and in a process that was forked after the opening. None raises for what a
    request holds or for a store that is gone: such a request is denied, and what is settled meanwhile is kept and posted later.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._process = os.getpid()
        self._open = True
        self._closing = threading.Lock()
        self._turns = threading.BoundedSemaphore(AT_ONCE)

    @classmethod
    def open(cls, settings: Settings | str | Path) -> Self:
        """From settings, or from the file that holds them. Reads and proves the bundle, which takes about a second.

        Raises `ConfigError`, `StoreUnavailable`.
        """
        if not isinstance(settings, Settings):
            settings = read_settings(Path(settings))
        return cls(open_engine(settings).start())

    @property
    def upstream(self) -> Upstream:
        """Where requests go, as the settings say."""
        return self._engine.upstream

    def decide(self, request: Request) -> Decision:
        """Allow or Deny, or for `GET /models` a Reply; an allow holds a reservation until `settle`, `void` or its deadline."""
        return self._in_turn(self._engine.pdp.decide, request)

    def decide_many(self, requests: Sequence[Request]) -> tuple[Decision, ...]:
        """Each as by `decide`, in order, with one call of the store for all. One denial touches no other request."""
        return self._in_turn(self._engine.pdp.decide_many, requests)

    def reject(self, refused: Refused) -> Deny:
        """The answer to what an enforcement point could not even read as a request; recorded like any other."""
        return self._in_turn(self._engine.pdp.reject, refused)

    def settle(self, reservation_id: str, usage: Usage | None) -> None:
        """What the upstream says was used, in tokens, or None where it said nothing: the estimate is then posted. Idempotent.

        Raises `ValueError` for counts that are negative, absurd or all zero.
        """
        self.report(settled(reservation_id, usage))

    def void(self, reservation_id: str) -> None:
        """The request never reached the upstream, or was refused there: everything is given back. Idempotent."""
        self.report(Receipt(reservation_id, "", Outcome.NOT_SENT, 0, None))

    def report(self, receipt: Receipt) -> None:
        """How a request ended, as an enforcement point saw it: what `settle` and `void` are short for. Idempotent."""
        self._in_turn(self._engine.settle, receipt)

    @contextmanager
    def reserve(self, request: Request) -> Iterator[Call]:
        """Decides, yields what was allowed, and settles it when the block ends, by the rule in `authz.calls`.

        Raises `Denied` for a denial, `ValueError` for what is answered without an upstream (`GET /models`: `decide` it). An
        exception of the block's own passes on.
        """
        call = Call(granted(self.decide(request)))
        failed = True
        try:
            yield call
            failed = False
        finally:
            self.report(call.receipt(failed=failed))

    def close(self) -> None:
        """Waits for what is under way, ends the background work and closes the store. Does nothing a second time, or in a
        forked process: what was opened is its parent's."""
        if self.forked:
            return
        with self._closing:
            if not self._open:
                return
            self._open = False
        for _ in range(AT_ONCE):
            self._turns.acquire()
        try:
            self._engine.close()
        finally:
            self._turns.release(AT_ONCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    @property
    def forked(self) -> bool:
        """Whether this is another process than the one that opened it."""
        return os.getpid() != self._process

    def check_open(self) -> None:
        """Raises `NotOpen`."""
        if self.forked:
            raise NotOpen("opened before this process was forked, expected one that was opened in it")
        if not self._open:
            raise NotOpen("closed")

    def _in_turn(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        # INVARIANT: this comes before any lock. A fork may have copied one while a thread held it that the child has not.
        self.check_open()
        with self._turns:
            self.check_open()  # it may have been closed while this thread waited for its turn
            return work(*args, **kwargs)


class AsyncAuthorizer:
    """The same for tasks. Share one among all tasks of a loop; it may share its `Authorizer` with threads.

    >>> async def ask():
    ...     async with AsyncAuthorizer.open("authz.yaml") as authorizer:
    ...         async with authorizer.reserve(chat_request(api_key, body)) as call:
    ...             answer = await send_async(body, call.upstream_key.reveal())
    ...             call.settle(Usage(input_tokens=12, output_tokens=40))
    >>> asyncio.run(ask())

    authorizer  an open one, which `aclose` closes
    """

    def __init__(self, authorizer: Authorizer) -> None:
        self._sync = authorizer
        self._threads = ThreadPoolExecutor(AT_ONCE, "authz")

    @classmethod
    def open(cls, settings: Settings | str | Path) -> Self:
        """As `Authorizer.open`, which takes about a second: call it before the loop serves, or in `asyncio.to_thread`."""
        return cls(Authorizer.open(settings))

    @property
    def upstream(self) -> Upstream:
        return self._sync.upstream

    async def decide(self, request: Request) -> Decision:
        """As `Authorizer.decide`. Cancelled, it gives back what it may have reserved."""
        return (await self.decide_many((request,)))[0]

    async def decide_many(self, requests: Sequence[Request]) -> tuple[Decision, ...]:
        """As `Authorizer.decide_many`. Cancelled, it gives back what it may have reserved."""
        future = self._submit(self._decide, requests)
        try:
            return await asyncio.wrap_future(future)
        except asyncio.CancelledError:
            future.add_done_callback(self._give_back)
            raise

    async def reject(self, refused: Refused) -> Deny:
        """As `Authorizer.reject`."""
        return await asyncio.wrap_future(self._submit(self._sync.reject, refused))

    async def settle(self, reservation_id: str, usage: Usage | None) -> None:
        """As `Authorizer.settle`."""
        await self.report(settled(reservation_id, usage))

    async def void(self, reservation_id: str) -> None:
        """As `Authorizer.void`."""
        await self.report(Receipt(reservation_id, "", Outcome.NOT_SENT, 0, None))

    async def report(self, receipt: Receipt) -> None:
        """As `Authorizer.report`; it is done also where the caller is cancelled meanwhile."""
        await asyncio.shield(asyncio.wrap_future(self._submit(self._sync.report, receipt)))

    @asynccontextmanager
    async def reserve(self, request: Request) -> AsyncIterator[Call]:
        """As `Authorizer.reserve`."""
        call = Call(granted(await self.decide(request)))
        failed = True
        try:
            yield call
            failed = False
        finally:
            await self.report(call.receipt(failed=failed))

    async def aclose(self) -> None:
        """Waits for what is under way, then closes as `Authorizer.close`."""
        await asyncio.to_thread(self.close)

    def close(self) -> None:
        """The same where no loop runs any more."""
        if not self._sync.forked:
            self.stop()
            self._sync.close()

    def stop(self) -> None:
        """Waits for what is under way and ends its threads; the `Authorizer` stays open for others."""
        self._threads.shutdown()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    def _decide(self, requests: Sequence[Request]) -> tuple[Decision, ...]:
        if len(requests) == 1:
            return (self._sync.decide(requests[0]),)
        return self._sync.decide_many(requests)

    def _submit(self, work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        self._sync.check_open()
        return self._threads.submit(work, *args, **kwargs)

    def _give_back(self, decided: Future[tuple[Decision, ...]]) -> None:
        """What was decided for a caller who has gone, in the thread that decided it."""
        if decided.cancelled() or decided.exception() is not None:
            return
        for decision in decided.result():
            if isinstance(decision, Allow):
                with suppress(NotOpen):  # it was closed meanwhile: the reservation ends at its deadline
                    self._sync.void(decision.reservation_id)


def granted(decision: Decision) -> Allow:
    """Raises `Denied`, `ValueError`."""
    match decision:
        case Allow():
            return decision
        case Deny():
            raise Denied(decision)
        case Reply():
            raise ValueError("found a request that is answered here, expected one that goes upstream")
        case _:
            assert_never(decision)


def chat_request(api_key: str, body: Mapping[str, Any] | bytes, *, request_id: str = "", source_ip: str = "") -> Request:
    """A `POST /chat/completions` as the enforcement point would hand it over; a mapping is encoded as JSON."""
    return Request(
        method="POST",
        path="/openai/v1/chat/completions",
        headers=(("authorization", f"Bearer {api_key}"), ("content-type", "application/json")),
        body=body if isinstance(body, bytes) else msgspec.json.encode(body),
        request_id=request_id,
        source_ip=source_ip,
    )
