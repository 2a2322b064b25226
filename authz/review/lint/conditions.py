"""Whether a policy's conditions can hold, as far as that can be said without a request.

The answer has three values: True (for every request), False (for none), None (it depends). Only what a bundle knows is worked
out: who and what is in what, and that time goes on. Everything else depends, so that a rule which acts on False or True alone
never accuses wrongly.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final, NamedTuple

from authz.model import Uid
from authz.policy.policies import Match
from authz.policy.slices import Node

Tree = dict[str, Any]
"""A condition or an expression in Cedar's JSON form."""

Answer = bool | None


class Now(NamedTuple):
    """The earliest time that is asked about, as a policy sees it: `date` like 20261231, in the organisation's time zone."""

    date: int
    epoch_s: int


class Known(NamedTuple):
    """What is given; None is any."""

    principal: Node | None = None
    resource: Node | None = None
    now: Now | None = None


def holds(conditions: Iterable[Tree], known: Known) -> Answer:
    """`conditions` are all `when` and `unless` clauses of one policy."""
    answer: Answer = True
    for condition in conditions:
        value = _truth(condition["body"], known)
        answer = _and(answer, value if condition["kind"] == "when" else _not(value))
    return answer


def variables(conditions: Iterable[Tree]) -> frozenset[str]:
    """Which of `principal`, `action`, `resource` and `context` the conditions look at."""
    found: set[str] = set()
    stack: list[Any] = list(conditions)
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            name = node.get("Var")
            if isinstance(name, str):
                found.add(name)
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)
    return frozenset(found)


def required(conditions: Iterable[Tree]) -> list[Match]:
    """Scopes of the principal outside of which the conditions never hold: they stand in it as `principal in Team::"x" && …`."""
    found: list[Match] = []
    stack = [condition["body"] for condition in conditions if condition["kind"] == "when"]
    while stack:
        match stack.pop():
            case {"&&": {"left": left, "right": right}}:
                stack += [left, right]
            case {"in": {"left": {"Var": "principal"}, "right": right}} if (uid := _literal(right)) is not None:
                found.append(Match(within=uid))
            case {"==": {"left": {"Var": "principal"}, "right": right}} if (uid := _literal(right)) is not None:
                found.append(Match(equals=uid))
    return found


def _truth(node: Tree, known: Known) -> Answer:
    match node:
        case {"Value": bool(value)}:
            return value
        case {"&&": {"left": left, "right": right}}:
            return _and(_truth(left, known), _truth(right, known))
        case {"||": {"left": left, "right": right}}:
            return _not(_and(_not(_truth(left, known)), _not(_truth(right, known))))
        case {"!": {"arg": arg}}:
            return _not(_truth(arg, known))
        case {"if-then-else": {"if": condition, "then": then, "else": otherwise}}:
            chosen = _truth(condition, known)
            if chosen is not None:
                return _truth(then if chosen else otherwise, known)
            first, second = _truth(then, known), _truth(otherwise, known)
            return first if first is second else None
        case {"in": {"left": left, "right": right}}:
            return _within(_node(left, known), _entities(right))
        case {"is": {"left": left, "entity_type": kind, "in": right}}:
            return _and(_is(_node(left, known), kind), _within(_node(left, known), _entities(right)))
        case {"is": {"left": left, "entity_type": kind}}:
            return _is(_node(left, known), kind)
        case _ if len(node) == 1:
            ((operator, operand),) = node.items()
            if operator in _SWAPPED and isinstance(operand, dict):
                return _compared(operator, operand["left"], operand["right"], known)
    return None


def _and(left: Answer, right: Answer) -> Answer:
    if left is False or right is False:
        return False
    return True if left and right else None


def _not(answer: Answer) -> Answer:
    return None if answer is None else not answer


def _node(expression: Tree, known: Known) -> Node | None:
    match expression:
        case {"Var": "principal"}:
            return known.principal
        case {"Var": "resource"}:
            return known.resource
    return None


def _entities(expression: Tree) -> list[Uid | None]:
    """The entities of a literal or of a set of literals; None for what is not known."""
    members = expression.get("Set", [expression])
    return [_literal(member) for member in members]


def _literal(expression: Tree) -> Uid | None:
    match expression:
        case {"Value": {"__entity": {"type": str(kind), "id": str(name)}}}:
            return Uid(kind, name)
    return None


def _is(node: Node | None, kind: str) -> Answer:
    return None if node is None else node.uid.type == kind


def _within(node: Node | None, groups: list[Uid | None]) -> Answer:
    if node is None:
        return None
    if any(group == node.uid or group in node.ancestors for group in groups):
        return True
    return None if None in groups else False


def _compared(operator: str, left: Tree, right: Tree, known: Known) -> Answer:
    if operator in _EQUAL:
        node, other = _node(left, known), _literal(right)
        if node is None or other is None:
            node, other = _node(right, known), _literal(left)
        if node is not None and other is not None:
            return (node.uid == other) is (operator == "==")
    if known.now is not None:
        earliest, bound = _time(left, known.now), right
        if earliest is None:
            earliest, bound, operator = _time(right, known.now), left, _SWAPPED[operator]
        match bound:
            case {"Value": int(number)} if earliest is not None:
                return _from_now_on(operator, earliest, number)
    return None


def _time(expression: Tree, now: Now) -> int | None:
    """The least that an expression can still be, where it is a time that only grows."""
    match expression:
        case {".": {"left": {".": {"left": {"Var": "context"}, "attr": "time"}}, "attr": "date"}}:
            return now.date
        case {".": {"left": {".": {"left": {"Var": "context"}, "attr": "time"}}, "attr": "epoch_s"}}:
            return now.epoch_s
    return None


def _from_now_on(operator: str, earliest: int, bound: int) -> Answer:
    """Whether `x operator bound` holds for every `x` from `earliest` on, or for none."""
    match operator:
        case "<":
            return False if earliest >= bound else None
        case "<=" | "==":
            return False if earliest > bound else None
        case ">=":
            return True if earliest >= bound else None
        case ">" | "!=":
            return True if earliest > bound else None
    return None


_EQUAL: Final = ("==", "!=")
_SWAPPED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
