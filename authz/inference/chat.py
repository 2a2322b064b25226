"""`POST /chat/completions`: what it asks for, read strictly.

Every top-level key is in a list, because a key that we do not know may name a model or cost something. Features that Groq bills
apart from tokens (search, built-in tools, compound systems, images, documents) have no price here and are refused by name.
"""

from __future__ import annotations

from typing import Any, Final

from authz.inference.fields import (
    flag,
    model_of,
    positive,
    refuse_hosted_tools,
    refuse_unknown,
    refuse_unpriced,
    tier_of,
    unpriced,
    wrong,
)
from authz.inference.jsonbody import read_object
from authz.model import Ask

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
"""`compound_custom` names further models, which a compound system calls as often as it likes: nothing bounds that."""

_KNOWN: Final = _FREE | _READ | _UNPRICED


def read(body: bytes) -> Ask:
    """The ask of a chat. Raises `Refused` with the parameter at fault."""
    return of(read_object(body), len(body))


def of(fields: dict[str, Any], size: int) -> Ask:
    """The same from its fields, which were `size` bytes at most."""
    refuse_unknown(fields, _KNOWN)
    refuse_unpriced(fields, _UNPRICED)
    tier = tier_of(fields)
    refuse_hosted_tools(fields)
    model = model_of(fields)
    _check_messages(fields.get("messages"))
    if fields.get("n") not in (None, 1) or isinstance(fields.get("n"), bool):
        raise wrong("n", "expected 1")
    return Ask(
        endpoint="chat.completions",
        action="chat",
        models=(model,),
        stream=flag(fields, "stream"),
        input_bytes=size,
        max_output_tokens=_max_output_tokens(fields),
        service_tier=tier,
        tools=bool(fields.get("tools") or fields.get("functions")),
    )


def _check_messages(messages: Any) -> None:
    if not isinstance(messages, list) or not messages:
        raise wrong("messages", "expected a list of at least one message")
    for message in messages:
        content = message.get("content") if isinstance(message, dict) else False
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise wrong("messages", "expected messages whose content is text")
        for part in content:
            if not isinstance(part, dict) or part.get("type") != "text":
                raise unpriced("messages", "only text is priced here")


def _max_output_tokens(fields: dict[str, Any]) -> int | None:
    """The larger of the two twins: which one the upstream heeds is not ours to guess."""
    asked = [positive(fields, key) for key in ("max_completion_tokens", "max_tokens")]
    return max((value for value in asked if value is not None), default=None)
