"""What a policy's conditions look at and what they compare it with, read from the policy's syntax as data.

An answer can change only where a comparison changes, so the constants here are where a review has to look: at each of them,
just below and just above. A fact is a leaf of the context by its dotted name: `stream`, `spend.org.percent`, `time.hour`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from msgspec import Struct

from authz.policy import cedar
from authz.policy.policies import Policy

SCOPES: Final = ("org", "team", "user", "key")
PERCENTS: Final = tuple(f"{kind}.{scope}.percent" for kind in ("spend", "window") for scope in SCOPES)
TIMES: Final = ("time.epoch_s", "time.date", "time.hour", "time.minute", "time.weekday")
INTEGERS: Final = frozenset({"input_tokens", "max_output_tokens", *PERCENTS, *TIMES})
FACTS: Final = INTEGERS | {"stream", "endpoint", "service_tier", "tools", "source_ip"}

Tree = Any
Comparison = tuple[Tree, Tree]
"""The two sides, as syntax."""

Linear = Mapping[str, int]
"""A sum: what each fact is multiplied with, the constant under the empty name. A comparison changes where it is 0."""

_COMPARING: Final = frozenset({"<", "<=", ">", ">=", "==", "!="})
_ABOUT_SETS: Final = frozenset({"contains", "containsAll", "containsAny"})


class Reading(Struct, frozen=True):
    """Everything that a policy's conditions say of the context.

    networks      the addresses and ranges that they name
    opaque        they take a record of it as a whole, so that its facts and constants do not tell everything
    context_only  they look at nothing else: no principal, action, resource or entity
    text          the conditions as canonical text, whatever layout and comments the policy has
    """

    facts: frozenset[str]
    comparisons: tuple[Comparison, ...]
    networks: frozenset[str]
    opaque: bool
    context_only: bool
    text: str


def readings(policies: Iterable[Policy]) -> list[Reading]:
    """One for each policy, in order."""
    texts = [policy.text for policy in policies]
    trees = cedar.syntax("\n".join(texts))
    return [_read(trees[f"policy{index}"]["conditions"]) for index in range(len(texts))]


def sums(reading: Reading, attributes: Mapping[str, int]) -> tuple[list[Linear], bool]:
    """Its comparisons of integers as sums, and whether that is all there is. `attributes` are the resource's: `resource.x`."""
    found, complete = [], not reading.opaque
    for left, right in reading.comparisons:
        one, other = _linear(left, attributes), _linear(right, attributes)
        if one is not None and other is not None:
            found.append(_added(one, other, -1))
        elif not INTEGERS.isdisjoint(_facts_in((left, right))):
            complete = False
    return [linear for linear in found if any(name and factor for name, factor in linear.items())], complete


def _read(conditions: list[Tree]) -> Reading:
    facts: set[str] = set()
    networks: set[str] = set()
    comparisons: list[Comparison] = []
    opaque, beyond = False, False
    for node in _nodes([condition["body"] for condition in conditions]):
        match node:
            case {"Var": variable}:
                beyond = beyond or variable != "context"
                if variable == "context":
                    facts, opaque = set(FACTS), True
            case {"Value": {"__entity": _}}:
                beyond = True
            case {"ip": [{"Value": str(text)}]}:
                networks.add(text)
            case {"path": str(path)}:
                below = {fact for fact in FACTS if fact == path or fact.startswith(f"{path}.")}
                opaque = opaque or below != {path}
                facts |= below
            case _:
                comparisons.extend(_compared(node))
    return Reading(
        frozenset(facts),
        tuple(comparisons),
        frozenset(networks),
        opaque,
        not beyond,
        json.dumps(conditions, sort_keys=True),
    )


def _compared(node: Tree) -> Iterator[Comparison]:
    for operator, operand in node.items():
        if not isinstance(operand, dict) or operand.keys() != {"left", "right"}:
            continue
        if operator in _COMPARING:
            yield operand["left"], operand["right"]
        elif operator in _ABOUT_SETS:
            for left in _members(operand["left"]):
                for right in _members(operand["right"]):
                    yield left, right


def _members(node: Tree) -> list[Tree]:
    return node["Set"] if isinstance(node, dict) and "Set" in node else [node]


def _nodes(roots: list[Tree]) -> Iterator[Tree]:
    """Every node that is an object, with a chain of fields of the context as one `{"path": …}`. A stack of its own."""
    stack: list[Tree] = [*roots]
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        elif isinstance(node, dict):
            path = _path(node)
            if path:
                yield {"path": path}
                continue
            if (tested := _path(node.get("has"))) is not None:
                if tested in FACTS:  # of the others, all are always there or never
                    yield {"path": tested}
                continue
            yield node
            stack.extend(node.values())


def _path(node: Tree) -> str | None:
    """The dotted name of a field of the context; None for anything else. Takes the operand of `has` too."""
    names: list[str] = []
    if isinstance(node, dict) and set(node) == {"left", "attr"}:
        node = {".": node}
    while isinstance(node, dict) and "." in node:
        names.append(node["."]["attr"])
        node = node["."]["left"]
    return ".".join(reversed(names)) if names and node == {"Var": "context"} else None


def _facts_in(trees: Iterable[Tree]) -> frozenset[str]:
    return frozenset(node["path"] for node in _nodes(list(trees)) if "path" in node)


def _linear(node: Tree, attributes: Mapping[str, int]) -> Linear | None:
    path = _path(node)
    if path is not None:
        return {path: 1} if path in INTEGERS else None
    match node:
        case {"Value": bool()}:
            return None
        case {"Value": int(value)}:
            return {"": value}
        case {".": {"left": {"Var": "resource"}, "attr": name}}:
            return {"": attributes[name]} if name in attributes else None
        case {"neg": {"arg": tree}}:
            one = _linear(tree, attributes)
            return None if one is None else _added({}, one, -1)
        case _:
            return _arithmetic(node, attributes)


def _arithmetic(node: Tree, attributes: Mapping[str, int]) -> Linear | None:
    for operator, sign in (("+", 1), ("-", -1), ("*", 0)):
        if isinstance(node, dict) and operator in node:
            one, other = (_linear(node[operator][side], attributes) for side in ("left", "right"))
            if one is None or other is None:
                return None
            return _added(one, other, sign) if sign else _times(one, other)
    return None


def _added(one: Linear, other: Linear, sign: int) -> Linear:
    return {name: one.get(name, 0) + sign * other.get(name, 0) for name in {**one, **other}}


def _times(one: Linear, other: Linear) -> Linear | None:
    """None where a fact is multiplied with a fact."""
    for constant, sum_ in ((one, other), (other, one)):
        if not any(constant):
            return {name: factor * constant.get("", 0) for name, factor in sum_.items()}
    return None
