"""What the upstream says a request used, as it stands in its answers: in a plain body, or in the chunks of a stream.

A count is taken from one source only, the first of these that can be believed, so what a stream says twice counts once:

    x_groq.usage      the last chunk of Groq's streams
    usage             a plain answer; a stream with `stream_options.include_usage`
    response.usage    a stream of the Responses API

Only these keys of an answer's own JSON are read: text of the model's that looks like them changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import msgspec
from msgspec import Raw, Struct

from authz.inference.batch import is_id
from authz.model import Named, Usage

MAX_TOKENS: Final = 2**24
"""A count above this is no count: a body of JSON has at most 3 MiB and no token is shorter than a byte."""

MAX_BODY_BYTES: Final = 32 * 1024 * 1024
MAX_EVENT_BYTES: Final = 1024 * 1024
"""What is kept of an answer to find a count in it; of a larger one there is no count, and the estimate stands."""


class _Details(Struct, frozen=True):
    cached_tokens: int | None = None


class _Tokens(Struct, frozen=True):
    """Groq's usage object: the first two and their details from chat completions, the others from the Responses API."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    prompt_tokens_details: _Details | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    input_tokens_details: _Details | None = None
    total_tokens: int | None = None


class _Answer(Struct, frozen=True):
    """A plain answer, or one event of a stream. What stands under `x_groq` and `response` is read like one, for its `usage`.

    A `Raw` that is not there is empty: beside `None` msgspec would take nothing else.
    """

    usage: Raw = Raw()
    x_groq: Raw = Raw()
    response: Raw = Raw()


class _Named(Struct, frozen=True):
    object: str
    id: str
    output_file_id: str | None = None
    error_file_id: str | None = None


_NAMED: Final = msgspec.json.Decoder(_Named)
_TOKENS: Final = msgspec.json.Decoder(_Tokens)
_ANSWER: Final = msgspec.json.Decoder(_Answer)


def from_usage(said: str | bytes | Raw) -> Usage | None:
    """A usage object as JSON text. None where it is none, or cannot be believed."""
    tokens = _tokens(said)
    if tokens is None:
        return None
    details = tokens.prompt_tokens_details or tokens.input_tokens_details or _Details()
    if tokens.prompt_tokens is not None or tokens.completion_tokens is not None:
        return plausible(tokens.prompt_tokens, tokens.completion_tokens, details.cached_tokens)
    return plausible(tokens.input_tokens, tokens.output_tokens, details.cached_tokens)


def from_body(body: bytes) -> Usage | None:
    """The count of a plain answer. `x_groq` holds none there: its `usage` counts something else."""
    answer = _decode(body)
    if answer is None:
        return None
    tokens = _tokens(answer.usage)
    if tokens is not None and tokens.completion_tokens is None and tokens.prompt_tokens == tokens.total_tokens is not None:
        return plausible(tokens.prompt_tokens, 0, None)  # embeddings: the input is all there is, and the total says so
    return from_usage(answer.usage)


def named_in(body: bytes) -> Named | None:
    """The file or batch that a plain answer is about."""
    try:
        said = _NAMED.decode(body)
    except msgspec.DecodeError:
        return None
    return named(said.object, said.id, (said.output_file_id, said.error_file_id))


def named(kind: str, identity: str, outputs: Iterable[str | None]) -> Named | None:
    """None where it is neither a file nor a batch, or has no name that one can have."""
    if kind not in ("file", "batch") or not is_id(identity):
        return None
    written = tuple(each for each in outputs if each is not None and is_id(each))
    return Named(kind, identity, written if kind == "batch" else ())


def plausible(input_tokens: int | None, output_tokens: int | None, cached_tokens: int | None) -> Usage | None:
    """None unless both counts are there and within bounds; nothing is answered to an input of no token. Cached tokens are
    part of the input, else none."""
    if input_tokens is None or output_tokens is None:
        return None
    if not (0 < input_tokens <= MAX_TOKENS and 0 <= output_tokens <= MAX_TOKENS):
        return None
    cached = cached_tokens or 0
    return Usage(input_tokens, output_tokens, cached if 0 <= cached <= input_tokens else 0)


class BodyReader:
    """Keeps a plain answer until it is whole."""

    done = False

    def __init__(self) -> None:
        self._pieces: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > MAX_BODY_BYTES:
            self._pieces.clear()
        else:
            self._pieces.append(piece)

    @property
    def usage(self) -> Usage | None:
        return from_body(b"".join(self._pieces)) if 0 < self._size <= MAX_BODY_BYTES else None

    @property
    def named(self) -> Named | None:
        return named_in(b"".join(self._pieces)) if 0 < self._size <= MAX_BODY_BYTES else None


class StreamReader:
    """Reads server-sent events piece by piece, however they are cut; keeps one line of them at most.

    done  the stream has said that nothing follows
    """

    def __init__(self) -> None:
        self._rest = b""
        self._too_long = False
        self._said: dict[str, Usage] = {}
        self.done = False

    def feed(self, piece: bytes) -> None:
        *lines, rest = (self._rest + piece).replace(b"\r", b"\n").split(b"\n")
        for line in lines:
            if not self._too_long:
                self._read(line)
            self._too_long = False
        self._too_long = self._too_long or len(rest) > MAX_EVENT_BYTES
        self._rest = b"" if self._too_long else rest

    @property
    def usage(self) -> Usage | None:
        return next((self._said[source] for source in ("x_groq", "usage", "response") if source in self._said), None)

    @property
    def named(self) -> Named | None:
        return None  # what streams is neither a file nor a batch

    def _read(self, line: bytes) -> None:
        if not line.startswith(b"data:"):
            return
        data = line[5:].strip()
        self.done = self.done or data == b"[DONE]"
        answer = _decode(data) if b'"usage"' in data else None  # most events are words and nothing else
        if answer is None:
            return
        found = {"x_groq": _within(answer.x_groq), "usage": answer.usage, "response": _within(answer.response)}
        for source, raw in found.items():
            if (usage := from_usage(raw)) is not None:
                self._said[source] = usage


def _tokens(said: str | bytes | Raw) -> _Tokens | None:
    try:
        return _TOKENS.decode(said)
    except (msgspec.DecodeError, RecursionError):
        return None


def _within(nested: Raw) -> Raw:
    answer = _decode(nested)
    return answer.usage if answer is not None else Raw()


def _decode(data: bytes | Raw) -> _Answer | None:
    try:
        return _ANSWER.decode(data)
    except (msgspec.DecodeError, RecursionError):
        return None
