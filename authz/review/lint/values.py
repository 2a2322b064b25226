"""Words and numbers with a slip in them, which read like protection: what the context never is, what means nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, Final

from authz.inference.endpoints import ONE_MODEL, TABLE
from authz.inference.fields import TIERS
from authz.policy import Mode, Policy
from authz.policy.literals import PERCENTS
from authz.review.lint.conditions import Tree
from authz.review.lint.places import Hit, InPolicy
from authz.review.lint.world import World

_MOST: Final = 2**63 - 1
_RANGES: Final[dict[str, tuple[int, int]]] = {
    **dict.fromkeys(("input_tokens", "max_output_tokens", "time.epoch_s", *PERCENTS), (0, _MOST)),
    "time.date": (19_700_101, 99_991_231),
    "time.hour": (0, 23),
    "time.minute": (0, 59),
    "time.weekday": (1, 7),
    "stream": (0, 1),
    "tools": (0, 1),
}
_WORDS: Final[dict[str, frozenset[str]]] = {
    "service_tier": TIERS,
    "endpoint": frozenset({ONE_MODEL.name, *(row.name for row in TABLE.values())}),
}
_SWAPPED: Final = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_OPPOSITE: Final = {"<": ">=", "<=": ">", ">": "<=", ">=": "<", "==": "!=", "!=": "=="}


def unknown_value(world: World) -> Iterator[Hit]:
    """A weekday 0, an hour 24, a tier with a slip in its name: the comparison comes out the same for every request, and whoever
    wrote it believes that it does not. A forbid that hangs on it protects nothing."""
    for policy in world.bundle.policies:
        told: set[str] = set()
        for fact, problem in _pointless(world.conditions(policy)):
            if problem not in told:
                told.add(problem)
                yield Hit(InPolicy(policy, f"context.{fact}"), problem)


def unknown_annotation(world: World) -> Iterator[Hit]:
    """Cedar takes any annotation, and `@moed("shadow")` is one: the policy that was to be on trial is enforced."""
    for policy in world.bundle.policies:
        for name, value in policy.annotations.items():
            known = "mode" if value in Mode.__members__.values() else name.lower()
            if name != known and known in ("id", "mode"):
                wanted = f'expected `@{known}("{value}")`'
                yield Hit(InPolicy(policy, f"@{name}"), f"`@{name}` means nothing here, {wanted}")


def impossible(conditions: Iterable[Tree]) -> str | None:
    """A fact of which all that has to hold leaves no value: `hour > 18 && hour < 6` means neither. None where there is none, as
    far as can be said from comparisons with numbers."""
    left: dict[str, tuple[int, int]] = {}
    for fact, low, high in _bounds(conditions):
        if low > _RANGES[fact][1] or high < _RANGES[fact][0]:
            continue  # it is no value of it at all, which is a rule of its own
        least, most = left.get(fact, _RANGES[fact])
        left[fact] = max(low, least), min(high, most)
    return next((fact for fact, (low, high) in left.items() if low > high), None)


def contradiction(world: World, policy: Policy) -> Hit | None:
    """Where a policy's conditions leave no value for one of the facts."""
    fact = impossible(world.conditions(policy))
    if fact is None:
        return None
    return Hit(InPolicy(policy, f"context.{fact}"), f"its conditions never hold: they leave no value for `context.{fact}`")


def _bounds(conditions: Iterable[Tree]) -> Iterator[tuple[str, int, int]]:
    """What has to hold, as ranges: of `when` every part, of `unless` the opposite of every alternative."""
    stack = [(condition["body"], condition["kind"] == "when") for condition in conditions]
    while stack:
        node, wanted = stack.pop()
        match node:
            case {"&&": {"left": left, "right": right}} if wanted:
                stack += [(left, True), (right, True)]
            case {"||": {"left": left, "right": right}} if not wanted:
                stack += [(left, False), (right, False)]
            case {"!": {"arg": arg}}:
                stack.append((arg, not wanted))
            case _ if (fact := _fact(node)) in _RANGES:
                yield fact, int(wanted), int(wanted)
            case _ if (found := _comparison(node)) is not None:
                fact, operator, number = found
                yield fact, *_range(operator if wanted else _OPPOSITE[operator], number)


def _range(operator: str, number: int) -> tuple[int, int]:
    match operator:
        case "<":
            return -_MOST, number - 1
        case "<=":
            return -_MOST, number
        case ">":
            return number + 1, _MOST
        case ">=":
            return number, _MOST
        case "==":
            return number, number
    return -_MOST, _MOST


def _pointless(conditions: Iterable[Tree]) -> Iterator[tuple[str, str]]:
    stack: list[Any] = list(conditions)
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack.extend(node)
        if not isinstance(node, dict):
            continue
        stack.extend(node.values())
        for fact, word in _words(node):
            if word not in _WORDS[fact]:
                wanted = ", ".join(f"`{each}`" for each in sorted(_WORDS[fact]))
                yield fact, f"`context.{fact}` is never `{word}`, expected one of {wanted}"
        if (found := _comparison(node)) is not None:
            fact, operator, number = found
            least, most = _RANGES[fact]
            low, high = _range(operator, number)
            if operator == "!=":
                low, high = _range("==", number)
            if low > most or high < least:
                upto = f"{least} to {most}" if most < _MOST else f"{least} or more"
                yield fact, f"`context.{fact}` is {upto}: it is never {_SAID[operator]}{number}"


_SAID: Final = {"<": "below ", "<=": "at most ", ">": "above ", ">=": "at least ", "==": "", "!=": ""}


def _comparison(node: Tree) -> tuple[str, str, int] | None:
    """A fact compared with a number, the fact on the left."""
    if len(node) != 1:
        return None
    ((operator, operand),) = node.items()
    if operator not in _SWAPPED or not isinstance(operand, dict):
        return None
    left, right = operand["left"], operand["right"]
    if (fact := _fact(left)) in _RANGES and (number := _number(right)) is not None:
        return fact, operator, number
    if (fact := _fact(right)) in _RANGES and (number := _number(left)) is not None:
        return fact, _SWAPPED[operator], number
    return None


def _words(node: Tree) -> Iterator[tuple[str, str]]:
    """Texts that a fact is compared with."""
    match node:
        case {"==": {"left": left, "right": right}} | {"!=": {"left": left, "right": right}}:
            for one, other in ((left, right), (right, left)):
                if (fact := _fact(one)) in _WORDS and isinstance(word := other.get("Value"), str):
                    yield fact, word
        case {"contains": {"left": {"Set": members}, "right": right}} if (fact := _fact(right)) in _WORDS:
            yield from ((fact, word) for member in members if isinstance(word := member.get("Value"), str))


def _number(node: Tree) -> int | None:
    value = node.get("Value")
    return int(value) if isinstance(value, int) else None


def _fact(node: Tree) -> str:
    """The path of a field of the context, such as `time.hour`; empty for anything else."""
    names: list[str] = []
    while isinstance(inner := node.get("."), dict):
        names.append(str(inner["attr"]))
        node = inner["left"]
    return ".".join(reversed(names)) if node == {"Var": "context"} else ""
