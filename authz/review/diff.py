"""What another bundle changes: first in what is allowed, found by asking both the same, then in what is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from functools import cache
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from authz.review import matrix, partchanges, policychanges
from authz.review.access import Asked, Group, Side, Survey, Target
from authz.review.administration import ADMINISTRATION
from authz.review.changes import NEITHER, Change, Effects
from authz.review.matrix import Look, Outcome, Wanted
from authz.review.policychanges import LostForbid, PolicyChange
from authz.review.probes import Value


class Uses(Struct, frozen=True):
    """Some actions on some models, or on what is administered."""

    actions: tuple[str, ...]
    resources: tuple[str, ...]


class Edge(Struct, frozen=True):
    """Where a change begins or ends, all else being equal: `changed` and `not_changed` are neighbouring values of the fact."""

    fact: str
    changed: Value
    not_changed: Value


class Access(Struct, frozen=True, omit_defaults=True):
    """Principals and what they may now do, or no longer, at some probe at least.

    principals  how people call them; `count` is how many there are
    standing    `new` or `gone` where one bundle does not have them
    was, now    over all probes
    by, before  ids of the policies that determine the answers that changed, now and before; none is the lack of a permit
    edges       what the change depends on
    at          the facts of one example; empty where the answer changed whatever they are
    """

    principals: tuple[str, ...]
    count: int
    uses: tuple[Uses, ...]
    was: Outcome
    now: Outcome
    standing: str = ""
    by: tuple[str, ...] = ()
    before: tuple[str, ...] = ()
    edges: tuple[Edge, ...] = ()
    at: dict[str, Value] = {}
    sampled: bool = False


class Diff(Struct, frozen=True):
    """In the order in which a reviewer should read it. `old` and `new` are digests; `sampled` is as in `matrix.Cell`."""

    old: str
    new: str
    lost_forbids: tuple[LostForbid, ...]
    more_permissive: tuple[Access, ...]
    less_permissive: tuple[Access, ...]
    policies: tuple[PolicyChange, ...]
    quotas: tuple[Change, ...]
    directory: tuple[Change, ...]
    models: tuple[Change, ...]
    beside: tuple[Change, ...]
    sampled: bool

    @property
    def differs(self) -> bool:
        return self.old != self.new


class Moved(NamedTuple):
    """One group and one use of which the answer changed, in one direction. The fields are those of `Access`."""

    group: Group
    target: Target
    more: bool
    access: Access


def compare(old: Side, new: Side) -> Diff:
    survey = Survey(old, new)
    found = [moved for wanted in (Wanted(), Wanted(administration=True)) for moved in moves(survey, wanted)]
    more, less = (tuple(_merged(moved for moved in found if moved.more is more)) for more in (True, False))
    lost = policychanges.lost_forbids(old, new)
    return Diff(
        old=old.bundle.digest,
        new=new.bundle.digest,
        lost_forbids=lost,
        more_permissive=more,
        less_permissive=less,
        policies=tuple(_with_effects(policychanges.policies(old, new), more, less, lost)),
        quotas=tuple(partchanges.quotas(old.bundle, new.bundle)),
        directory=tuple(partchanges.directory(old.bundle, new.bundle)),
        models=tuple(partchanges.models(old.bundle, new.bundle)),
        beside=tuple(partchanges.beside(old, new)),
        sampled=any(access.sampled for access in (*more, *less)),
    )


def moves(survey: Survey, wanted: Wanted) -> Iterator[Moved]:
    """Every answer that is not the same on both sides of the survey."""
    look = _Look(survey)
    for group, targets in matrix.questions(survey, wanted):
        for target in targets:
            yield from look.moves(group, target)


class _Turned(NamedTuple):
    """A change in one direction before its policies have names. `by`, `before`: places in reach."""

    more: bool
    by: frozenset[int]
    before: frozenset[int]
    edges: tuple[Edge, ...]
    at: dict[str, Value]


class _Look:
    """What was worked out for one question is kept for all that are asked the same."""

    def __init__(self, survey: Survey) -> None:
        self._survey, self._cells = survey, Look(survey)
        self._turned = cache(self._find)

    def moves(self, group: Group, target: Target) -> Iterator[Moved]:
        survey = self._survey
        if target.action in ADMINISTRATION and not all(side.has(target) for side in survey.sides):
            return  # who is there to be administered is the directory's matter
        reach = survey.reach(group, target)
        if survey.same(group, target, reach):
            return
        asked = survey.ask(group, target, reach)
        if asked is None:
            return
        found = self._turned(asked)
        if not found:
            return
        was, now = self._cells.cells(group, target)
        standing = "new" if group.askers[0] is None else "gone" if group.askers[1] is None else ""
        old, new = survey.sides
        for turned in found:
            yield Moved(
                group,
                target,
                turned.more,
                Access(
                    principals=(group.shown,),
                    count=len(group.members),
                    uses=(),
                    was=was.outcome,
                    now=now.outcome,
                    standing=standing,
                    by=new.ids(reach[1] or (), turned.by),
                    before=old.ids(reach[0] or (), turned.before),
                    edges=turned.edges,
                    at=turned.at,
                    sampled=asked.probes.sampled,
                ),
            )

    def _find(self, asked: Asked) -> tuple[_Turned, ...]:
        probes, (old, new) = asked.probes, asked.answers
        count = len(probes.indices)
        was, now = ([answer.allowed for answer in answers] or [False] * count for answers in (old, new))
        found = []
        for more in (True, False):
            holds = [after is more and before is not more for before, after in zip(was, now, strict=True)]
            if not any(holds):
                continue
            places = [
                frozenset(place for answer, held in zip(answers, holds, strict=False) if held for place in answer.policies)
                for answers in (new, old)
            ]
            zone = self._survey.sides[-1].bundle.time_zone
            turns = [matrix.turn(edge, zone) for edge in probes.edges(holds)]
            edges = tuple(Edge(turn.fact, turn.allowed, turn.denied) for turn in turns)
            at = {} if all(holds) else matrix.example(probes, holds, zone, {edge.fact for edge in edges})
            found.append(_Turned(more, places[0], places[1], edges, at))
        return tuple(found)


def _merged(moved: Iterable[Moved]) -> Iterator[Access]:
    """What changed in the same way, together: first the uses of one group, then the groups with the same uses."""
    by_group: dict[tuple[int, object], tuple[Moved, list[Target]]] = {}
    for one in moved:
        key = (id(one.group), _way(one.access))
        by_group.setdefault(key, (one, []))[1].append(one.target)
    together: dict[object, list[Access]] = defaultdict(list)
    for one, targets in by_group.values():
        access = replace(one.access, uses=_uses(targets))
        together[(access.uses, _way(access))].append(access)
    for group in together.values():
        names = tuple(name for access in group for name in access.principals)
        yield replace(group[0], principals=names, count=sum(access.count for access in group))


def _way(access: Access) -> object:
    plain = (access.standing, access.was, access.now, access.by, access.before, access.edges, access.sampled)
    return plain, tuple(access.at.items())


def _uses(targets: Iterable[Target]) -> tuple[Uses, ...]:
    actions: dict[str, list[str]] = defaultdict(list)
    for target in targets:
        actions[target.shown].append(target.action)
    resources: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for name, of in actions.items():
        resources[tuple(of)].append(name)
    return tuple(Uses(of, tuple(names)) for of, names in resources.items())


def _with_effects(
    changes: Iterable[PolicyChange], more: Iterable[Access], less: Iterable[Access], lost: Iterable[LostForbid]
) -> Iterator[PolicyChange]:
    """Which way a policy moves things: what it determined, before or now, where an answer changed."""
    wider = {name for access in more for name in (*access.by, *access.before)} | {forbid.id for forbid in lost}
    narrower = {name for access in less for name in (*access.by, *access.before)}
    for change in changes:
        effects = Effects(change.id in wider, change.id in narrower)
        yield replace(change, effects=effects if change.what != ("layout",) else NEITHER)
