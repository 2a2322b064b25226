"""Every way in which a request can be refused: one member each.

The member's value is at once the `code` of the answer, the field in the decision record and the metric's label, so a support
ticket, a log search and an alert all speak of the same thing. `SPEC` gives the HTTP status, Groq's error `type` and whose
fault it is; the SDKs retry 408, 409, 429 and 5xx by themselves and nothing else, which is why a budget that is spent is a
403 and not a 429.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Fault(StrEnum):
    """Who has to act."""

    CALLER = "caller"
    POLICY = "policy"
    DEPENDENCY = "dependency"


class Reason(StrEnum):
    """Why a request was refused."""

    INVALID_API_KEY = "invalid_api_key"
    """No credential, an unknown, expired or revoked one, or more than one: all alike, so that nothing can be probed."""

    UNKNOWN_URL = "unknown_url"
    """The method and path are not, byte for byte, in the table of endpoints."""

    UNSUPPORTED_MEDIA_TYPE = "unsupported_media_type"
    """A content type, charset or content encoding that the endpoint's reader does not take."""

    INVALID_REQUEST = "invalid_request_error"
    """A body that two parsers could read differently, or whose cost cannot be bounded."""

    REQUEST_TOO_LARGE = "request_too_large"
    """The body is larger than what is read before a decision."""

    NOT_KNOWN_HERE = "not_known_here"
    """A file or batch that is not, or not yet, known to be the caller's team's. SDKs try again: a new one is known soon."""

    MODEL_NOT_FOUND = "model_not_found"
    """Not in the price book under this exact name."""

    MODEL_DECOMMISSIONED = "model_decommissioned"
    """A name that Groq has retired."""

    MODEL_NOT_PRICED = "model_not_priced"
    """Known, but without a price for this use: what has no price has no budget."""

    MODEL_NOT_AVAILABLE = "model_not_available"
    """No permit covers this principal, action and model."""

    POLICY_DENIED = "policy_denied"
    """A forbid names this request."""

    POLICY_ERROR = "policy_error"
    """Cedar could not evaluate a policy. A forbid that errs would otherwise be skipped, so any error denies."""

    RATE_LIMIT_EXCEEDED = "rate_limit_exceeded"
    """A window is full (429), or the request alone is larger than the window (413)."""

    TOO_MANY_IN_FLIGHT = "too_many_in_flight"
    """Too many requests of this scope are under way."""

    SPEND_CAP_REACHED = "spend_cap_reached"
    """What is posted and pending leaves no room under the budget until it resets or is raised."""

    UPSTREAM_KEY_UNAVAILABLE = "upstream_key_unavailable"
    """There is no key to give to Groq."""

    STORE_UNAVAILABLE = "store_unavailable"
    """The ledger did not answer, and no quota on the path declares that it may be passed over."""

    OVERLOADED = "overloaded"
    """More requests wait for a decision than can be decided in time: this one was not decided at all."""


class ReasonSpec(NamedTuple):
    status: int
    type: str
    fault: Fault


SPEC: Final[dict[Reason, ReasonSpec]] = {
    Reason.INVALID_API_KEY: ReasonSpec(401, "invalid_request_error", Fault.CALLER),
    Reason.UNKNOWN_URL: ReasonSpec(404, "invalid_request_error", Fault.CALLER),
    Reason.UNSUPPORTED_MEDIA_TYPE: ReasonSpec(415, "invalid_request_error", Fault.CALLER),
    Reason.INVALID_REQUEST: ReasonSpec(400, "invalid_request_error", Fault.CALLER),
    Reason.REQUEST_TOO_LARGE: ReasonSpec(413, "invalid_request_error", Fault.CALLER),
    Reason.NOT_KNOWN_HERE: ReasonSpec(409, "invalid_request_error", Fault.CALLER),
    Reason.MODEL_NOT_FOUND: ReasonSpec(404, "invalid_request_error", Fault.CALLER),
    Reason.MODEL_DECOMMISSIONED: ReasonSpec(400, "invalid_request_error", Fault.CALLER),
    Reason.MODEL_NOT_PRICED: ReasonSpec(403, "permissions_error", Fault.POLICY),
    Reason.MODEL_NOT_AVAILABLE: ReasonSpec(403, "permissions_error", Fault.POLICY),
    Reason.POLICY_DENIED: ReasonSpec(403, "permissions_error", Fault.POLICY),
    Reason.POLICY_ERROR: ReasonSpec(403, "permissions_error", Fault.POLICY),
    Reason.RATE_LIMIT_EXCEEDED: ReasonSpec(429, "requests", Fault.CALLER),
    Reason.TOO_MANY_IN_FLIGHT: ReasonSpec(429, "requests", Fault.CALLER),
    Reason.SPEND_CAP_REACHED: ReasonSpec(403, "permissions_error", Fault.POLICY),
    Reason.UPSTREAM_KEY_UNAVAILABLE: ReasonSpec(503, "server_error", Fault.DEPENDENCY),
    Reason.STORE_UNAVAILABLE: ReasonSpec(503, "server_error", Fault.DEPENDENCY),
    Reason.OVERLOADED: ReasonSpec(503, "server_error", Fault.DEPENDENCY),
}
