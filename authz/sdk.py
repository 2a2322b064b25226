"""For the SDKs, a transport for `httpx`: whoever sends through it is authorised and settled in this process.

    >>> with Authorizer.open("authz.yaml") as authorizer:
    ...     through = httpx.Client(transport=AuthorizedTransport(authorizer))
    ...     with groq.Groq(api_key=virtual_key, http_client=through) as client:
    ...         answer = client.chat.completions.create(model="llama-3.1-8b-instant", messages=messages, max_tokens=16)

The SDK's API key is the virtual one; the upstream's takes its place on the way. A denial comes back as an answer in Groq's own
format, so the SDK raises its own exceptions and retries what it would retry. Every request goes to the upstream of the
settings, whatever base URL the SDK has: its path is judged, its host decides nothing, and the upstream key reaches one place.

How a request ends: the upstream's usage is posted; it answered 3xx, 4xx or 5xx, or there never was a connection: everything is
given back; in all other cases (an answer that breaks off, a stream that nobody reads to its end) the estimate stands.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from typing import Final, assert_never

import httpx

from authz import pep
from authz.authorizer import AsyncAuthorizer, Authorizer
from authz.errors import Refused
from authz.model import Allow, Decision, Deny, Outcome, Reply, Request
from authz.settings import Upstream

_NOT_SENT: Final = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)
"""Nothing has left: these come before the first byte of a request."""

_EXTENSIONS: Final = frozenset({"timeout", "trace"})
"""Others could send something else than was judged, or somewhere else: `target` replaces the path, `sni_hostname` the host."""


class AuthorizedTransport(httpx.BaseTransport):
    """For `httpx.Client`.

    transport  what really sends; httpx's own by default. Closed with this one; the authorizer stays open
    """

    def __init__(self, authorizer: Authorizer, *, transport: httpx.BaseTransport | None = None) -> None:
        self._authorizer = authorizer
        self._inner = transport or httpx.HTTPTransport()

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        content = request.read()
        try:
            decision: Decision = self._authorizer.decide(_judged(request, content))
        except Refused as refused:
            decision = self._authorizer.reject(refused)
        match decision:
            case Deny() | Reply():
                return _answered_here(decision)
            case Allow():
                return self._send(request, content, decision)
            case _:
                assert_never(decision)

    def _send(self, request: httpx.Request, content: bytes, allow: Allow) -> httpx.Response:
        sent = Outcome.ABANDONED
        answer: httpx.Response | None = None
        try:
            answer = self._inner.handle_request(_upstream_request(request, content, allow, self._authorizer.upstream))
        except _NOT_SENT:
            sent = Outcome.NOT_SENT
            raise
        finally:
            if answer is None:
                self._authorizer.report(pep.receipt(allow, sent))
        reading = pep.Reading(allow, answer.status_code, answer.headers.raw)
        assert isinstance(answer.stream, httpx.SyncByteStream)  # what a transport for `httpx.Client` gives
        return _answer(answer, allow, _Stream(answer.stream, reading, self._authorizer))

    def close(self) -> None:
        self._inner.close()


class AsyncAuthorizedTransport(httpx.AsyncBaseTransport):
    """For `httpx.AsyncClient`; on asyncio.

    >>> async def ask():
    ...     async with AsyncAuthorizer.open("authz.yaml") as authorizer:
    ...         through = httpx.AsyncClient(transport=AsyncAuthorizedTransport(authorizer))
    ...         async with groq.AsyncGroq(api_key=virtual_key, http_client=through) as client:
    ...             return await client.chat.completions.create(model="llama-3.1-8b-instant", messages=messages, max_tokens=16)
    >>> answer = asyncio.run(ask())

    transport  what really sends; httpx's own by default. Closed with this one; the authorizer stays open
    """

    def __init__(self, authorizer: AsyncAuthorizer, *, transport: httpx.AsyncBaseTransport | None = None) -> None:
        self._authorizer = authorizer
        self._inner = transport or httpx.AsyncHTTPTransport()

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        content = await request.aread()
        try:
            decision: Decision = await self._authorizer.decide(_judged(request, content))
        except Refused as refused:
            decision = await self._authorizer.reject(refused)
        match decision:
            case Deny() | Reply():
                return _answered_here(decision)
            case Allow():
                return await self._send(request, content, decision)
            case _:
                assert_never(decision)

    async def _send(self, request: httpx.Request, content: bytes, allow: Allow) -> httpx.Response:
        sent = Outcome.ABANDONED
        answer: httpx.Response | None = None
        try:
            upstream_request = _upstream_request(request, content, allow, self._authorizer.upstream)
            answer = await self._inner.handle_async_request(upstream_request)
        except _NOT_SENT:
            sent = Outcome.NOT_SENT
            raise
        finally:
            if answer is None:
                await self._authorizer.report(pep.receipt(allow, sent))
        reading = pep.Reading(allow, answer.status_code, answer.headers.raw)
        assert isinstance(answer.stream, httpx.AsyncByteStream)  # what a transport for `httpx.AsyncClient` gives
        return _answer(answer, allow, _AsyncStream(answer.stream, reading, self._authorizer))

    async def aclose(self) -> None:
        await self._inner.aclose()


class _Stream(httpx.SyncByteStream):
    """An answer's body, read along; settled at its end, at an error, and when a client goes, whichever comes first.

    Not every SDK closes a stream that broke, so its end is noticed here too.
    """

    def __init__(self, inner: httpx.SyncByteStream, reading: pep.Reading, authorizer: Authorizer) -> None:
        self._inner, self._reading, self._authorizer = inner, reading, authorizer
        self._told = False

    def __iter__(self) -> Iterator[bytes]:
        try:
            for piece in self._inner:
                self._reading.feed(piece)
                yield piece
            self._reading.end()
        finally:
            self._tell()

    def close(self) -> None:
        try:
            self._inner.close()
        finally:
            self._tell()

    def _tell(self) -> None:
        if not self._told:
            self._told = True
            self._authorizer.report(self._reading.receipt())


class _AsyncStream(httpx.AsyncByteStream):
    def __init__(self, inner: httpx.AsyncByteStream, reading: pep.Reading, authorizer: AsyncAuthorizer) -> None:
        self._inner, self._reading, self._authorizer = inner, reading, authorizer
        self._told = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            async for piece in self._inner:
                self._reading.feed(piece)
                yield piece
            self._reading.end()
        finally:
            await self._tell()

    async def aclose(self) -> None:
        try:
            await self._inner.aclose()
        finally:
            await self._tell()

    async def _tell(self) -> None:
        if not self._told:
            self._told = True
            await self._authorizer.report(self._reading.receipt())


def _judged(request: httpx.Request, content: bytes) -> Request:
    return pep.request_of(request.method, request.url.raw_path, request.headers.raw, content, "")


def _upstream_request(request: httpx.Request, content: bytes, allow: Allow, upstream: Upstream) -> httpx.Request:
    """A copy: who tries again sends the original, with the virtual key in it."""
    url = request.url.copy_with(scheme="https" if upstream.tls else "http", host=upstream.host, port=upstream.port)
    headers = [(name, value) for name, value in request.headers.raw if name.lower() != b"host"]
    headers = [(b"host", url.netloc), *pep.upstream_headers(headers, allow.upstream_key, content)]
    extensions = {name: value for name, value in request.extensions.items() if name in _EXTENSIONS}
    return httpx.Request(request.method, url, headers=headers, stream=httpx.ByteStream(content), extensions=extensions)


def _answered_here(given: Deny | Reply) -> httpx.Response:
    status, headers, content = pep.answer(given)
    return httpx.Response(status, headers=headers, content=content)


def _answer(answer: httpx.Response, allow: Allow, stream: _Stream | _AsyncStream) -> httpx.Response:
    headers = pep.client_headers(answer.headers.raw, allow.headers)
    return httpx.Response(answer.status_code, headers=headers, stream=stream, extensions=answer.extensions)
