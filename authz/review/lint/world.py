"""A bundle as the rules look at it: who there is, what there is, and what each policy can reach of it.

INVARIANT: what a policy can reach is never made smaller than it is. Conditions only take away what they exclude for certain.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from functools import cache, cached_property
from itertools import product
from typing import Final, NamedTuple, TypeVar

from msgspec import structs

from authz.bundle import Bundle, world
from authz.bundle.files import SCHEMA, Parts
from authz.inference.pricebook import ModelSpec
from authz.model import Principal, Uid
from authz.policy import ACTIONS, Effect, Kind, Mode, Policy, cedar, entities
from authz.policy.policies import Match
from authz.policy.slices import Node
from authz.review.lint.conditions import Known, Now, Tree, holds, required, variables

T = TypeVar("T")

INFERENCE: Final = frozenset(name for name, spec in ACTIONS.items() if spec.kind is Kind.INFERENCE)

_MAX_TRIED: Final = 300_000
"""Conditions tried on principals, in all: about a second. What is not tried is taken to be reached."""


class Who(NamedTuple):
    """A key, or a user acting in one team; `live` where neither disabled nor expired."""

    principal: Principal
    node: Node
    live: bool


class World:
    """Made for one run of the rules; `now_ns` is when."""

    def __init__(self, bundle: Bundle, parts: Parts, now_ns: int) -> None:
        self.bundle, self.parts, self.now_ns = bundle, parts, now_ns
        at = datetime.fromtimestamp(now_ns // 10**9, bundle.time_zone)
        self.now: Final = Now(at.year * 10_000 + at.month * 100 + at.day, now_ns // 10**9)
        self.principals: Final = tuple(_principals(bundle, now_ns))
        self.members: Final = _by_scope((who, who.node) for who in self.principals)
        self.table: Final = entities.table(world.entities(bundle.directory, bundle.prices))
        self._groups = cedar.action_groups(cedar.parse_schema(parts.texts[SCHEMA]))
        self._trees = _conditions(bundle.policies)
        self._actions = cache(self._find_actions)
        self._variables = {name: variables(tree) for name, tree in self._trees.items()}
        self._reached: dict[str, tuple[tuple[ModelSpec, frozenset[str]], ...]] = {}
        self._left = _MAX_TRIED

    # what a policy says

    def conditions(self, policy: Policy) -> Sequence[Tree]:
        return self._trees[policy.id]

    def holds(self, policy: Policy, known: Known) -> bool | None:
        return holds(self._trees[policy.id], known)

    def unconditional(self, policy: Policy) -> bool:
        return self.holds(policy, Known()) is True

    def actions(self, policy: Policy) -> frozenset[str]:
        """Every action that a request can have and that the policy's scope takes in."""
        return self._actions(policy.actions, policy.exact)

    def _find_actions(self, named: tuple[str, ...] | None, exact: bool) -> frozenset[str]:
        if named is None:
            return frozenset(ACTIONS)
        return frozenset(a for a in ACTIONS if a in named or (not exact and not self._groups[a].isdisjoint(named)))

    # what a policy reaches

    @cached_property
    def forbids(self) -> dict[tuple[Match, Match], frozenset[str]]:
        """What is forbidden whatever the request: the actions, by the scopes of principal and resource."""
        found: dict[tuple[Match, Match], frozenset[str]] = {}
        for policy in self.bundle.policies:
            if policy.effect is Effect.FORBID and policy.mode is Mode.ENFORCE and self.unconditional(policy):
                scope = policy.principal, policy.resource
                found[scope] = found.get(scope, frozenset()) | self.actions(policy)
        return found

    def forbidden(self, principal: Iterable[Match], model: ModelSpec) -> frozenset[str]:
        """The actions that nobody in these scopes can ever do to the model."""
        scopes = product(principal, self.node_of(model).scopes()) if self.forbids else ()
        return frozenset(action for scope in scopes for action in self.forbids.get(scope, ()))

    @cached_property
    def permits(self) -> tuple[Policy, ...]:
        """Those that can still allow something: enforced, and not past their date."""
        return tuple(
            policy
            for policy in self.bundle.policies
            if policy.effect is Effect.PERMIT
            and policy.mode is Mode.ENFORCE
            and self.holds(policy, Known(now=self.now)) is not False
        )

    def who(self, policy: Policy) -> Iterator[Who]:
        """Everybody whom the policy can be about."""
        return (who for who in self.members.get(self.narrowest(policy), ()) if self.can_be_about(policy, who))

    def narrowest(self, policy: Policy) -> Match:
        """The scope with the fewest members in which everybody is whom the policy can be about."""
        if not self.chooses(policy):
            return policy.principal
        scopes = [policy.principal, *required(self._trees[policy.id])]
        return min(scopes, key=lambda scope: len(self.members.get(scope, ())))

    def can_be_about(self, policy: Policy, who: Who) -> bool:
        """Whether scope and conditions leave somebody in who is in the narrowest scope."""
        if not self.chooses(policy) or self.tired:
            return True
        self._left -= 1
        return _is_in(policy.principal, who.node) and self.holds(policy, Known(principal=who.node)) is not False

    @property
    def tired(self) -> bool:
        """Nothing more is tried: that a policy reaches somebody is an assumption from here on, and no reason to complain."""
        return self._left <= 0

    def chooses(self, policy: Policy) -> bool:
        """Whether the conditions look at who asks."""
        return "principal" in self._variables[policy.id]

    def offered(self, policy: Policy) -> Iterator[tuple[ModelSpec, frozenset[str]]]:
        """The models that a policy's scope takes in, each with those of the policy's actions that it serves."""
        actions = self.actions(policy) & INFERENCE
        for node in self.models.get(policy.resource, ()) if actions else ():
            model = self.bundle.prices.models[node.uid.id]
            serves = actions & (model.actions | {"list_models"})
            if serves:
                yield model, serves

    def reached(self, policy: Policy) -> tuple[tuple[ModelSpec, frozenset[str]], ...]:
        """The same without what the conditions exclude. Several rules ask, so it is kept."""
        found = self._reached.get(policy.id)
        if found is None:
            every = "resource" not in self._variables[policy.id]
            found = self._reached[policy.id] = tuple(
                (model, serves)
                for model, serves in self.offered(policy)
                if every or self.holds(policy, Known(resource=self.node_of(model))) is not False
            )
        return found

    def administers(self, policy: Policy) -> Iterator[Node]:
        """The teams, keys, users and organisations in a policy's scope that its actions can be done to."""
        kinds = {kind for name in self.actions(policy) - INFERENCE for kind in ACTIONS[name].resources}
        nodes = self._administered.get(policy.resource, ()) if kinds else ()
        return (node for node in nodes if node.uid.type in kinds)

    # what there is

    @cached_property
    def models(self) -> dict[Match, list[Node]]:
        nodes = (self.node_of(model) for model in self.bundle.prices.models.values())
        return _by_scope((node, node) for node in nodes)

    @cached_property
    def _administered(self) -> dict[Match, list[Node]]:
        keys = [who.node for who in self.principals if who.node.uid.type == "Key"]
        others = (Node(uid, self.above(uid)) for uid in self.table if uid.type in ("Org", "Team", "User"))
        return _by_scope((node, node) for node in (*keys, *others))

    @staticmethod
    def node_of(model: ModelSpec) -> Node:
        return Node(Uid("Model", model.id), frozenset(model.groups))

    def above(self, uid: Uid) -> frozenset[Uid]:
        return entities.ancestors(uid, self.table)


def _principals(bundle: Bundle, now_ns: int) -> Iterator[Who]:
    directory = bundle.directory
    for member in (*directory.keys.values(), *(each for teams in directory.users.values() for each in teams.values())):
        principal = member.principal
        above = frozenset(principal.path) - {principal.uid}
        live = not member.disabled and not (member.expires_ns and now_ns >= member.expires_ns)
        yield Who(principal, Node(principal.uid, above), live)
    # A user whom a policy names may have come with a token, and then has what the issuer's groups give too.
    spoken = {uid for policy in bundle.policies for uid in (policy.principal.equals, policy.principal.within, *policy.literals)}
    named = [uid for uid in spoken if uid is not None and uid.type == "User" and directory.vouched(uid.id)]
    for guest, disabled in directory.guests():
        for uid in (guest.uid, *named):
            if uid.id not in directory.disabled_users:
                above = frozenset(guest.path) - {guest.uid}
                yield Who(structs.replace(guest, uid=uid, user=uid), Node(uid, above), not disabled)


def _by_scope(pairs: Iterable[tuple[T, Node]]) -> dict[Match, list[T]]:
    """Everything under every scope that is true of it."""
    found: dict[Match, list[T]] = {}
    for value, node in pairs:
        for scope in node.scopes():
            found.setdefault(scope, []).append(value)
    return found


def _is_in(scope: Match, node: Node) -> bool:
    return (
        scope.equals in (None, node.uid)
        and (scope.within in (None, node.uid) or scope.within in node.ancestors)
        and scope.type in (None, node.uid.type)
    )


def _conditions(policies: Sequence[Policy]) -> dict[str, Sequence[Tree]]:
    trees = cedar.syntax("\n".join(policy.text for policy in policies))
    return {policy.id: trees[f"policy{index}"]["conditions"] for index, policy in enumerate(policies)}
