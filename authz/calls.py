"""A request that was allowed, from its reservation to how it ended.

How it ends, whichever of these is true first:

    `settle(usage)` was called        that is posted
    `void()` was called               everything is given back
    the upstream key was never taken  it cannot have left: everything is given back
    the upstream key was taken        it may have reached the upstream: the estimate stands, exception or not

So whoever can prove that nothing left (no connection was made) says `void()`, and nobody is let off by failing early.
"""

from __future__ import annotations

from authz.inference.reported import MAX_TOKENS, plausible
from authz.model import Allow, Outcome, Receipt, Secret, Usage


class Call:
    """What `Authorizer.reserve` gives. Neither `settle` nor `void` waits: the store hears of it when the block ends."""

    def __init__(self, allow: Allow) -> None:
        self._allow = allow
        self._taken = False
        self.said: Receipt | None = None

    @property
    def reservation_id(self) -> str:
        return self._allow.reservation_id

    @property
    def headers(self) -> tuple[tuple[str, str], ...]:
        """To add to the answer that the client gets: `x-ratelimit-*`."""
        return self._allow.headers

    @property
    def upstream_key(self) -> Secret:
        """The key to send the request with. From the moment it is taken the request counts as sent."""
        self._taken = True
        return self._allow.upstream_key

    def settle(self, usage: Usage | None) -> None:
        """What the upstream says was used, in tokens, or None where it said nothing. The first word counts, `void` included.

        Raises `ValueError` for counts that are negative, absurd or all zero.
        """
        self._say(settled(self.reservation_id, usage))

    def void(self) -> None:
        """Nothing left, or the upstream refused it: everything is given back."""
        self._say(Receipt(self.reservation_id, "", Outcome.NOT_SENT, 0, None))

    def receipt(self, *, failed: bool) -> Receipt:
        """How it ended. `failed`: by an exception."""
        if self.said is not None:
            return self.said
        if not self._taken:
            return Receipt(self.reservation_id, "", Outcome.NOT_SENT, 0, None)
        return Receipt(self.reservation_id, "", Outcome.ABANDONED if failed else Outcome.ANSWERED, 0, None)

    def _say(self, receipt: Receipt) -> None:
        if self.said is None:
            self.said = receipt


def settled(reservation_id: str, usage: Usage | None) -> Receipt:
    """Answered with success. Raises `ValueError` for counts that cannot be believed."""
    if usage is not None and plausible(usage.input_tokens, usage.output_tokens, usage.cached_tokens) != usage:
        raise ValueError(f"found {usage}, expected counts of 0 to {MAX_TOKENS}, not all zero, cached ones part of the input")
    return Receipt(reservation_id, "", Outcome.ANSWERED, 200, usage)
