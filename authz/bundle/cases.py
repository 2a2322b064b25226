"""The bundle's own tests: a principal, a request, what the quotas have counted; and the answer that is expected.

    cases:
      - name: batch work would stop at 80 per cent of the month
        principal: Key::"batch-processor"           # a user acts in a team: User::"dev" with `team: chatbot`
        request: {model: llama-3.1-8b-instant, stream: true, input_tokens: 1200, max_output_tokens: 400}
        spend: {org: 80}                            # per cent of the fullest budget of each scope, as a policy sees it
        used: {org-spend: 420 USD}                  # what a quota has counted before, in its own unit
        expect: {effect: allow, policies: [analytics-cheapest], shadow: ["deny:batch-stops-at-80-percent"]}

What `expect` does not name is not compared.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from msgspec import Meta, Struct

from authz.reasons import Reason

Amount = Annotated[int, Meta(ge=0, le=2**53 - 1)]
Percent = Annotated[int, Meta(ge=0, le=1_000_000)]


class CaseRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """model for inference, resource (`Team::"chatbot"`) for administration; `time` as ISO 8601 with an offset."""

    action: str = "chat"
    model: str | None = None
    resource: str | None = None
    stream: bool = False
    input_tokens: Amount = 100
    max_output_tokens: Amount = 100
    endpoint: str = "chat.completions"
    service_tier: str = "on_demand"
    tools: bool = False
    source_ip: str = ""
    time: datetime | None = None


class CasePercents(Struct, frozen=True, forbid_unknown_fields=True):
    org: Percent = 0
    team: Percent = 0
    user: Percent = 0
    key: Percent = 0


class Expected(Struct, frozen=True, forbid_unknown_fields=True):
    """policies  determining ids · quota  the one that refuses · shadow  as in `Verdict.shadow`"""

    effect: Literal["allow", "deny"]
    reason: Reason | None = None
    policies: tuple[str, ...] | None = None
    quota: str | None = None
    shadow: tuple[str, ...] | None = None


class Case(Struct, frozen=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(min_length=1, max_length=200)]
    principal: str
    request: CaseRequest
    expect: Expected
    team: str | None = None
    spend: CasePercents = CasePercents()
    window: CasePercents = CasePercents()
    used: dict[str, str | int] = {}


class CaseFile(Struct, frozen=True, forbid_unknown_fields=True):
    cases: tuple[Case, ...] = ()
