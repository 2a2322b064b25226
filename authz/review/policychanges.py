"""Policies as they are written, compared: what was added, removed and changed, and first of all which forbids are gone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from msgspec import Struct

from authz.policy import Effect, Mode, Policy
from authz.policy.policies import Match
from authz.review.access import Side
from authz.review.changes import NEITHER, Effects, Sort, both, differing, unified


class PolicyChange(Struct, frozen=True):
    """A policy that differs.

    scope   in words; of the new text, where there is one
    what    which of it differs: effect, mode, scope, condition, annotations; `layout` where it says the same
    diff    lines of the text, each with ` `, `-` or `+` before it
    """

    sort: Sort
    id: str
    effect: Effect
    mode: Mode
    scope: str
    file: str
    line: int
    what: tuple[str, ...]
    diff: tuple[str, ...]
    effects: Effects = NEITHER


class LostForbid(Struct, frozen=True):
    """A forbid that was enforced and is no longer.

    how      `removed`, `in shadow` or `a permit now`
    retired  the new bundle says that it is meant; where it does not, a running sidecar refuses that bundle
    twin     an enforced forbid of another name that says the same
    """

    id: str
    how: str
    retired: bool
    file: str
    line: int
    scope: str
    twin: str | None


def lost_forbids(old: Side, new: Side) -> tuple[LostForbid, ...]:
    before, after = both(_statements, old, new)
    twins = {_said(*now): now.policy.id for now in after.values() if _forbids(now.policy)}
    return tuple(
        LostForbid(
            id=name,
            how=_how(after.get(name)),
            retired=name in new.bundle.retired,
            file=policy.file,
            line=policy.line,
            scope=words(policy),
            twin=twins.get(_said(policy, condition)),
        )
        for name, (policy, condition) in before.items()
        if _forbids(policy) and not (name in after and _forbids(after[name].policy))
    )


def policies(old: Side, new: Side) -> Iterator[PolicyChange]:
    before, after = both(_statements, old, new)
    for sort, name in differing(before, after, lambda statement: statement.policy.text):
        one, other = before.get(name), after.get(name)
        policy = other.policy if other else before[name].policy
        what = _what(one, other) if one and other else ()
        lines = [statement.policy.text.splitlines() if statement else [] for statement in (one, other)]
        yield PolicyChange(
            sort=sort,
            id=name,
            effect=policy.effect,
            mode=policy.mode,
            scope=words(policy),
            file=policy.file,
            line=policy.line,
            what=what,
            diff=tuple(unified(lines[0], lines[1])) if what != ("layout",) else (),
        )


def words(policy: Policy) -> str:
    """Whom and what a policy is about."""
    actions = "any action" if policy.actions is None else ", ".join(policy.actions) or "no action"
    return f"{_match(policy.principal, 'anybody')} · {actions} · {_match(policy.resource, 'anything')}"


def _match(match: Match, anything: str) -> str:
    kind = f"{match.type} in " if match.type and match.within else match.type or ""
    return f"{kind}{match.equals or match.within or ''}" or anything


def _forbids(policy: Policy) -> bool:
    return policy.effect is Effect.FORBID and policy.mode is Mode.ENFORCE


def _how(now: _Statement | None) -> str:
    if now is None:
        return "removed"
    return "in shadow" if now.policy.effect is Effect.FORBID else "a permit now"


def _said(policy: Policy, condition: str) -> object:
    return policy.principal, policy.actions, policy.exact, policy.resource, condition


class _Statement(NamedTuple):
    policy: Policy
    condition: str


def _statements(side: Side) -> dict[str, _Statement]:
    return {
        policy.id: _Statement(policy, reading.text) for policy, reading in zip(side.bundle.policies, side.readings, strict=True)
    }


def _what(before: _Statement, after: _Statement) -> tuple[str, ...]:
    (one, condition), (other, now) = before, after
    differing = {
        "effect": one.effect is not other.effect,
        "mode": one.mode is not other.mode,
        "scope": _said(one, "") != _said(other, ""),
        "condition": condition != now,
        "annotations": {**one.annotations, "mode": ""} != {**other.annotations, "mode": ""},
    }
    return tuple(name for name, differs in differing.items() if differs) or ("layout",)
