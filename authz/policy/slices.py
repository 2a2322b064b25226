"""The policies whose scope can match a request, found without looking at the others.

A policy's scope asks at most one thing of the principal and one of the resource that an index can answer: to be an entity, to
be in one, to be of a type, or a type in one. So each policy stands under one pair of keys; a request has as many keys as it has
ancestors, and looks up the pairs. What a policy asks of the action is checked on what was found.

INVARIANT: a policy that is left out could not have been satisfied nor have erred: its scope is false for this request, and
Cedar evaluates a scope before any condition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final

from msgspec import Struct

from authz.model import Uid
from authz.policy import cedar
from authz.policy.policies import Match, Policy

Places = tuple[int, ...]
"""Places of policies in the bundle, ascending."""

_MAX_SLICES: Final = 4096


class Slice(Struct, frozen=True):
    """A few policies as Cedar takes them; `names` are their ids by Cedar's own, which are positions."""

    handle: cedar.PolicySet
    names: dict[str, str]

    def ids(self, positions: Iterable[str]) -> tuple[str, ...]:
        return tuple(sorted(self.names[position] for position in positions))

    def explain(self, errors: Iterable[str]) -> tuple[str, ...]:
        """Cedar's messages with our ids in them."""
        return tuple(sorted(self._named(error) for error in errors))

    def _named(self, error: str) -> str:
        start, mark, rest = error.partition("policy `")
        position, end, rest = rest.partition("`")
        return f"{start}{mark}{self.names.get(position, position)}{end}{rest}"


class Node(Struct, frozen=True):
    """A principal or a resource, as far as a scope can ask."""

    uid: Uid
    ancestors: frozenset[Uid]

    def scopes(self) -> list[Match]:
        """Every scope that is true of it."""
        within = (self.uid, *self.ancestors)
        kind = self.uid.type
        return [
            Match(),
            Match(equals=self.uid),
            Match(type=kind),
            *(Match(within=uid) for uid in within),
            *(Match(within=uid, type=kind) for uid in within),
        ]


class Slices:
    """The index. Safe in threads; slices are built when first asked for and kept, the most recent ones."""

    def __init__(self, policies: Iterable[Policy], *, max_cached: int = _MAX_SLICES) -> None:
        self.policies: Final = tuple(policies)
        self._places: dict[tuple[Match, Match], list[int]] = {}
        for place, policy in enumerate(self.policies):
            self._places.setdefault((policy.principal, policy.resource), []).append(place)
        self.slice: Callable[[Places], Slice] = lru_cache(maxsize=max_cached)(_builder(self.policies))

    def matching(self, principal: Node, action: str, groups: frozenset[str], resource: Node) -> Places:
        """Places of the policies whose scope is true; `groups` are those that the action is in, at any depth."""
        resources = resource.scopes()
        found = [
            place
            for asked in principal.scopes()
            for wanted in resources
            for place in self._places.get((asked, wanted), ())
            if _covers(self.policies[place], action, groups)
        ]
        return tuple(sorted(found))


def _covers(policy: Policy, action: str, groups: frozenset[str]) -> bool:
    if policy.actions is None or action in policy.actions:
        return True
    return not policy.exact and not groups.isdisjoint(policy.actions)


def _builder(policies: tuple[Policy, ...]) -> Callable[[Places], Slice]:
    """Not a method, so that the cache does not keep its owner alive."""

    def build(places: Places) -> Slice:
        handle = cedar.parse_policies("\n".join(policies[place].text for place in places))
        return Slice(handle, {f"policy{index}": policies[place].id for index, place in enumerate(places)})

    return build
