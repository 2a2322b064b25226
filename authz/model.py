"""The vocabulary of a decision: what is asked, who asks, what it costs at most, and what was answered.

Everything here is a frozen value, made once at the edge and only read afterwards. Amounts are integers in the unit that the
meter names; money is nano-dollars (1 USD = 1_000_000_000).
"""

from __future__ import annotations

import hmac
from enum import StrEnum
from functools import cached_property
from typing import Final

from msgspec import UNSET, Struct, UnsetType

from authz.reasons import Reason

NANOS_PER_USD: Final = 1_000_000_000
MAX_AMOUNT: Final = 2**53 - 1
"""The largest amount that any part takes: exact in every JSON reader, in Lua and in SQLite; no sum of ours overflows i64."""


class Meter(StrEnum):
    """What a quota counts; the unit is in the comment."""

    REQUESTS = "requests"  # requests
    TOKENS = "tokens"  # input (without cached) + output tokens
    INPUT_TOKENS = "input_tokens"  # tokens, without cached ones
    OUTPUT_TOKENS = "output_tokens"  # tokens
    AUDIO_SECONDS = "audio_seconds"  # seconds, rounded up
    SPEND = "spend"  # nano-dollars
    IN_FLIGHT = "in_flight"  # requests under way


class Uid(Struct, frozen=True, order=True, cache_hash=True):
    """A Cedar entity's name. Client text only ever becomes `id`; `type` is one of ours."""

    type: str
    id: str

    def __str__(self) -> str:
        escaped = self.id.replace("\\", "\\\\").replace('"', '\\"')
        return f'{self.type}::"{escaped}"'


class Secret:
    """A value that must reach one place only: it does not print, and no encoder of ours takes it."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    __hash__ = None  # type: ignore[assignment]  # a secret is compared, never looked up


class Request(Struct, frozen=True, dict=True):
    """One inference request, as the enforcement point saw it and before anything of it is believed.

    headers  names in lower case, values as they came, in order; a name that came twice stands twice
    body     the whole body, as bytes; `None` where the enforcement point could not pass it whole
    peer     the identity that the enforcement point itself has verified of whoever is connected (mTLS), or empty
    traceparent  of the enforcement point's own span (W3C), or empty: only for spans, never for a decision
    """

    method: str
    path: str
    headers: tuple[tuple[str, str], ...]
    body: bytes | None
    request_id: str = ""
    source_ip: str = ""
    peer: str = ""
    traceparent: str = ""

    def header(self, name: str) -> tuple[str, ...]:
        """Every value that came under `name` (lower case)."""
        return self._by_name.get(name, ())

    @cached_property
    def _by_name(self) -> dict[str, tuple[str, ...]]:
        found: dict[str, tuple[str, ...]] = {}
        for name, value in self.headers:
            found[name] = (*found[name], value) if name in found else (value,)
        return found


class Principal(Struct, frozen=True, cache_hash=True):
    """Who is asking: the credential's entity and the scopes above it.

    path  from the credential up to the organisation, roles last: what quotas and Cedar's `in` see
    """

    uid: Uid
    organisation: Uid
    team: Uid
    user: Uid | None
    roles: tuple[Uid, ...]

    @property
    def path(self) -> tuple[Uid, ...]:
        user = (self.user,) if self.user is not None else ()
        own = () if self.uid == self.user else (self.uid,)
        return (*own, *user, self.team, self.organisation, *self.roles)


class Ask(Struct, frozen=True):
    """What the request wants, read strictly from method, path and body.

    models             every model it names; the first is the one that answers; none where it asks what there is
    input_bytes        size of what the model will read: no token is shorter than a byte
    max_output_tokens  the client's own ceiling, or None
    inputs             texts that the model reads one by one, each within its context
    audio_seconds      length of the upload, rounded up
    characters         of the text that is to be spoken
    lines              the requests of a file that is to be a batch, in its order
    named              the file or batch at the upstream that it is about; its models are those of that, found out later
    url                what a batch says that every line asks for, as the lines say it
    window_s           how long a batch may take
    """

    endpoint: str
    action: str
    models: tuple[str, ...]
    stream: bool = False
    input_bytes: int = 0
    max_output_tokens: int | None = None
    service_tier: str = "on_demand"
    tools: bool = False
    inputs: int = 1
    audio_seconds: int = 0
    characters: int = 0
    lines: tuple[Ask, ...] = ()
    named: str = ""
    url: str = ""
    window_s: int = 0


class Work(Struct, frozen=True):
    """What the lines of a batch's file ask for, added up; tokens are at most, unless they are expected.

    model, action, url  of every line, the model as the lines name it
    largest_*           of one line
    """

    model: str
    action: str
    url: str
    lines: int
    input_tokens: int
    output_tokens: int
    expected_input_tokens: int
    expected_output_tokens: int
    largest_input_tokens: int
    largest_output_tokens: int
    tools: bool


class Estimate(Struct, frozen=True):
    """What a request costs by meter: `at_most` is a bound, `expected` is what a rate limit reserves."""

    at_most: dict[Meter, int]
    expected: dict[Meter, int]


class Asked(Struct, frozen=True):
    """A request of which is known who asks and for what: what a bundle decides on, whatever door it came through.

    estimate  where it is known already, as of a recorded decision; None has it worked out from `ask`
    narrowed  the principal with fewer roles, where its secret has fewer: both have to be allowed
    """

    principal: Principal
    ask: Ask
    now_ns: int
    source_ip: str = ""
    request_id: str = ""
    estimate: Estimate | None = None
    narrowed: Principal | None = None


class Price(Struct, frozen=True, array_like=True):
    """Nano-dollars for a million tokens. A reservation carries its own copy, so a later price change does not reach it. Stores
    keep it by the order of its fields: append, never reorder."""

    input: int
    output: int
    cached_input: int


class Usage(Struct, frozen=True):
    """What the upstream says a request used, in tokens; cached tokens are part of `input_tokens`."""

    input_tokens: int
    output_tokens: int
    cached_tokens: int = 0


class QuotaState(Struct, frozen=True, omit_defaults=True):
    """One quota as a decision saw it; amounts in the meter's unit.

    requested  what this request charges (or would have)
    used       posted and pending, without this request
    reset_s    seconds until the window has room again for the whole limit (a budget: until the period ends)
    """

    quota: str
    scope: str
    meter: Meter
    window: str
    limit: int
    used: int
    requested: int
    reset_s: float
    enforced: bool = True

    @property
    def remaining(self) -> int:
        return max(0, self.limit - self.used - self.requested)


class DecisionRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="decision"):
    """The audit row, one JSON line each. It never holds a prompt, a key or a token.

    The first six fields differ between two runs of one request; all others are equal through whatever door it came.

    models    the names that the request gave, made printable; `model` is what the first of them stands for
    quota     id of the one that refused
    roles     of a user, as token and directory gave them; of a key, those left to a secret that was issued with fewer
    trace_id, span_id  of the decision's span, in hex; empty where it is not traced
    endpoint, service_tier, tools, source_ip  what policies saw of the request, so that it can be decided again
    """

    decision_id: str
    time: str
    duration_us: int
    reservation_id: str
    trace_id: str = ""
    span_id: str = ""
    version: int = 1
    request_id: str
    bundle: str
    effect: str
    status: int
    reason: Reason | None = None
    message: str = ""
    principal: str | None = None
    team: str | None = None
    organisation: str | None = None
    user: str | None = None
    roles: tuple[str, ...] | UnsetType = UNSET
    method: str = ""
    path: str = ""
    action: str | None = None
    models: tuple[str, ...] = ()
    model: str | None = None
    endpoint: str = ""
    stream: bool = False
    service_tier: str = ""
    tools: bool = False
    source_ip: str = ""
    policies: tuple[str, ...] = ()
    policy_errors: tuple[str, ...] = ()
    shadow_policies: tuple[str, ...] | UnsetType = UNSET
    quotas: tuple[QuotaState, ...] = ()
    quota: str | None = None
    estimate: Estimate | None = None


class Outcome(StrEnum):
    """How a request that was allowed ended, as the enforcement point saw it."""

    ANSWERED = "answered"  # upstream answered with success: its usage counts, without one the estimate stands
    ABANDONED = "abandoned"  # the client left, or the stream broke, after the upstream had it: the estimate stands
    UPSTREAM_ERROR = "upstream_error"  # upstream answered 4xx or 5xx: nothing is owed
    NOT_SENT = "not_sent"  # it never reached the upstream: nothing is owed


class SettlementRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="settlement"):
    """How a reservation ended, one JSON line each, after the line of its decision.

    outcome  as the enforcement point saw it · state  of the reservation from then on
    amounts  what was posted, by meter; empty where everything was given back
    team, user, key, model, action  of the reservation; empty where a Check was cancelled before its answer was heard
    """

    time: str
    reservation_id: str
    version: int = 1
    outcome: Outcome
    state: str
    team: str = ""
    user: str = ""
    key: str = ""
    model: str = ""
    action: str = ""
    amounts: dict[Meter, int] = {}
    usage: Usage | None = None


Record = DecisionRecord | SettlementRecord


class Allow(Struct, frozen=True):
    """Proceed, with this upstream key. Only `Pdp.conclude` makes one.

    headers   to add to the answer that the client gets
    upstream  what the key is called, for whoever reports later that it was refused
    """

    reservation_id: str
    upstream_key: Secret
    headers: tuple[tuple[str, str], ...]
    record: DecisionRecord
    upstream: str = ""


class Deny(Struct, frozen=True):
    """Refuse, in Groq's own error format: `status`, and a body of `message`, `type`, `code` (and `param`)."""

    reason: Reason
    status: int
    type: str
    message: str
    param: str | None
    headers: tuple[tuple[str, str], ...]
    record: DecisionRecord


class Reply(Struct, frozen=True):
    """Allowed, and answered here with status 200 and this JSON: nothing goes upstream and nothing is reserved."""

    body: bytes
    headers: tuple[tuple[str, str], ...]
    record: DecisionRecord


Decision = Allow | Deny | Reply


class UpstreamLimit(Struct, frozen=True):
    """One of the upstream's own limits, as its answer said at `at_ns`: `reset_ns` after that the whole of it is there again."""

    meter: Meter
    limit: int
    remaining: int
    reset_ns: int
    at_ns: int


class UpstreamRoom(Struct, frozen=True):
    """What is left of one of the upstream's limits at a moment, by estimate; `teams` have asked for some of it lately."""

    upstream: str
    model: str
    meter: Meter
    limit: int
    left: int
    teams: int
    learned_ns: int


class Named(Struct, frozen=True):
    """What the upstream's answer calls a file or a batch.

    kind     `file` or `batch`
    outputs  the files that a batch has written
    """

    kind: str
    id: str
    outputs: tuple[str, ...] = ()


class Receipt(Struct, frozen=True):
    """What the enforcement point reports of one request afterwards.

    reservation_id  from the allow's metadata; empty where the answer was never applied
    request_id      the enforcement point's own id, to find the reservation by when there is no `reservation_id`
    status          the HTTP status that the client got, 0 for none
    usage           the upstream's own count, or None where it gave none that can be believed
    upstream        the name of the key that it went with, from the allow's metadata
    limits          what the upstream's answer said of its own limits
    named           the file or batch that the upstream's answer is about
    """

    reservation_id: str
    request_id: str
    outcome: Outcome
    status: int
    usage: Usage | None
    upstream: str = ""
    limits: tuple[UpstreamLimit, ...] = ()
    named: Named | None = None
