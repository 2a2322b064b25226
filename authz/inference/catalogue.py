"""What `GET /models` and `GET /models/{id}` answer: the price book's models, in Groq's form."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from authz.inference.pricebook import ModelSpec


def several(models: Iterable[ModelSpec]) -> bytes:
    return msgspec.json.encode({"object": "list", "data": [_entry(model) for model in models]})


def one(model: ModelSpec) -> bytes:
    return msgspec.json.encode(_entry(model))


def _entry(model: ModelSpec) -> dict[str, Any]:
    """`created` is what the SDKs expect of a model and nobody here knows."""
    owner, slash, _ = model.id.partition("/")
    entry: dict[str, Any] = {
        "id": model.id,
        "object": "model",
        "created": 0,
        "owned_by": owner if slash else "groq",
        "active": True,
    }
    if model.context_tokens:
        entry |= {"context_window": model.context_tokens, "max_completion_tokens": model.max_output_tokens}
    return entry
