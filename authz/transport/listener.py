"""The sockets of the transport: connections of one event loop, each with its `Connection`, and the methods that they call."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Final, cast

from authz.transport.connection import Connection
from authz.transport.heads import UNIMPLEMENTED, Head, Refusal
from authz.transport.limits import Limits
from authz.transport.seam import Answerer, Call, Hearer, Unheard
from authz.transport.streams import Called, Said

_EXPIRE_S: Final = 1.0
_HEARD: Final = 1024
"""How many answers of a connection are remembered, for a peer that resets a stream because it has given up on the answer."""

_READ_BYTES: Final = 256 * 1024
_log = logging.getLogger(__name__)


class Listener:
    """Serves methods on a Unix socket.

    methods  by path, `/package.Service/Method`; any other is UNIMPLEMENTED
    streams  the same for those that take a stream of messages: each is heard as it comes, and the answer is an empty one
    steady   a steady clock, ns: deadlines are by it
    """

    def __init__(
        self,
        methods: Mapping[str, Answerer],
        *,
        steady: Callable[[], int],
        limits: Limits | None = None,
        streams: Mapping[str, Hearer] = MappingProxyType({}),
    ) -> None:
        self._methods = {path.encode(): answerer for path, answerer in methods.items()}
        self._streams = {path.encode(): hearer for path, hearer in streams.items()}
        self._steady, self._limits = steady, limits or Limits()
        self._known: dict[bytes, Head] = {}
        self._peers: set[_Peer] = set()
        self._server: asyncio.Server | None = None
        self._expiring: asyncio.TimerHandle | None = None
        self._emptied = asyncio.Event()
        self._draining = False

    async def start(self, bound: socket.socket) -> None:
        """bound  a Unix socket that is bound and does not listen yet; it is the listener's from here on"""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_unix_server(self._peer, sock=bound, backlog=1024)
        self._expire()

    async def stop(self, grace_s: float) -> None:
        """Takes no new connections, lets every peer end what it has begun, and cuts off what is left after the grace."""
        self._draining = True
        if self._server is not None:
            self._server.close()
        for peer in list(self._peers):
            peer.drain()
        if self._peers:
            self._emptied.clear()
            try:
                await asyncio.wait_for(self._emptied.wait(), grace_s)
            except TimeoutError:
                _log.warning("connections were cut off at the end of the grace", extra={"connections": len(self._peers)})
        for peer in list(self._peers):
            peer.abort()
        if self._expiring is not None:
            self._expiring.cancel()

    def _peer(self) -> asyncio.Protocol:
        connection = Connection(self._limits, self._known, self._steady(), self._streams)
        peer = _Peer(self._methods, self._streams, connection, self._limits, self._steady, self._gone)
        self._peers.add(peer)
        return peer

    def _gone(self, peer: _Peer) -> None:
        self._peers.discard(peer)
        if not self._peers:
            self._emptied.set()

    def _expire(self) -> None:
        for peer in list(self._peers):
            peer.expire()
        self._expiring = asyncio.get_running_loop().call_later(_EXPIRE_S, self._expire)


class _Peer(asyncio.Protocol):
    """One connection: a `Line`."""

    def __init__(
        self,
        methods: Mapping[bytes, Answerer],
        streams: Mapping[bytes, Hearer],
        connection: Connection,
        limits: Limits,
        steady: Callable[[], int],
        gone: Callable[[_Peer], None],
    ) -> None:
        self._methods, self._streams, self._connection = methods, streams, connection
        self._limits, self._steady, self._gone = limits, steady, gone
        self._waiting: dict[int, Call] = {}
        self._unheard: dict[int, Unheard] = {}
        self._fresh: list[int] = []
        self._leaving: list[int] = []
        """Streams answered since the last flush, and those whose answers the kernel may not have taken by now."""
        self._transport: asyncio.Transport | None = None

    # What the loop says

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(self._limits.output_bytes)
        self.flush()

    def data_received(self, data: bytes) -> None:
        for event in self._connection.receive(data, self._steady()):
            if isinstance(event, Called):
                self._call(event)
            elif isinstance(event, Said):
                self._streams[event.head.path](event.message)
            else:
                self._cancel(event.stream)
        self.flush()

    def eof_received(self) -> bool:
        return False  # a client that has closed its side hears no answer: closed, and what waits is withdrawn

    def pause_writing(self) -> None:
        # A peer that does not read what it asks for is asked for nothing more: what it could pile up here is bounded.
        if self._transport is not None and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def connection_lost(self, error: Exception | None) -> None:
        self._transport = None
        fault = self._connection.fault
        if fault is not None:
            _log.error("a peer was cut off", extra={"problem": str(fault)})
        for stream in list(self._waiting):
            self._cancel(stream)
        # A write that fails says that the peer has closed: nothing of it was heard, and what the peer said before, that it
        # cancels a call for instance, is not read any more.
        failed = self._leaving if isinstance(error, BrokenPipeError) else ()
        for stream in [*failed, *self._unheard]:
            if stream in failed or self._connection.unsent(stream):
                self._cancel(stream)
        self._gone(self)

    # What happens to calls

    def _call(self, called: Called) -> None:
        answerer = self._methods.get(called.head.path)
        if answerer is None:
            path = called.head.path[:100].decode("ascii", "replace")
            self._connection.refuse(called.stream, Refusal(UNIMPLEMENTED, f"this socket has no method `{path}`"))
            return
        call = Call(self, called.stream, called.message, called.head.traceparent, called.deadline_ns)
        self._waiting[called.stream] = call
        answerer(call)

    def _cancel(self, stream: int) -> None:
        call = self._waiting.pop(stream, None)
        if call is not None:
            call.cancel()
        unheard = self._unheard.pop(stream, None)
        if unheard is not None:
            unheard()

    # A line

    def answer(self, stream: int, message: bytes, unheard: Unheard | None = None) -> None:
        self._waiting.pop(stream, None)
        transport = self._transport
        heard = transport is not None and not transport.is_closing() and self._connection.answer(stream, message)
        if unheard is None:
            return
        if not heard:
            unheard()
            return
        self._unheard[stream] = unheard
        self._fresh.append(stream)
        if len(self._unheard) > _HEARD:
            del self._unheard[next(iter(self._unheard))]

    def fail(self, stream: int, status: int, message: str) -> None:
        self._waiting.pop(stream, None)
        self._connection.refuse(stream, Refusal(status, message))

    def flush(self) -> None:
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        if data := self._connection.take():
            if not transport.get_write_buffer_size():
                self._leaving.clear()
            self._leaving += self._fresh
            transport.write(data)
        self._fresh.clear()
        if self._connection.finished:
            transport.close()

    # What the listener says

    def drain(self) -> None:
        self._connection.drain()
        self.flush()

    def abort(self) -> None:
        if self._transport is not None:
            self._transport.abort()

    def expire(self) -> None:
        self._connection.expire(self._steady())
        self.flush()
