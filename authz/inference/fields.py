"""What the readers of JSON bodies share: every key is known, every value has its type, what has no price is refused by name."""

from __future__ import annotations

from collections.abc import Set
from typing import Any, Final

from authz.errors import Refused
from authz.reasons import Reason

MAX_OUTPUT_TOKENS: Final = 2**31 - 1

TIERS: Final = frozenset({"auto", "on_demand", "flex", "performance"})
"""Those that the price book can have a price for; whether it has one is found out with the model."""


def wrong(param: str, problem: str) -> Refused:
    return Refused(Reason.INVALID_REQUEST, f"`{param}`: {problem}.", param=param)


def unknown(param: str) -> Refused:
    """Of a name that is the caller's alone."""
    name = shown(param)
    problem = f"`{name}`: is not a parameter that this endpoint takes."
    return Refused(Reason.INVALID_REQUEST, problem, param=name, private=name)


def unpriced(param: str, problem: str) -> Refused:
    return Refused(Reason.MODEL_NOT_PRICED, f"`{param}`: {problem}.", param=param)


def shown(text: str, most: int = 40) -> str:
    """A client's text in a message: printable, short, one line."""
    return "".join(char if char.isprintable() else "?" for char in text[:most])


def refuse_unknown(fields: dict[str, Any], known: Set[str]) -> None:
    """A key that nobody here knows may name a model or cost something."""
    for key in fields:
        if key not in known:
            raise unknown(key)


def refuse_unpriced(fields: dict[str, Any], names: Set[str], problem: str = "has no price here") -> None:
    for key in fields:
        if key in names and fields[key] is not None:
            raise unpriced(key, problem)


def model_of(fields: dict[str, Any]) -> str:
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise wrong("model", "expected the name of a model as text")
    return model


def tier_of(fields: dict[str, Any]) -> str:
    tier = fields.get("service_tier")
    if tier is None:
        return "on_demand"
    if not isinstance(tier, str) or tier not in TIERS:
        raise unpriced("service_tier", "has no price here: expected auto, on_demand, flex or performance")
    return tier


def refuse_hosted_tools(fields: dict[str, Any]) -> None:
    """Tools that run at the upstream are billed apart from tokens, and what they find is read as input that nobody bounds."""
    tools = fields.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        raise wrong("tools", "expected a list of functions")
    for tool in tools:
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise unpriced("tools", "only functions of the client's own are priced here")


def positive(fields: dict[str, Any], key: str) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= MAX_OUTPUT_TOKENS:
        raise wrong(key, f"expected a whole number from 1 to {MAX_OUTPUT_TOKENS}")
    return value


def flag(fields: dict[str, Any], key: str) -> bool:
    value = fields.get(key)
    if value is not None and type(value) is not bool:
        raise wrong(key, "expected true or false")
    return bool(value)
