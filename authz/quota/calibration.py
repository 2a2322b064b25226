"""What requests really use, learned: for each key and model a few hundred small integers, and the quantiles that they give.

A rate limit reserves what a request is expected to use. Before there is a history that is the price book's own figure; after
it, the quantile of what the same key got from the same model. Three histograms are kept, all with cells an eighth of an octave
wide (a value is known to one part in eight) and all in one flat table of counts, so that a store adds up numbers and knows
nothing of their meaning:

output   tokens of an answer
input    thousandths of a token for each byte that the model read, and for what its chat template puts around a text
error    what was used in thousandths of what was reserved

Decay is by number and needs no clock: above `MAX_SAMPLES` every count is halved, so the newest one or two thousand requests
are what speaks. Nothing here is a bound: that is the worst case, and it stays with `spend`.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Final, Protocol

from msgspec import Struct

MIN_SAMPLES: Final = 30
"""Fewer than these say nothing about a tail, and the price book's figure stands."""

MAX_SAMPLES: Final = 2_000
QUANTILE_PERMILLE: Final = 900
FLOOR_TOKENS: Final = 8
"""The least that is expected of an answer: a key that got empty ones is not let through for nothing."""

SAMPLES: Final = 0
OVERSHOTS: Final = 1
OVERSHOOT_TOKENS: Final = 2
RESERVED_TOKENS: Final = 3
"""The cells that are plain sums: requests, those that used more than was reserved, by how much together, and all reserved."""

_TEMPLATE_BYTES: Final = 256
"""What a chat template adds is worth about so many bytes. Without it a few short prompts, which are all template, would have a
long one expected at several times its size."""

_OUTPUT: Final = 1_000
_INPUT: Final = 2_000
_ERROR: Final = 3_000
_SPAN: Final = 1_000
_MAX_VALUE: Final = 2**40 - 1
_MAX_KNOWN: Final = 100_000
_MAX_LEARNING: Final = 10_000
_PAGE: Final = 5_000

Counts = Mapping[int, int]
"""Cell → count; a cell with nothing in it is left out."""


class Lesson(Struct, frozen=True):
    """What is known of one key (its entity, as the terms of a reservation name it) on one model.

    sequence  grows with every change of any row, so that a reader can ask for what is new; 0 on the way to the store
    """

    key: str
    model: str
    counts: Counts
    sequence: int = 0


class Observed(Struct, frozen=True):
    """One settled request. `reserved_tokens` is what a token rate held for it, input and output together."""

    key: str
    model: str
    input_bytes: int
    input_tokens: int
    output_tokens: int
    reserved_tokens: int


class Expectation(Struct, frozen=True):
    """What the next request of a key on a model is expected to use.

    input_millitokens  thousandths of a token for each byte that the model reads, those of its template included
    """

    output_tokens: int
    input_millitokens: int

    def input_tokens(self, input_bytes: int) -> int:
        return -(-(input_bytes + _TEMPLATE_BYTES) * self.input_millitokens // 1000)


class Calibrated(Struct, frozen=True):
    """A row of the report on the estimates. Errors are what was used in thousandths of what was reserved."""

    key: str
    model: str
    samples: int
    expectation: Expectation | None
    error_p50_permille: int
    error_p90_permille: int
    overshots: int
    overshoot_permille: int


class LessonStore(Protocol):
    """Where lessons live. Every method raises `StoreUnavailable`."""

    def learn(self, lessons: tuple[Lesson, ...], now_ns: int) -> None: ...

    def learned_since(self, sequence: int, at_most: int) -> tuple[Lesson, ...]: ...


def cell(value: int) -> int:
    """The cell of a value of 0 or more: exact below 16, then eight to the octave."""
    value = min(max(value, 0), _MAX_VALUE)
    shift = max(0, value.bit_length() - 4)
    return 8 * shift + (value >> shift)


def upper(number: int) -> int:
    """The largest value of a cell."""
    shift = max(0, number // 8 - 1)
    return ((number - 8 * shift + 1) << shift) - 1


def added(kept: Counts, more: Counts) -> dict[int, int]:
    """What a store keeps after a lesson: the sum; while its `SAMPLES` are above `MAX_SAMPLES`, every count is halved.

    Halves are rounded down, and what comes to 0 is left out.
    """
    counts = dict(kept)
    for number, count in more.items():
        counts[number] = counts.get(number, 0) + count
    while counts.get(SAMPLES, 0) > MAX_SAMPLES:
        counts = {number: count // 2 for number, count in counts.items()}
    return {number: count for number, count in counts.items() if count > 0}


def counts_of(observed: Observed) -> dict[int, int]:
    """One request as counts, to be added to what is known."""
    used = observed.input_tokens + observed.output_tokens
    over = max(0, used - observed.reserved_tokens)
    counts = {SAMPLES: 1, _OUTPUT + cell(observed.output_tokens): 1, RESERVED_TOKENS: observed.reserved_tokens}
    counts[_INPUT + cell(-(-observed.input_tokens * 1000 // (observed.input_bytes + _TEMPLATE_BYTES)))] = 1
    if observed.reserved_tokens > 0:
        counts[_ERROR + cell(used * 1000 // observed.reserved_tokens)] = 1
    if over:
        counts |= {OVERSHOTS: 1, OVERSHOOT_TOKENS: over}
    return counts


def expectation(counts: Counts) -> Expectation | None:
    """None while there is too little to go by."""
    if counts.get(SAMPLES, 0) < MIN_SAMPLES:
        return None
    output = _quantile(counts, _OUTPUT, QUANTILE_PERMILLE)
    return Expectation(max(output, FLOOR_TOKENS), _quantile(counts, _INPUT, QUANTILE_PERMILLE))


def calibrated(lesson: Lesson) -> Calibrated:
    """How good the estimates were, for people."""
    counts = lesson.counts
    reserved = counts.get(RESERVED_TOKENS, 0)
    return Calibrated(
        key=lesson.key,
        model=lesson.model,
        samples=counts.get(SAMPLES, 0),
        expectation=expectation(counts),
        error_p50_permille=_quantile(counts, _ERROR, 500),
        error_p90_permille=_quantile(counts, _ERROR, 900),
        overshots=counts.get(OVERSHOTS, 0),
        overshoot_permille=counts.get(OVERSHOOT_TOKENS, 0) * 1000 // reserved if reserved else 0,
    )


class Calibration:
    """What this process has seen and what all of them have learned. Safe in threads; `find` is one look-up and no I/O."""

    def __init__(self, store: LessonStore) -> None:
        self._store = store
        self._lock = threading.Lock()
        self._learning: dict[tuple[str, str], dict[int, int]] = {}
        self._known: dict[tuple[str, str], Expectation] = {}
        self._sequence = 0

    def find(self, key: str, model: str) -> Expectation | None:
        return self._known.get((key, model))

    def observe(self, observed: Observed) -> None:
        """Takes note. What no longer fits into memory before the next `flush` is not learned: it is only an estimate."""
        name = (observed.key, observed.model)
        with self._lock:
            kept = self._learning.get(name)
            if kept is None and len(self._learning) >= _MAX_LEARNING:
                return
            self._learning[name] = added(kept or {}, counts_of(observed))

    def flush(self, now_ns: int) -> None:
        """Gives what was seen to the store. Raises `StoreUnavailable`; then it is kept for the next time."""
        with self._lock:
            taken, self._learning = self._learning, {}
        if not taken:
            return
        try:
            self._store.learn(tuple(Lesson(*name, counts) for name, counts in taken.items()), now_ns)
        except BaseException:
            with self._lock:
                for name, counts in taken.items():
                    self._learning[name] = added(self._learning.get(name, {}), counts)
            raise

    def refresh(self) -> None:
        """Brings what any process has learned since the last time. Raises `StoreUnavailable`; what was known stays."""
        while rows := self._store.learned_since(self._sequence, _PAGE):
            if len(self._known) + len(rows) > _MAX_KNOWN:
                self._known = {}
            for row in rows:
                found = expectation(row.counts)
                if found is not None:
                    self._known[row.key, row.model] = found
                self._sequence = max(self._sequence, row.sequence)
            if len(rows) < _PAGE:
                return


def _quantile(counts: Counts, base: int, permille: int) -> int:
    """The upper edge of the cell in which the quantile lies; 0 without a sample."""
    cells = sorted((number - base, count) for number, count in counts.items() if base <= number < base + _SPAN)
    rank = -(-sum(count for _, count in cells) * permille // 1000)
    for number, count in cells:
        rank -= count
        if rank <= 0:
            return upper(number)
    return 0
