"""What batches have used that have ended: asked of the upstream beside the path, and settled from what their output says.

A batch runs for hours after the call that made it, and its output passes nobody who must read it. So whoever holds the upstream
key looks: until the batch has ended, then once through its output, a line at a time.

    a line that was answered 200   its usage counts; where one has none that can be believed, the bound of the whole stands
    any other line                 was not charged for
    no line answered               everything is given back
    no answer from the upstream    tried again; what nobody could find out in time ends as every other reservation does
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from typing import Final, Protocol

import httpx
import msgspec
from msgspec import Raw, Struct

from authz.clock import Clock
from authz.identity.issuers import is_safe
from authz.inference.batch import is_id
from authz.inference.reported import from_body
from authz.model import Secret, Usage
from authz.quota.belongings import Belonging, Belongings
from authz.quota.windows import NS

GIVE_UP_NS: Final = 8 * 86_400 * NS
"""A day beyond the longest window."""

MAX_BATCH_BYTES: Final = 1024 * 1024
MAX_OUTPUT_BYTES: Final = 1024 * 1024 * 1024
MAX_LINE_BYTES: Final = 32 * 1024 * 1024
TIMEOUT_S: Final = 20.0
_AT_ONCE: Final = 20
_ENDED: Final = frozenset({"completed", "failed", "expired", "cancelled"})
_OK: Final = 200
_log = logging.getLogger(__name__)

Read = Callable[[str, Secret], Iterator[bytes]]
"""Path and key → the body in pieces. Raises `Unreadable`."""


class Unreadable(Exception):
    """The upstream did not answer, or with something that cannot be what was asked for; `str()` says why."""


class Found(Struct, frozen=True):
    """Of a batch that has ended: how many lines were answered, and what they used together; None where that cannot be told."""

    usage: Usage | None
    answered: int


class _Batch(Struct, frozen=True):
    id: str
    status: str
    output_file_id: str | None = None
    error_file_id: str | None = None


class _Response(Struct, frozen=True):
    status_code: int = 0
    body: Raw = Raw()


class _Line(Struct, frozen=True):
    custom_id: str
    response: _Response | None = None


_BATCH: Final = msgspec.json.Decoder(_Batch)
_LINE: Final = msgspec.json.Decoder(_Line)


class Settles(Protocol):
    def settle_batch(self, reservation_id: str, usage: Usage | None, answered: int) -> object: ...


class Collector:
    """Looks after the batches that are due, one at a time. `collect` raises `StoreUnavailable`; the next call goes on.

    read  asks the upstream · key  that a team's requests go with, None where there is none now
    every_ns  between two looks at one batch
    """

    def __init__(
        self,
        belongings: Belongings,
        settler: Settles,
        *,
        read: Read,
        key: Callable[[str, int], Secret | None],
        clock: Clock,
        every_ns: int,
    ) -> None:
        self._belongings, self._settler, self._read, self._key = belongings, settler, read, key
        self._clock, self._every_ns = clock, every_ns

    def collect(self) -> bool:
        """One round; answers whether there may be more that are due."""
        now_ns = self._clock()
        due = self._belongings.due_batches(now_ns, now_ns + self._every_ns, _AT_ONCE)
        for batch in due:
            if now_ns - batch.made_ns > GIVE_UP_NS:
                self._belongings.batch_ended(batch.id)
                continue
            key = self._key(batch.team, now_ns)
            if key is None:
                continue
            try:
                found = self._look(batch, key)
            except Unreadable as error:
                _log.warning("a batch cannot be looked after", extra={"batch": batch.id, "problem": str(error)})
                continue
            if found is not None:
                self._settler.settle_batch(batch.reservation, found.usage, found.answered)
                self._belongings.batch_ended(batch.id)
        return len(due) == _AT_ONCE

    def _look(self, batch: Belonging, key: Secret) -> Found | None:
        """None while it runs. Its outputs are the team's from here on, whoever asks for them first."""
        try:
            said = _BATCH.decode(_whole(self._read(f"/batches/{batch.id}", key)))
        except msgspec.DecodeError:
            raise Unreadable("not a batch") from None
        if said.id != batch.id:
            raise Unreadable("another batch")
        for output in (said.output_file_id, said.error_file_id):
            if output is not None and is_id(output):
                self._belongings.keep(Belonging(output, batch.organisation, batch.team, batch.model, None, "", self._clock()))
        if said.status not in _ENDED:
            return None
        if said.output_file_id is None:
            return Found(Usage(0, 0), 0)
        if not is_id(said.output_file_id):
            raise Unreadable("its output has no name that a file can have")
        lines = batch.work.lines if batch.work is not None else 0
        return added(_lines(self._read(f"/files/{said.output_file_id}/content", key)), lines)


def added(lines: Iterable[bytes], at_most: int) -> Found:
    """The usage of an output's lines, of which there are `at_most`. Raises `Unreadable` where one is no line of an output."""
    input_tokens = output_tokens = cached_tokens = answered = 0
    believed = True
    seen: set[str] = set()
    for row in lines:
        try:
            line = _LINE.decode(row)
        except msgspec.DecodeError:
            raise Unreadable("not the output of a batch") from None
        if line.custom_id in seen or len(seen) == at_most:
            raise Unreadable("its output has lines that nobody asked for")
        seen.add(line.custom_id)
        if line.response is None or line.response.status_code != _OK:
            continue
        answered += 1
        usage = from_body(bytes(line.response.body))
        if usage is None:
            believed = False
            continue
        input_tokens += usage.input_tokens
        output_tokens += usage.output_tokens
        cached_tokens += usage.cached_tokens
    return Found(Usage(input_tokens, output_tokens, cached_tokens) if believed else None, answered)


def _whole(pieces: Iterator[bytes]) -> bytes:
    body = bytearray()
    for piece in pieces:
        body += piece
        if len(body) > MAX_BATCH_BYTES:
            raise Unreadable(f"more than {MAX_BATCH_BYTES} bytes")
    return bytes(body)


def _lines(pieces: Iterator[bytes]) -> Iterator[bytes]:
    rest, size = bytearray(), 0
    for piece in pieces:
        size += len(piece)
        first, *others = piece.split(b"\n")
        rest += first
        if size > MAX_OUTPUT_BYTES or len(rest) > MAX_LINE_BYTES:
            raise Unreadable("larger than any output")
        for other in others:
            if rest.strip():
                yield bytes(rest)
            rest = bytearray(other)
    if rest.strip():
        yield bytes(rest)


class Reader:
    """Asks the upstream at `base`, such as `https://api.groq.com/openai/v1`: no redirect followed, bounded in time.

    For one thread, and closed by whoever made it.
    """

    def __init__(self, base: str) -> None:
        self._base = base
        self._client: httpx.Client | None = None

    def __call__(self, path: str, key: Secret) -> Iterator[bytes]:
        if not is_safe(self._base):
            raise Unreadable("not an https address: the upstream key would travel in the clear")
        if self._client is None:  # who never makes a batch never reads all the authorities there are
            self._client = httpx.Client(timeout=TIMEOUT_S, follow_redirects=False)
        headers = {"authorization": f"Bearer {key.reveal()}"}
        try:
            with self._client.stream("GET", self._base + path, headers=headers) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise Unreadable(f"status {answer.status_code}")
                yield from answer.iter_bytes()
        except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
            raise Unreadable(type(error).__name__) from None

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
