"""What a request costs: at most before it leaves, really once the upstream has said.

There is no tokeniser in the path. A token is never shorter than a byte of text, and JSON's own syntax is longer than what a
chat template adds for a message, so the body's bytes and a fixed overhead of the template bound the input.
"""

from __future__ import annotations

from typing import Final

from authz.model import Ask, Estimate, Meter, Price, Usage

_BYTES_PER_TOKEN: Final = 3
"""Cautious for prose (about four); only what a rate limit is expected to see, never a bound."""

_PER: Final = 1_000_000


def bound(
    ask: Ask, price: Price, *, context_tokens: int, max_output_tokens: int, overhead_tokens: int, expected_output_tokens: int
) -> Estimate:
    """The estimate of a request by tokens; all arguments after the price are the model's, in tokens."""
    input_most = min(ask.input_bytes + overhead_tokens, context_tokens)
    output_most = min(ask.max_output_tokens or max_output_tokens, max_output_tokens)
    at_most = amounts(Usage(input_tokens=input_most, output_tokens=output_most), price)
    likely = Usage(
        input_tokens=min(-(-ask.input_bytes // _BYTES_PER_TOKEN), input_most),
        output_tokens=min(expected_output_tokens, output_most),
    )
    return Estimate(at_most=at_most, expected=amounts(likely, price))


def amounts(usage: Usage, price: Price) -> dict[Meter, int]:
    """A request's amounts by meter. Cached input does not count against token rates and has its own price."""
    fresh = usage.input_tokens - usage.cached_tokens
    return {
        Meter.REQUESTS: 1,
        Meter.TOKENS: fresh + usage.output_tokens,
        Meter.INPUT_TOKENS: fresh,
        Meter.OUTPUT_TOKENS: usage.output_tokens,
        Meter.SPEND: cost_nanousd(usage, price),
        Meter.IN_FLIGHT: 1,
    }


def cost_nanousd(usage: Usage, price: Price) -> int:
    """Rounded up once, on the whole: a sum of many small requests is never below the sum of their prices."""
    fresh = usage.input_tokens - usage.cached_tokens
    total = fresh * price.input + usage.cached_tokens * price.cached_input + usage.output_tokens * price.output
    return -(-total // _PER)
