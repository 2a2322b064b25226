"""What a request costs: at most before it leaves, really once the upstream has said.

There is no tokeniser in the path. A token is never shorter than a byte of text, and JSON's own syntax is longer than what a
chat template adds for a message, so the body's bytes and a fixed overhead of the template bound the input.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum
from typing import Final

from msgspec import structs

from authz.errors import Refused
from authz.inference.pricebook import BATCH, ModelSpec
from authz.model import Ask, Estimate, Meter, Price, Usage, Work
from authz.reasons import Reason

_BYTES_PER_TOKEN: Final = 3
"""Cautious for prose (about four); only what a rate limit is expected to see, never a bound."""

_PER: Final = 1_000_000
_HOUR_S: Final = 3600


class Metered(StrEnum):
    """What of a request is metered, and with it how it is estimated and what it settles on."""

    TOKENS = "tokens"  # bounded by bytes and ceilings; settles on the usage that the upstream reports
    AUDIO_SECONDS = "audio_seconds"  # the upload says it, and it settles on that
    CHARACTERS = "characters"  # the text says it, and it settles on that
    LINES = "lines"  # a batch: bounded by what its lines ask for together; settles on what its output reports
    NOTHING = "nothing"  # answered here: no reservation, no upstream


METERED: Final[dict[str, Metered]] = {
    "chat": Metered.TOKENS,
    "respond": Metered.TOKENS,
    "embed": Metered.TOKENS,
    "transcribe": Metered.AUDIO_SECONDS,
    "translate": Metered.AUDIO_SECONDS,
    "speak": Metered.CHARACTERS,
    "batch": Metered.LINES,
    "list_models": Metered.NOTHING,
}
"""By action. One that is not here has no estimator and no settlement: it is denied."""


_ONE_CALL: Final = {Meter.REQUESTS: 1, Meter.SPEND: 0, Meter.IN_FLIGHT: 1}
FREE: Final = Estimate(at_most=_ONE_CALL, expected=_ONE_CALL)
"""Of a request that the upstream does not charge for: it goes there, and it is one."""

ANYTHING: Final = Estimate(at_most=dict.fromkeys(Meter, 1), expected=dict.fromkeys(Meter, 1))
"""Of a request that nobody has made yet: it meets every quota."""


def of(ask: Ask, model: ModelSpec) -> tuple[Estimate, Price | None]:
    """What it costs at most, and at which price by token it will settle: None where the request itself says what it costs.

    Raises `Refused` where the model has no price for this use.
    """
    metered = METERED.get(ask.action)
    if ask.action in model.actions:
        if metered is Metered.TOKENS and model.price is not None:
            price = model.tiers.get(ask.service_tier)
            if price is None:
                problem = f"The service tier `{ask.service_tier}` has no price here."
                raise Refused(Reason.MODEL_NOT_PRICED, problem, param="service_tier")
            return _by_token(ask, model, price), price
        if metered is Metered.AUDIO_SECONDS and model.audio_hour is not None:
            return _known(*_audio(ask.audio_seconds, model.audio_hour, model.minimum_audio_seconds)), None
        if metered is Metered.CHARACTERS and model.million_characters is not None:
            return _known(-(-ask.characters * model.million_characters // _PER)), None
    raise Refused(Reason.MODEL_NOT_PRICED, f"The model `{model.id}` has no price for this use.", param="model")


def bound(
    ask: Ask, price: Price, *, context_tokens: int, max_output_tokens: int, overhead_tokens: int, expected_output_tokens: int
) -> Estimate:
    """The estimate of a request by tokens; all arguments after the price are the model's, in tokens."""
    input_most = min(ask.input_bytes + overhead_tokens * ask.inputs, context_tokens * ask.inputs)
    output_most = min(ask.max_output_tokens or max_output_tokens, max_output_tokens)
    likely = min(-(-ask.input_bytes // _BYTES_PER_TOKEN), input_most), min(expected_output_tokens, output_most)
    return Estimate(_amounts(input_most, 0, output_most, price), _amounts(likely[0], 0, likely[1], price))


def _by_token(ask: Ask, model: ModelSpec, price: Price) -> Estimate:
    answers = ask.action != "embed"  # an embedding is not an answer in tokens
    return bound(
        ask,
        price,
        context_tokens=model.context_tokens,
        max_output_tokens=model.max_output_tokens if answers else 0,
        overhead_tokens=model.prompt_overhead_tokens,
        expected_output_tokens=model.expected_output_tokens if answers else 0,
    )


def _audio(seconds: int, hour_nanousd: int, minimum_s: int) -> tuple[int, int]:
    """What is billed: nano-dollars, and seconds with the upstream's minimum."""
    billed_s = max(seconds, minimum_s)
    return -(-billed_s * hour_nanousd // _HOUR_S), billed_s


def batch_price(model: ModelSpec) -> Price:
    """What a token costs in a batch. Raises `Refused` where the model is for no batch, or a batch has no price."""
    price = model.tiers.get(BATCH)
    if BATCH not in model.actions or price is None:
        raise Refused(Reason.MODEL_NOT_PRICED, f"The model `{model.id}` has no price for batches here.", param="model")
    return price


def of_line(line: Ask, model: ModelSpec) -> Estimate:
    """Of one line of a batch's file. Raises `Refused` where the model has no price for what it asks."""
    return of(structs.replace(line, service_tier=BATCH), model)[0]


def work_of(lines: Sequence[Ask], estimates: Sequence[Estimate]) -> Work:
    """What the lines add up to, with the estimate of each."""
    inputs, outputs = ([each.at_most[meter] for each in estimates] for meter in (Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS))
    return Work(
        model=lines[0].models[0],
        action=lines[0].action,
        url=lines[0].url,
        lines=len(lines),
        input_tokens=sum(inputs),
        output_tokens=sum(outputs),
        expected_input_tokens=sum(each.expected[Meter.INPUT_TOKENS] for each in estimates),
        expected_output_tokens=sum(each.expected[Meter.OUTPUT_TOKENS] for each in estimates),
        largest_input_tokens=max(inputs),
        largest_output_tokens=max(outputs),
        tools=any(line.tools for line in lines),
    )


def of_work(work: Work, price: Price) -> Estimate:
    """Of a whole batch: as many requests as it has lines, and none of them holds a connection."""
    most = amounts(Usage(work.input_tokens, work.output_tokens), price)
    likely = amounts(Usage(work.expected_input_tokens, work.expected_output_tokens), price)
    count = {Meter.REQUESTS: work.lines, Meter.IN_FLIGHT: 0}
    return Estimate(at_most=most | count, expected=likely | count)


def largest_of(work: Work, price: Price) -> Estimate:
    """A line that asks for as much as the largest does."""
    most = amounts(Usage(work.largest_input_tokens, work.largest_output_tokens), price)
    return Estimate(at_most=most, expected=most)


def _known(spend_nanousd: int, audio_seconds: int = 0) -> Estimate:
    """Of a request that says itself what it costs: bound, expectation and settlement are one."""
    found = {
        Meter.REQUESTS: 1,
        Meter.AUDIO_SECONDS: audio_seconds,
        Meter.SPEND: spend_nanousd,
        Meter.IN_FLIGHT: 1,
    }
    return Estimate(at_most=found, expected=found)


def expecting(found: Estimate, price: Price, input_tokens: int, output_tokens: int) -> Estimate:
    """The same bound, with so many tokens expected below it."""
    likely = Usage(
        input_tokens=min(input_tokens, found.at_most[Meter.INPUT_TOKENS]),
        output_tokens=min(output_tokens, found.at_most[Meter.OUTPUT_TOKENS]),
    )
    return Estimate(at_most=found.at_most, expected=amounts(likely, price))


def amounts(usage: Usage, price: Price) -> dict[Meter, int]:
    """A request's amounts by meter. Cached input does not count against token rates and has its own price."""
    return _amounts(usage.input_tokens - usage.cached_tokens, usage.cached_tokens, usage.output_tokens, price)


def _amounts(fresh: int, cached: int, output: int, price: Price) -> dict[Meter, int]:
    """The cost is rounded up once, on the whole: a sum of many small requests is never below the sum of their prices."""
    return {
        _REQUESTS: 1,
        _TOKENS: fresh + output,
        _INPUT_TOKENS: fresh,
        _OUTPUT_TOKENS: output,
        _SPEND: -(-(fresh * price.input + cached * price.cached_input + output * price.output) // _PER),
        _IN_FLIGHT: 1,
    }


# A member of an enum is looked up through its class each time, which here would be a third of an estimate.
_REQUESTS: Final = Meter.REQUESTS
_TOKENS: Final = Meter.TOKENS
_INPUT_TOKENS: Final = Meter.INPUT_TOKENS
_OUTPUT_TOKENS: Final = Meter.OUTPUT_TOKENS
_SPEND: Final = Meter.SPEND
_IN_FLIGHT: Final = Meter.IN_FLIGHT
