"""What policies can speak of, as data for editors and other tools: actions, types and the context with its types."""

from __future__ import annotations

import json
from typing import Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from authz.policy import cedar
from authz.policy.actions import ACTIONS, PRINCIPALS, Kind
from authz.policy.cedar import Schema
from authz.policy.context import ALL, ContextWriter, samples
from authz.policy.engine import PolicyEngine

Type = str | dict[str, "Type"]
"""The name of a Cedar type, or the fields of a record; a field's name ends in `?` where it may be absent."""


class ActionOutline(Struct, frozen=True):
    """groups  that the action is in, at any depth · context  the name of its context"""

    groups: tuple[str, ...]
    principals: tuple[str, ...]
    resources: tuple[str, ...]
    context: str


class Outline(Struct, frozen=True):
    actions: dict[str, ActionOutline]
    contexts: dict[str, dict[str, Type]]


def outline(schema: Schema) -> Outline:
    """What the engine asks and sends, once the schema is known to fit it. Raises `SchemaMismatch` where it does not."""
    PolicyEngine((), schema, (), ZoneInfo("UTC"))
    groups = cedar.action_groups(schema)
    return Outline(
        actions={
            name: ActionOutline(tuple(sorted(groups[name])), PRINCIPALS, tuple(sorted(spec.resources)), spec.kind.value)
            for name, spec in ACTIONS.items()
        },
        contexts={kind.value: _context(kind) for kind in Kind},
    )


def _context(kind: Kind) -> dict[str, Type]:
    """By what is written: the fullest sample has every field, and what another one lacks may be absent."""
    writer = ContextWriter(ZoneInfo("UTC"))
    full, *others = (json.loads(writer.write(sample, ALL[kind])) for sample in samples(kind))
    return {name + ("" if all(name in other for other in others) else "?"): _type(value) for name, value in full.items()}


def _type(value: object) -> Type:
    if isinstance(value, dict):
        extension = value.get("__extn")
        return _EXTENSIONS[extension["fn"]] if extension else {name: _type(field) for name, field in value.items()}
    return _NAMES[type(value)]


_NAMES: Final[dict[type, str]] = {bool: "Bool", int: "Long", str: "String"}
_EXTENSIONS: Final = {"ip": "ipaddr"}
