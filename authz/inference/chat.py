"""`POST /chat/completions`: what it asks for, read strictly.

Every top-level key is in a list, because a key that we do not know may name a model or cost something. Features that Groq bills
apart from tokens (search, built-in tools, images, documents) have no price here yet and are refused by name.
"""

from __future__ import annotations

from typing import Any, Final

from authz.errors import Refused
from authz.inference.jsonbody import read_object
from authz.model import Ask
from authz.reasons import Reason

MAX_OUTPUT_TOKENS: Final = 2**31 - 1

_FREE: Final = frozenset({
    "disable_tool_validation", "frequency_penalty", "include_reasoning", "logit_bias", "logprobs", "metadata",
    "parallel_tool_calls", "presence_penalty", "reasoning_effort", "reasoning_format", "response_format", "seed", "stop",
    "store", "temperature", "tool_choice", "top_logprobs", "top_p", "user",
})  # fmt: skip
"""Change the answer, not what bounds its cost."""

_READ: Final = frozenset({
    "functions", "function_call", "max_completion_tokens", "max_tokens", "messages", "model", "n", "service_tier", "stream",
    "stream_options", "tools",
})  # fmt: skip

_UNPRICED: Final = frozenset({
    "citation_options", "compound_custom", "documents", "exclude_domains", "include_domains", "search_settings",
})  # fmt: skip

_TIERS: Final = frozenset({"auto", "on_demand", "flex"})


def read(body: bytes) -> Ask:
    """The ask of a chat. Raises `Refused` with the parameter at fault."""
    fields = read_object(body)
    _refuse_unknown(fields)
    _refuse_unpriced(fields)
    model = fields.get("model")
    if not isinstance(model, str) or not model:
        raise _wrong("model", "expected the name of a model as text")
    _check_messages(fields.get("messages"))
    if fields.get("n") not in (None, 1) or isinstance(fields.get("n"), bool):
        raise _wrong("n", "expected 1")
    return Ask(
        endpoint="chat.completions",
        action="chat",
        models=(model,),
        stream=_flag(fields, "stream"),
        input_bytes=len(body),
        max_output_tokens=_max_output_tokens(fields),
        service_tier=fields.get("service_tier") or "on_demand",
        tools=bool(fields.get("tools") or fields.get("functions")),
    )


def _refuse_unknown(fields: dict[str, Any]) -> None:
    for key in fields:
        if key not in _FREE and key not in _READ and key not in _UNPRICED:
            shown = "".join(char if char.isprintable() else "?" for char in key[:40])
            raise _wrong(shown, "is not a parameter that this endpoint takes")


def _refuse_unpriced(fields: dict[str, Any]) -> None:
    for key in _UNPRICED & fields.keys():
        if fields[key] is not None:
            raise _unpriced(key, "has no price here")
    tier = fields.get("service_tier")
    if tier is not None and (not isinstance(tier, str) or tier not in _TIERS):
        raise _unpriced("service_tier", "has no price here: expected auto, on_demand or flex")
    tools = fields.get("tools")
    if tools is None:
        return
    if not isinstance(tools, list):
        raise _wrong("tools", "expected a list of functions")
    for tool in tools:
        if not isinstance(tool, dict) or tool.get("type") != "function":
            raise _unpriced("tools", "only functions of the client's own are priced here")


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise _wrong("messages", "expected a list of at least one message")
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else False
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise _wrong("messages", "expected messages whose content is text")
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text":
                raise _unpriced("messages", "only text is priced here")


def _max_output_tokens(fields: dict[str, Any]) -> int | None:
    """The larger of the two twins: which one the upstream heeds is not ours to guess."""
    asked = [_positive(fields, key) for key in ("max_completion_tokens", "max_tokens")]
    return max((value for value in asked if value is not None), default=None)


def _positive(fields: dict[str, Any], key: str) -> int | None:
    value = fields.get(key)
    if value is None:
        return None
    if type(value) is not int or not 1 <= value <= MAX_OUTPUT_TOKENS:
        raise _wrong(key, f"expected a whole number from 1 to {MAX_OUTPUT_TOKENS}")
    return value


def _flag(fields: dict[str, Any], key: str) -> bool:
    value = fields.get(key)
    if value is not None and type(value) is not bool:
        raise _wrong(key, "expected true or false")
    return bool(value)


def _wrong(param: str, problem: str) -> Refused:
    return Refused(Reason.INVALID_REQUEST, f"`{param}`: {problem}.", param=param)


def _unpriced(param: str, problem: str) -> Refused:
    return Refused(Reason.MODEL_NOT_PRICED, f"`{param}`: {problem}.", param=param)
