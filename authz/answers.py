"""What a caller reads: the message, status and headers of a refusal, in Groq's words and with Groq's header names."""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, datetime
from decimal import Decimal
from functools import lru_cache
from typing import Any, Final

import msgspec
from msgspec import Struct

from authz.errors import Refused
from authz.model import NANOS_PER_USD, Deny, Meter, QuotaState
from authz.quota.headroom import Crowded
from authz.quota.ledger import Full
from authz.reasons import SPEC, Reason

_REQUEST_TOO_LARGE: Final = 413
_SHORT: Final = {"minute": "PM", "hour": "PH", "day": "PD"}
_TOKEN_METERS: Final = frozenset({Meter.TOKENS, Meter.INPUT_TOKENS, Meter.OUTPUT_TOKENS})

CLIENT_CREDENTIALS: Final = ("api-key", "cookie", "proxy-authorization", "x-api-key")
"""Where else than in `authorization` a client might have put a key of ours or of its own: none of it goes upstream."""


class Answer(Struct, frozen=True):
    """A refusal as it goes out. `headers` come on top of the content type; `private` is as in `Refused`."""

    reason: Reason
    status: int
    type: str
    message: str
    param: str | None = None
    headers: tuple[tuple[str, str], ...] = ()
    private: str = ""

    @property
    def recorded(self) -> str:
        """The message as a record keeps it."""
        return self.message.replace(self.private, "…", 1) if self.private else self.message


def refusal(refused: Refused) -> Answer:
    """The answer to a request that a phase refused."""
    spec = SPEC[refused.reason]
    after_s = refused.retry_after_s or (1 if spec.status == 503 else 0)
    retry = (("retry-after", str(after_s)),) if after_s else ()
    return Answer(
        refused.reason, spec.status, refused.kind or spec.type, refused.message, refused.param, retry, refused.private
    )


def crowded(found: Crowded, model: str, team: str) -> Refused:
    """Why a team waits while little is left of what the upstream lets the organisation have."""
    what = found.meter.value
    return Refused(
        Reason.RATE_LIMIT_EXCEEDED,
        f"Little is left of the organisation's {what} for model `{model}` at the upstream, and the team `{team}` has had its "
        f"share: Limit {found.limit}, Left {found.left}, Share {found.share}, Used {found.used}. "
        f"Please try again in {found.wait_s}s.",
        kind=what,
        retry_after_s=found.wait_s,
    )


def quota_refusal(full: Full, model: str, now_ns: int) -> Answer:
    """The answer to a request that one quota has no room for."""
    state = full.states[full.quota]
    headers = limit_headers(full.states, held=False)
    if state.meter is Meter.SPEND:
        reason, message = Reason.SPEND_CAP_REACHED, _spend_message(state, now_ns)
        return Answer(reason, SPEC[reason].status, SPEC[reason].type, message, headers=headers)
    kind = "tokens" if state.meter in _TOKEN_METERS else "requests"
    where = f"for model `{model}` for {state.scope} on {_counted(state)}: Limit {state.limit}"
    if full.retry_after_s is None:
        message = f"Request too large {where}, Requested {state.requested}, please reduce your message size and try again."
        return Answer(Reason.RATE_LIMIT_EXCEEDED, _REQUEST_TOO_LARGE, kind, message, headers=headers)
    wait = ("retry-after", str(max(1, math.ceil(full.retry_after_s))))
    numbers = f"{where}, Used {state.used}, Requested {state.requested}"
    if state.meter is Meter.IN_FLIGHT:
        message = f"Too many requests in flight {numbers}. Please try again when one has ended."
        return Answer(Reason.TOO_MANY_IN_FLIGHT, 429, kind, message, headers=(*headers, wait))
    message = f"Rate limit reached {numbers}. Please try again in {duration(full.retry_after_s)}."
    return Answer(Reason.RATE_LIMIT_EXCEEDED, 429, kind, message, headers=(*headers, wait))


def body(deny: Deny) -> bytes:
    """A refusal's body, in Groq's error format."""
    error: dict[str, Any] = {"message": deny.message, "type": deny.type, "code": deny.reason.value}
    if deny.param is not None:
        error["param"] = deny.param
    return msgspec.json.encode({"error": error})


def limit_headers(states: Iterable[QuotaState], *, held: bool) -> tuple[tuple[str, str], ...]:
    """`x-ratelimit-*` for the tightest window of requests and of tokens; `held` says whether this request is in them."""
    tightest: dict[str, tuple[int, QuotaState]] = {}
    for state in states:
        meter = state.meter
        name = _COUNTED_AS.get(meter, "")
        if name and state.enforced:
            left = _left(state, held=held)
            known = tightest.get(name)
            if known is None or left < known[0]:
                tightest[name] = left, state
    found: list[tuple[str, str]] = []
    for name in ("requests", "tokens"):
        if name in tightest:
            left, state = tightest[name]
            limit, remaining, reset = _HEADERS[name]
            found += ((limit, str(state.limit)), (remaining, str(left)), (reset, duration(state.reset_s)))
    return tuple(found)


_COUNTED_AS: Final = {Meter.REQUESTS: "requests", **dict.fromkeys(_TOKEN_METERS, "tokens")}
_HEADERS: Final = {
    name: tuple(f"x-ratelimit-{what}-{name}" for what in ("limit", "remaining", "reset")) for name in ("requests", "tokens")
}


def duration(seconds: float) -> str:
    """As Groq writes it: `7.66s`, `2m59.56s`, `1h0m12s`. Rounded up, so that it is never too early."""
    return _duration(math.ceil(seconds * 100))


@lru_cache(maxsize=8192)
def _duration(hundredths: int) -> str:
    minutes, rest = divmod(hundredths, 6000)
    hours, minutes = divmod(minutes, 60)
    text = f"{rest / 100:.2f}".rstrip("0").rstrip(".") + "s"
    return (f"{hours}h" if hours else "") + (f"{minutes}m" if hours or minutes else "") + text


def usd(nanos: int) -> str:
    """Dollars for people: cents where they say it all, up to six places where they do not."""
    exact = (Decimal(nanos) / NANOS_PER_USD).quantize(Decimal("0.000001"))
    whole, _, places = f"{exact:f}".partition(".")
    return f"{whole}.{places.rstrip('0').ljust(2, '0')}"


def _left(state: QuotaState, *, held: bool) -> int:
    return state.remaining if held else max(0, state.limit - state.used)


def _counted(state: QuotaState) -> str:
    short = _SHORT.get(state.window)
    name = f"{state.meter.value.replace('_', ' ')} per {state.window}"
    initials = "".join(word[0] for word in state.meter.value.split("_")).upper()
    return f"{name} ({initials}{short})" if short else name


def _spend_message(state: QuotaState, now_ns: int) -> str:
    resumes = datetime.fromtimestamp(now_ns // NANOS_PER_USD + math.ceil(state.reset_s), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return (
        f"Spend cap reached for {state.scope}: Limit {usd(state.limit)} USD per {state.window}, Used {usd(state.used)} USD, "
        f"Requested up to {usd(state.requested)} USD. Requests resume on {resumes}, or when the budget is raised."
    )
