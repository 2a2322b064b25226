"""What can be administered, seen from who would do it: the organisation, their own team and another, their own key and others'.

Whether somebody administers hangs on how they stand to the resource, and on whether a policy names it. So one resource stands
for all that stand alike; the few that policies name are asked about by name.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from authz.model import Uid
from authz.policy import ACTIONS, Kind
from authz.review.access import Group, Side, Survey, Target

ADMINISTRATION = tuple(name for name, spec in ACTIONS.items() if spec.kind is Kind.ADMIN)
_EXAMPLES = 3
"""Of other teams, where the principals of two sides can be in two teams."""


class _Thing(NamedTuple):
    """A key or a user as a resource; `marks` are those of its roles that a policy names of a resource."""

    uid: Uid
    teams: frozenset[Uid]
    user: Uid | None
    marks: frozenset[Uid]


class Administration:
    """The resources of a survey's sides. What is on all of them is taken first: a review compares rules, not members."""

    def __init__(self, survey: Survey) -> None:
        self._sides = survey.sides
        tables = [side.table for side in survey.sides]
        everything = {uid for table in tables for uid in table}
        marking = {uid for side in survey.sides for uid in _marking(side)}
        self._order = sorted(everything, key=lambda uid: (not all(uid in table for table in tables), uid in marking, uid))
        self._named = [uid for uid in self._order if uid in marking]
        things = {uid: _thing(uid, survey.sides, marking) for uid in self._order if uid.type in ("Key", "User")}
        self._by_team: dict[Uid, list[_Thing]] = defaultdict(list)
        self._elsewhere: dict[object, list[_Thing]] = defaultdict(list)
        for thing in things.values():
            for team in thing.teams:
                self._by_team[team].append(thing)
            examples = self._elsewhere[(thing.uid.type, thing.marks)]
            if len(examples) < _EXAMPLES and all(thing.teams.isdisjoint(other.teams) for other in examples):
                examples.append(thing)
        self._teams = [uid for uid in self._order if uid.type == "Team"]
        self._organisations = [uid for uid in self._order if uid.type == "Org"]

    def targets(self, group: Group) -> list[Target]:
        """Every administrative action on every kind of resource that there is for these principals."""
        found: dict[str, Uid] = {}
        for shown, uid in self._resources(group):
            if uid not in found.values():
                found.setdefault(shown, uid)
        return [
            Target(action, uid, shown)
            for action in ADMINISTRATION
            for shown, uid in found.items()
            if uid.type in ACTIONS[action].resources
        ]

    def _resources(self, group: Group) -> Iterator[tuple[str, Uid]]:
        """The first of a name is the one that is meant."""
        principals = [asker.principal for asker in group.askers if asker is not None]
        own = {principal.team for principal in principals}
        selves = {principal.uid for principal in principals} | {user for p in principals if (user := p.user) is not None}
        yield from (("organisation", uid) for uid in self._organisations)
        yield from (("own team", uid) for uid in self._teams if uid in own)
        yield from (("another team", uid) for uid in self._first(uid for uid in self._teams if uid not in own))
        for team in sorted(own):
            for thing in self._by_team[team]:
                yield self._called(thing, selves), thing.uid
        for examples in self._elsewhere.values():
            for thing in examples:
                if thing.teams.isdisjoint(own):
                    yield f"{thing.uid.type.lower()} of another team{_with(thing.marks)}", thing.uid
        yield from ((str(uid), uid) for uid in self._named if uid.type in ("Team", "Key", "User"))

    @staticmethod
    def _first(uids: Iterator[Uid]) -> Iterator[Uid]:
        yield from (uid for uid in (next(uids, None),) if uid is not None)

    @staticmethod
    def _called(thing: _Thing, selves: Iterable[Uid]) -> str:
        if thing.uid in selves:
            return f"own {thing.uid.type.lower()}{_with(thing.marks)}" if thing.uid.type == "User" else "itself"
        if thing.user is not None and thing.user in selves:
            return f"own key{_with(thing.marks)}"
        return f"{thing.uid.type.lower()} of own team{_with(thing.marks)}"


def _with(marks: frozenset[Uid]) -> str:
    return f" with {', '.join(map(str, sorted(marks)))}" if marks else ""


def _marking(side: Side) -> Iterator[Uid]:
    """What policies name where they speak of a resource, or may."""
    for policy in side.bundle.policies:
        yield from policy.literals
        yield from (uid for uid in (policy.resource.equals, policy.resource.within) if uid is not None)


def _thing(uid: Uid, sides: Iterable[Side], marking: set[Uid]) -> _Thing:
    parents = {parent for side in sides if uid in side.table for parent in side.table[uid].parents}
    return _Thing(
        uid,
        frozenset(parent for parent in parents if parent.type == "Team"),
        next((parent for parent in sorted(parents) if parent.type == "User"), None),
        frozenset(parents & marking),
    )
