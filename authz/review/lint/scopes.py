"""Policies that say nothing: another one has said it, nobody and nothing is meant, or everybody is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from itertools import product

from authz.inference.pricebook import Decommissioned, ModelSpec
from authz.model import Uid
from authz.policy import Effect, Mode, Policy
from authz.policy.policies import Match
from authz.review.lint.conditions import Known
from authz.review.lint.places import Hit, InPolicy
from authz.review.lint.values import contradiction
from authz.review.lint.world import INFERENCE, World

Actions = frozenset[str]


def shadowed(world: World) -> Iterator[Hit]:
    """What another policy decides anyway is read, reviewed and trusted for nothing: a permit below a wider permit does not
    narrow it, and a permit below a forbid opens nothing."""
    sweeping = _Sweeping(world)
    first_of: dict[tuple[object, ...], Policy] = {}
    for policy in sorted(world.bundle.policies, key=lambda policy: policy.mode is Mode.SHADOW):
        over = sweeping.over(policy)
        twin = first_of.setdefault(_same(world, policy), policy)
        if over is not None:
            yield Hit(InPolicy(policy), f"{_fate(policy, over)}: {_at(over)} {over.effect.value}s all of it")
        elif twin is not policy:
            yield Hit(InPolicy(policy), f"says the same as {_at(twin)}")


def never_matches(world: World) -> Iterator[Hit]:
    """A policy that no request can meet protects and opens nothing, and looks as if it did. Mostly a name has a slip in it, or
    what it names is empty, retired, or called otherwise."""
    for policy in world.bundle.policies:
        problem = _unmet(world, policy)
        if problem is not None:
            yield problem
            continue
        for uid in sorted({uid for uid in _named(policy) if _alias_of(world, uid)}):
            yield Hit(InPolicy(policy, uid), _aliased(uid, _alias_of(world, uid)))


def open_permit(world: World) -> Iterator[Hit]:
    """A permit for everybody without a condition holds for every key that will ever be made; a team or the organisation as its
    principal says that it is meant."""
    for policy in world.permits:
        if policy.principal == Match() and world.unconditional(policy):
            organisation = world.bundle.directory.organisation
            wanted = f"expected a principal, such as `principal in {organisation}` where everybody is meant"
            yield Hit(InPolicy(policy), f"permits whoever asks, under no condition: {wanted}")


class _Sweeping:
    """The enforced policies without a condition, by what they are about."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._found: dict[tuple[Effect, Match, Match], dict[Actions, Policy]] = {}
        self._wider = cache(self._find_wider)
        for policy in world.bundle.policies:
            if policy.mode is Mode.ENFORCE and world.unconditional(policy):
                key = (policy.effect, policy.principal, policy.resource)
                self._found.setdefault(key, {}).setdefault(world.actions(policy), policy)
        self._subjects = {key[1] for key in self._found}
        self._objects = {key[2] for key in self._found}

    def over(self, policy: Policy) -> Policy | None:
        """One that takes in every request that `policy` can meet, and decides it."""
        actions = self._world.actions(policy)
        if not actions:
            return None
        effects = (Effect.FORBID,) if policy.effect is Effect.FORBID else (Effect.FORBID, Effect.PERMIT)
        subjects = [scope for scope in self._wider(policy.principal) if scope in self._subjects]
        objects = [scope for scope in self._wider(policy.resource) if scope in self._objects]
        for key in product(effects, subjects, objects):
            for covered, other in self._found.get(key, {}).items():
                if actions <= covered and other is not policy:
                    return other
        return None

    def _find_wider(self, match: Match) -> tuple[Match, ...]:
        """Every scope that is true wherever `match` is, `match` first."""
        kind = match.equals.type if match.equals is not None else match.type
        if match.within is not None and match.within.type == "ModelGroup":
            kind = "Model"  # nothing else that can be asked for is in one
        kinds = (None,) if kind is None else (None, kind)
        equals = () if match.equals is None else (Match(equals=match.equals),)
        within = [Match(within=uid, type=each) for uid in self._groups(match) for each in kinds]
        return tuple(dict.fromkeys((match, *equals, *within, *(Match(type=each) for each in kinds))))

    def _groups(self, match: Match) -> frozenset[Uid]:
        if match.equals is not None:
            members = self._world.members.get(Match(equals=match.equals))
            if members:  # a user acts in one of several teams: only what is above in each of them counts
                return frozenset.intersection(*(who.node.ancestors for who in members)) | {match.equals}
            return self._world.above(match.equals) | {match.equals}
        if match.within is None:
            return frozenset()
        # What is in a user or in a key is there in one team of several: nothing above these two is certain.
        certain = match.within.type not in ("User", "Key")
        return (self._world.above(match.within) if certain else frozenset()) | {match.within}


def _fate(policy: Policy, over: Policy) -> str:
    if policy.mode is Mode.SHADOW:
        return "would change nothing"
    return "can never allow" if policy.effect is not over.effect else "adds nothing"


def _same(world: World, policy: Policy) -> tuple[object, ...]:
    conditions = json.dumps(world.conditions(policy), sort_keys=True)
    return policy.effect, policy.principal, policy.resource, world.actions(policy), conditions


def _at(policy: Policy) -> str:
    return f"`{policy.id}` ({policy.file}:{policy.line})"


def _unmet(world: World, policy: Policy) -> Hit | None:
    if world.holds(policy, Known()) is False:
        return Hit(InPolicy(policy), "its conditions never hold")
    if (hit := contradiction(world, policy)) is not None:
        return hit
    actions = world.actions(policy)
    if not actions:
        return Hit(InPolicy(policy), "there is no request for what it is about")
    if policy.principal not in world.members:
        return Hit(InPolicy(policy, _subject(policy.principal)), _nobody(policy.principal))
    if next(world.who(policy), None) is None:
        return Hit(InPolicy(policy), "its conditions hold for no key and no user in its scope")
    if world.reached(policy) or next(world.administers(policy), None) is not None:
        return None
    return _nothing_reached(world, policy)


def _nothing_reached(world: World, policy: Policy) -> Hit:
    """Why no model, and nothing that is administered, is meant."""
    subject = policy.resource.equals
    if subject is not None and (alias := _alias_of(world, subject)):
        return Hit(InPolicy(policy, subject), _aliased(subject, alias))
    if subject is not None and _is_retired(world, subject):
        return Hit(InPolicy(policy, subject), f"{subject} is decommissioned: a request for it is refused before any policy")
    at = InPolicy(policy, _subject(policy.resource))
    actions = world.actions(policy)
    if not actions & INFERENCE:
        return Hit(at, f"nothing that can be administered {_is(policy.resource)}")
    if policy.resource not in world.models:
        return Hit(at, f"no model {_is(policy.resource)}")
    if next(world.offered(policy), None) is None:
        return Hit(at, f"no model in its scope serves {_listed(sorted(actions & INFERENCE))}")
    named = [uid for uid in sorted(policy.literals) if uid.type == "Model"]
    if named and all(_is_retired(world, uid) for uid in named):
        problem = "every model that it names is decommissioned: requests for them are refused before any policy"
        return Hit(InPolicy(policy, named[0]), problem)
    served = _listed(sorted(actions & INFERENCE))
    return Hit(InPolicy(policy), f"its conditions hold for no model in its scope that serves {served}")


def _named(policy: Policy) -> set[Uid]:
    return {*policy.literals, *(uid for uid in (policy.resource.equals, policy.resource.within) if uid is not None)}


def _alias_of(world: World, uid: Uid) -> Uid | None:
    found = world.bundle.prices.find(uid.id) if uid.type == "Model" else None
    return Uid("Model", found.id) if isinstance(found, ModelSpec) and found.id != uid.id else None


def _aliased(alias: Uid, model: Uid | None) -> str:
    return f"{alias} is an alias: a request for it has to be allowed on {model} too, and one for {model} is not judged on it"


def _is_retired(world: World, uid: Uid) -> bool:
    return uid.type == "Model" and isinstance(world.bundle.prices.find(uid.id), Decommissioned)


def _subject(match: Match) -> Uid | str:
    return match.equals or match.within or ""


def _nobody(match: Match) -> str:
    if match.equals is not None:
        return f"{match.equals} is in no team, and so never asks"
    return f"no key and no user {_is(match)}"


def _is(match: Match) -> str:
    if match.equals is not None:
        return f"is {match.equals}"
    kind = f" of type {match.type}" if match.type is not None else ""
    return f"{'is' if match.within is None else f'is in {match.within}'}{kind}"


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)
