"""Who can ask for what in a bundle, and what the policies answer at every probe: what `matrix` and `diff` are made of.

One survey takes one bundle, or two of which the same is asked. Principals that no policy can tell apart are asked for once, and
policies that say the same about nothing but the context are asked once for all whom they are about: a bundle of ten thousand
keys has few questions in it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Final, NamedTuple

from msgspec import Struct

from authz.bundle import Bundle, files, world
from authz.inference.pricebook import BATCH, ModelSpec
from authz.model import Principal, Uid
from authz.policy import CedarText, Effect, Mode, Policy, Verdict, cedar, entities, read_schema
from authz.policy.literals import Reading, readings
from authz.policy.policies import Match
from authz.policy.slices import Node
from authz.review import gate, probes
from authz.review.probes import Ceilings, Probes

Who = tuple[Uid, str]
"""A key, or a user and the team in which they act."""

Places = tuple[int, ...]


class Asker(NamedTuple):
    principal: Principal
    disabled: bool


class Target(NamedTuple):
    """An action on a resource; `shown` is how people call the resource."""

    action: str
    resource: Uid
    shown: str


class Answer(NamedTuple):
    """policies  of those in reach, the places of the determining ones"""

    allowed: bool
    policies: Places = ()
    errors: tuple[str, ...] = ()


class Group(Struct, frozen=True):
    """Principals that no policy on any side tells apart.

    members  sorted; the first is asked for all
    askers   that first one, on each side; None where it is not there
    """

    members: tuple[Who, ...]
    askers: tuple[Asker | None, ...]

    @property
    def shown(self) -> str:
        (uid, team), asker = self.members[0], next(asker for asker in reversed(self.askers) if asker is not None)
        if len(self.members) == 1:
            name = f"{uid} in {Uid('Team', team)}" if team else str(uid)
        else:
            name = f"{asker.principal.team}: {len(self.members):,} {'users' if team else 'keys'} like {uid}"
        return f"{name}, disabled" if asker.disabled else name


class Side:
    """A bundle and what a review looks up of it."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle, self.schema_text = bundle, bundle.schema
        self.table: Final = entities.table(world.entities(bundle.directory, bundle.prices))
        self.askers: Final = dict(_askers(bundle))
        self.readings: Final[Sequence[Reading]] = readings(bundle.policies)
        self.named: Final = frozenset(uid for policy in bundle.policies for uid in _named(policy))
        self._groups = cedar.action_groups(read_schema(CedarText(files.SCHEMA, bundle.schema)))
        self._by_principal: dict[Match, list[int]] = defaultdict(list)
        for place, policy in enumerate(bundle.policies):
            self._by_principal[policy.principal].append(place)
        self._own = cache(lambda principal: entities.of_principal(principal, self.table))
        self._about = cache(self._find_about)
        self._of_model = cache(lambda uid: _scopes(uid, entities.of_resource(uid, self.table)))

    def has(self, target: Target) -> bool:
        """Whether the resource is there, and the action is one that it offers at a price."""
        if target.resource.type == "Model":
            model = self.bundle.prices.models.get(target.resource.id)
            return model is not None and offers(model, target.action)
        return target.resource in self.table

    def reach(self, principal: Principal, target: Target) -> Places:
        """The policies whose scope is true, as the engine finds them."""
        policies, groups = self.bundle.policies, self._groups[target.action]
        about = [place for place in self._about(principal) if _covers(policies[place], target.action, groups)]
        if not about:
            return ()
        if target.resource.type == "Model":
            scopes = self._of_model(target.resource)
        else:
            scopes = _scopes(target.resource, entities.of_resource(target.resource, self.table) | self._own(principal))
        return tuple(place for place in about if policies[place].resource in scopes)

    def permits(self, reach: Places) -> bool:
        """Whether anything there can allow."""
        policies = (self.bundle.policies[place] for place in reach)
        return any(policy.effect is Effect.PERMIT and policy.mode is Mode.ENFORCE for policy in policies)

    def ceilings(self, resource: Uid) -> Ceilings | None:
        model = self.bundle.prices.models.get(resource.id) if resource.type == "Model" else None
        return None if model is None else Ceilings(model.context_tokens, model.max_output_tokens)

    def attributes(self, resource: Uid) -> dict[str, int]:
        entity = self.table.get(resource)
        return {name: value for name, value in entity.attrs.items() if isinstance(value, int)} if entity else {}

    def ids(self, reach: Places, policies: Iterable[int]) -> tuple[str, ...]:
        return tuple(sorted(self.bundle.policies[reach[at]].id for at in policies))

    def ask(self, principal: Principal, target: Target, reach: Places, asked: Probes) -> tuple[Answer, ...]:
        """The engine's answer at every probe."""
        places = {self.bundle.policies[place].id: at for at, place in enumerate(reach)}

        def answer(verdict: Verdict) -> Answer:
            return Answer(verdict.allowed, tuple(places[name] for name in verdict.policies), verdict.errors)

        decide = self.bundle.policy.decide
        return tuple(answer(decide(principal, target.action, (target.resource,), context)) for context in asked.contexts)

    def _find_about(self, principal: Principal) -> Places:
        found = (self._by_principal.get(scope, ()) for scope in _scopes(principal.uid, self._own(principal)))
        return tuple(sorted(place for places in found for place in places))


class Asked:
    """One question on every side, at every probe. `answers` has an empty tuple for a side that denies without being asked."""

    def __init__(self, asked: Probes, answers: tuple[tuple[Answer, ...], ...]) -> None:
        self.probes, self.answers = asked, answers


_DENIED: Final = Answer(False)


class Survey:
    """Asks one bundle, or two bundles the same."""

    def __init__(self, *sides: Side) -> None:
        self.sides = sides
        self.named = frozenset(uid for side in sides for uid in side.named)
        self._asked: dict[object, Asked] = {}
        self._probes: dict[object, Probes] = {}

    def groups(self, *, apart: bool = False) -> list[Group]:
        """Everybody, keys first; with `apart` each for themselves."""
        found: dict[object, list[Who]] = defaultdict(list)
        for who in sorted({who for side in self.sides for who in side.askers}):
            sign = tuple(self._sign(side.askers.get(who)) for side in self.sides)
            found[(who, sign) if apart else sign].append(who)
        return [Group(tuple(members), tuple(side.askers.get(members[0]) for side in self.sides)) for members in found.values()]

    def models(self) -> list[Target]:
        """Every use of every model that some side offers at a price."""
        names = dict.fromkeys(name for side in self.sides for name in side.bundle.prices.models)
        return [
            Target(action, Uid("Model", name), name)
            for name in names
            for action in _ACTIONS
            if any(side.has(Target(action, Uid("Model", name), name)) for side in self.sides)
        ]

    def reach(self, group: Group, target: Target) -> tuple[Places | None, ...]:
        """By side; None where it denies whatever the policies say: nobody there, disabled, nothing there."""
        return tuple(
            side.reach(asker.principal, target) if asker and not asker.disabled and side.has(target) else None
            for side, asker in zip(self.sides, group.askers, strict=True)
        )

    def ask(self, group: Group, target: Target, reach: tuple[Places | None, ...]) -> Asked | None:
        """None where nothing in reach can allow, on any side."""
        able = [side.permits(places) if places else False for side, places in zip(self.sides, reach, strict=True)]
        if not any(able):
            return None
        looking = [
            [side.readings[place] for place in places or ()] if can else []
            for side, places, can in zip(self.sides, reach, able, strict=True)
        ]
        probes_ = self._of(target, [reading for side in looking for reading in side])
        alike = all(reading.context_only for side in looking for reading in side)
        key = (probes_, tuple(map(self._shape, self.sides, reach, able)), None if alike else (group.askers, target))
        if key not in self._asked:
            self._asked[key] = Asked(
                probes_,
                tuple(
                    side.ask(asker.principal, target, places, probes_) if can and asker and places else ()
                    for side, asker, places, can in zip(self.sides, group.askers, reach, able, strict=True)
                ),
            )
        return self._asked[key]

    def same(self, group: Group, target: Target, reach: tuple[Places | None, ...]) -> bool:
        """Whether two sides certainly answer alike: they are asked about the same, by policies that say the same."""
        old, new = self.sides
        if reach == (None, None):
            return True
        if None in reach or old.bundle.time_zone != new.bundle.time_zone:
            return False
        shapes = [self._shape(side, places, True) for side, places in zip(self.sides, reach, strict=True)]
        if shapes[0] != shapes[1]:
            return False
        said = [(side, place) for side, places in zip(self.sides, reach, strict=True) for place in places or ()]
        if all(side.readings[place].context_only for side, place in said):
            return True
        literals = {uid for side, place in said for uid in side.bundle.policies[place].literals}
        reached = {uid for side in self.sides for uid in entities.closure((target.resource, *literals), side.table)}
        return group.askers[0] == group.askers[1] and self._changed.isdisjoint(reached)

    @cached_property
    def _changed(self) -> frozenset[Uid]:
        """What is not on both sides the same entity."""
        old, new = (side.table for side in self.sides)
        return frozenset(uid for uid in {**old, **new} if old.get(uid) != new.get(uid))

    def _of(self, target: Target, looking: Sequence[Reading]) -> Probes:
        ceilings = [found for side in self.sides if (found := side.ceilings(target.resource))]
        most = Ceilings(max(c.input_tokens for c in ceilings), max(c.max_output_tokens for c in ceilings)) if ceilings else None
        attributes: list[dict[str, int]] = [{}]
        if not all(reading.context_only for reading in looking):
            attributes = [side.attributes(target.resource) for side in self.sides]
        known = tuple(tuple(sorted(given.items())) for given in attributes)
        key = (tuple(sorted({reading.text for reading in looking})), target.action, most, known)
        if key not in self._probes:
            zones = list(dict.fromkeys(side.bundle.time_zone for side in self.sides))
            distinct = {reading.text: reading for reading in looking}.values()
            self._probes[key] = probes.make(distinct, target.action, zones, ceilings=most, attributes=attributes)
        return self._probes[key]

    def _shape(self, side: Side, reach: Places | None, able: bool) -> object:
        """What the policies in reach say, whatever they are called."""
        policies = side.bundle.policies
        if not able or reach is None:
            return None
        return tuple((policies[place].effect, policies[place].mode, side.readings[place].text) for place in reach)

    def _sign(self, asker: Asker | None) -> object:
        if asker is None:
            return None
        principal = asker.principal
        uid = principal.uid if principal.uid in self.named else None
        user = None if principal.uid.type == "User" else principal.user
        return principal.uid.type, uid, principal.team, user, frozenset(principal.roles), asker.disabled


def load(folder: Path) -> Side:
    """Raises `ConfigError`."""
    return Side(gate.load(folder))


_BY_TOKEN: Final = ("chat", "respond", "embed")
_BY_HOUR: Final = ("transcribe", "translate")
_ACTIONS: Final = (*_BY_TOKEN, *_BY_HOUR, "speak", BATCH)


def offers(model: ModelSpec, action: str) -> bool:
    """Whether the model does it and there is a price for it: without one it is denied whatever a policy says."""
    if action == BATCH:
        return action in model.actions and BATCH in model.tiers
    price = model.price if action in _BY_TOKEN else model.audio_hour if action in _BY_HOUR else model.million_characters
    return action in model.actions and price is not None


def _askers(bundle: Bundle) -> Iterator[tuple[Who, Asker]]:
    for member in bundle.directory.keys.values():
        yield (member.principal.uid, ""), Asker(member.principal, member.disabled)
    for by_team in bundle.directory.users.values():
        for team, member in by_team.items():
            yield (member.principal.uid, team), Asker(member.principal, member.disabled)
    for guest, disabled in bundle.directory.guests():
        yield (guest.uid, guest.team.id), Asker(guest, disabled)


def _named(policy: Policy) -> Iterator[Uid]:
    scopes = (policy.principal.equals, policy.principal.within, policy.resource.equals, policy.resource.within)
    yield from (uid for uid in scopes if uid is not None)
    yield from policy.literals


def _scopes(uid: Uid, own: entities.Table) -> frozenset[Match]:
    return frozenset(Node(uid, entities.ancestors(uid, own)).scopes())


def _covers(policy: Policy, action: str, groups: frozenset[str]) -> bool:
    if policy.actions is None or action in policy.actions:
        return True
    return not policy.exact and not groups.isdisjoint(policy.actions)
