"""Policy-as-code authorization, quotas and budgets for LLM inference.

The names below are the library. They are loaded when first used, so that `import authz` costs next to nothing and brings in
neither gRPC nor OpenTelemetry.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from authz.asgi import AuthorizedApp
    from authz.authorizer import AsyncAuthorizer, Authorizer, chat_request
    from authz.calls import Call
    from authz.errors import AuthzError, ConfigError, Denied, NotOpen, StoreUnavailable
    from authz.model import Allow, Decision, DecisionRecord, Deny, Outcome, Receipt, Request, Usage
    from authz.reasons import Reason
    from authz.sdk import AsyncAuthorizedTransport, AuthorizedTransport
    from authz.settings import Settings, read_settings

__all__ = [
    "Allow",
    "AsyncAuthorizedTransport",
    "AsyncAuthorizer",
    "AuthorizedApp",
    "AuthorizedTransport",
    "Authorizer",
    "AuthzError",
    "Call",
    "ConfigError",
    "Decision",
    "DecisionRecord",
    "Denied",
    "Deny",
    "NotOpen",
    "Outcome",
    "Reason",
    "Receipt",
    "Request",
    "Settings",
    "StoreUnavailable",
    "Usage",
    "chat_request",
    "read_settings",
]

_HOME: Final = {
    "AuthorizedApp": "asgi",
    "AsyncAuthorizer": "authorizer",
    "Authorizer": "authorizer",
    "chat_request": "authorizer",
    "Call": "calls",
    "AuthzError": "errors",
    "ConfigError": "errors",
    "Denied": "errors",
    "NotOpen": "errors",
    "StoreUnavailable": "errors",
    "Allow": "model",
    "Decision": "model",
    "DecisionRecord": "model",
    "Deny": "model",
    "Outcome": "model",
    "Receipt": "model",
    "Request": "model",
    "Usage": "model",
    "Reason": "reasons",
    "Settings": "settings",
    "read_settings": "settings",
    "AsyncAuthorizedTransport": "sdk",
    "AuthorizedTransport": "sdk",
}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module `authz` has no attribute `{name}`")
    return getattr(import_module(f"authz.{_HOME[name]}"), name)


def __dir__() -> list[str]:
    return __all__
