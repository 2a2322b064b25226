"""`POST /responses`: what it asks for, read strictly. Every top-level key is in a list, as for a chat."""

from __future__ import annotations

from typing import Any, Final

from authz.inference.fields import (
    flag,
    model_of,
    positive,
    refuse_hosted_tools,
    refuse_unknown,
    refuse_unpriced,
    shown,
    tier_of,
    unpriced,
    wrong,
)
from authz.inference.jsonbody import read_object
from authz.model import Ask

_FREE: Final = frozenset({
    "include", "max_tool_calls", "metadata", "parallel_tool_calls", "prompt_cache_key", "prompt_cache_retention", "reasoning",
    "safety_identifier", "store", "stream_options", "temperature", "text", "top_logprobs", "top_p", "truncation", "user",
})  # fmt: skip
"""Change the answer, not what bounds its cost."""

_READ: Final = frozenset({
    "input", "instructions", "max_output_tokens", "model", "service_tier", "stream", "tool_choice", "tools",
})  # fmt: skip

_ELSEWHERE: Final = frozenset({"background", "conversation", "previous_response_id", "prompt"})
"""Have the model read what is kept at the upstream, or work on when the connection has ended: nothing here bounds that."""

_KNOWN: Final = _FREE | _READ | _ELSEWHERE

_TEXT_PARTS: Final = frozenset({"input_text", "output_text", "refusal", "summary_text", "reasoning_text", "text"})


def read(body: bytes) -> Ask:
    """The ask of a response. Raises `Refused` with the parameter at fault."""
    return of(read_object(body), len(body))


def of(fields: dict[str, Any], size: int) -> Ask:
    """The same from its fields, which were `size` bytes at most."""
    refuse_unknown(fields, _KNOWN)
    refuse_unpriced(fields, _ELSEWHERE, "cannot be bounded here")
    tier = tier_of(fields)
    refuse_hosted_tools(fields)
    _check_tool_choice(fields.get("tool_choice"))
    model = model_of(fields)
    instructions = fields.get("instructions")
    if instructions is not None and not isinstance(instructions, str):
        raise wrong("instructions", "expected text")
    _check_input(fields.get("input"))
    return Ask(
        endpoint="responses",
        action="respond",
        models=(model,),
        stream=flag(fields, "stream"),
        input_bytes=size,
        max_output_tokens=positive(fields, "max_output_tokens"),
        service_tier=tier,
        tools=bool(fields.get("tools")),
    )


def _check_tool_choice(choice: Any) -> None:
    if choice is None or isinstance(choice, str):
        return
    if not isinstance(choice, dict) or choice.get("type") != "function":
        raise unpriced("tool_choice", "only functions of the client's own are priced here")


def _check_input(given: Any) -> None:
    if isinstance(given, str) and given:
        return
    if not isinstance(given, list) or not given:
        raise wrong("input", "expected text or a list of at least one item")
    for item in given:
        _check_item(item)


def _check_item(item: Any) -> None:
    if not isinstance(item, dict):
        raise wrong("input", "expected items that are objects")
    kind = item.get("type", "message")
    if kind == "message":
        _check_texts(item.get("content"))
    elif kind == "reasoning":
        # What is encrypted may be compressed too: its bytes would bound nothing.
        if item.get("encrypted_content") is not None:
            raise unpriced("input", "encrypted reasoning cannot be bounded here")
        _check_texts(item.get("summary"))
        _check_texts(item.get("content"))
    elif kind == "function_call":
        if not isinstance(item.get("arguments"), str):
            raise wrong("input", "expected the arguments of a function call as text")
    elif kind == "function_call_output":
        _check_texts(item.get("output"))
    else:
        raise unpriced("input", f"an item of type `{shown(str(kind))}` has no price here")


def _check_texts(content: Any) -> None:
    if content is None or isinstance(content, str):
        return
    if not isinstance(content, list):
        raise wrong("input", "expected content that is text")
    for part in content:
        kind = part.get("type") if isinstance(part, dict) else None
        if not isinstance(kind, str) or kind not in _TEXT_PARTS:
            raise unpriced("input", "only text is priced here")
