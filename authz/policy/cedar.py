"""The one importer of cedarpy: what it takes and gives, with types, and no exception of its own.

Traps that are closed here, each seen with cedarpy 4.12: a policy that errs is skipped, a `forbid` too, so errors are part of
every answer; a request that does not fit gives `NoDecision`, which is not an answer; messages have no position.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import cedarpy

from authz.model import Uid

PolicySet = cedarpy.PolicySet
Entities = cedarpy.Entities
Schema = cedarpy.Schema


class CedarError(ValueError):
    """Cedar refuses a text or a value; `str()` is Cedar's own message."""


class Answer(NamedTuple):
    """policies  ids of the determining policies, as the `PolicySet` has them, in no particular order
    errors    whatever could not be evaluated; also why there is no decision at all
    """

    allowed: bool
    policies: list[str]
    errors: list[str]


Json = dict[str, Any]
"""A request as cedarpy takes it: UIDs as dicts, `context` as JSON text."""


def authorise(request: Json, policies: PolicySet, entities: Entities, schema: Schema | None = None) -> Answer:
    """One evaluation. With `schema` the request itself is checked too, for some microseconds more."""
    result = cedarpy.is_authorized(request, policies, entities, schema)
    diagnostics = result.diagnostics
    decision, errors = result.decision, diagnostics.errors
    if decision is _NO_DECISION and not errors:
        errors = ["cedar gave no decision"]
    return Answer(decision is _ALLOW, diagnostics.reasons, errors)


_ALLOW: Final = cedarpy.Decision.Allow
_NO_DECISION: Final = cedarpy.Decision.NoDecision


def uid(value: Uid) -> dict[str, str]:
    """As a dict, so that no character of an id means anything to a parser."""
    return {"type": value.type, "id": value.id}


def parse_policies(text: str) -> PolicySet:
    try:
        return PolicySet.from_str(text)
    except ValueError as error:
        raise CedarError(_message(error)) from None


def parse_schema(text: str) -> Schema:
    try:
        return Schema.from_str(text)
    except ValueError as error:
        raise CedarError(_message(error).removeprefix("error parsing schema: ")) from None


def parse_entities(document: str, schema: Schema) -> Entities:
    """With the schema's actions added, and everything validated against it."""
    try:
        return Entities.from_json_str(document, schema)
    except ValueError as error:
        raise CedarError(_message(error)) from None


def action_groups(schema: Schema) -> dict[str, frozenset[str]]:
    """Every action of the schema and the groups that it is in, at any depth: Cedar closes a hierarchy that it has read."""
    entities: list[Json] = json.loads(str(parse_entities("[]", schema)))
    return {
        entity["uid"]["id"]: frozenset(parent["id"] for parent in entity["parents"])
        for entity in entities
        if entity["uid"]["type"] == "Action"
    }


def syntax(text: str) -> dict[str, Json]:
    """The policies and templates of a text as data, by their place in it (`policy0`, `policy1`, …)."""
    try:
        parsed: Json = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise CedarError(_message(error)) from None
    except RecursionError:
        raise CedarError("nested too deeply to read") from None
    return {**parsed["staticPolicies"], **parsed["templates"]}


def formatted(text: str, line_width: int, indent_width: int) -> str:
    """The text as Cedar's own formatter writes it. It refuses a text that does not parse, and does not say why."""
    try:
        return str(cedarpy.format_policies(text, line_width, indent_width))
    except ValueError as error:
        raise CedarError(_message(error)) from None


def validate(text: str, schema: Schema) -> list[tuple[str, str]]:
    """What the validator finds: positional id (or empty) and message."""
    try:
        result = cedarpy.validate_policies(text, schema)
    except ValueError as error:
        raise CedarError(_message(error)) from None
    found = [(error.policy_id, _without_prefix(error.policy_id, error.error)) for error in result.errors]
    return found if found or result.validation_passed else [("", "the policies do not validate")]


def entity_literals(conditions: Any) -> frozenset[Uid]:
    """Every entity that a policy's conditions name. Walks with a stack of its own."""
    found: set[Uid] = set()
    stack: list[Any] = [conditions]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            entity = node.get("__entity")
            if isinstance(entity, dict) and isinstance(entity.get("type"), str) and isinstance(entity.get("id"), str):
                found.add(Uid(entity["type"], entity["id"]))
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    return frozenset(found)


def context_fields(conditions: Any) -> frozenset[str] | None:
    """The fields of the context that a policy's conditions can look at; None for all, where they take it as a whole.

    Of a field that is a record, `time.hour` where they look at nothing of it but that.
    """
    found: set[str] = set()
    stack: list[Any] = [conditions]
    while stack:
        node = stack.pop()
        if node == _CONTEXT:
            return None
        if isinstance(node, dict):
            for operator, operand in node.items():
                field = _field(operand) if operator in (".", "has") else None
                part = _part(operand) if operator == "." and field is None else None
                if (seen := field or part) is not None:
                    found.add(seen)
                else:
                    stack.append(operand)
        elif isinstance(node, list):
            stack.extend(node)
    return frozenset(found)


def _field(operand: Any) -> str | None:
    """The field, where this is what stands beside `.` in a look at one of the context's own."""
    direct = isinstance(operand, dict) and operand.get("left") == _CONTEXT
    return str(operand["attr"]) if direct else None


def _part(operand: Any) -> str | None:
    """`field.part`, where it is that of a look at a part of such a field."""
    left = operand.get("left") if isinstance(operand, dict) else None
    field = _field(left.get(".")) if isinstance(left, dict) else None
    return None if field is None else f"{field}.{operand['attr']}"


_CONTEXT: Final = {"Var": "context"}


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _message(error: ValueError) -> str:
    return str(error) or "refused without a reason"


def _without_prefix(policy_id: str, message: str) -> str:
    return message.removeprefix(f"for policy `{policy_id}`, ")
