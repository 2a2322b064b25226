"""Who may use which model with which action, and on what it depends."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from functools import cache
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from msgspec import Struct

from authz.review.access import Answer, Asked, Group, Survey, Target
from authz.review.administration import Administration
from authz.review.probes import Edge, Probes, Value


class Outcome(StrEnum):
    ALWAYS = "allow"  # at every probe
    SOMETIMES = "conditional"  # it depends on the request
    NEVER = "deny"


class Turn(Struct, frozen=True):
    """Where the answer turns, all else being equal. Times are shown in the organisation's time zone."""

    fact: str
    allowed: Value
    denied: Value

    def __str__(self) -> str:
        return f"{self.fact}: {shown(self.allowed)} allowed, {shown(self.denied)} denied"


class Cell(Struct, frozen=True, omit_defaults=True):
    """allowed_by, denied_by  ids of the policies that determine it, at any probe; denied by none is the lack of a permit
    allows_at, denies_at  the facts of one example of each; empty where it does not depend
    errors   what could not be evaluated at some probe, which denies
    sampled  there were more combinations than were asked, so that `allow` and `deny` are what was found and no more
    """

    outcome: Outcome
    allowed_by: tuple[str, ...] = ()
    denied_by: tuple[str, ...] = ()
    turns: tuple[Turn, ...] = ()
    allows_at: dict[str, Value] = {}
    denies_at: dict[str, Value] = {}
    errors: tuple[str, ...] = ()
    sampled: bool = False


class Row(Struct, frozen=True):
    """cells  by action, then by the resource's name; what is not there does not exist for these principals"""

    shown: str
    team: str
    principals: tuple[str, ...]
    cells: dict[str, dict[str, Cell]]


class Matrix(Struct, frozen=True):
    """columns  action and resource"""

    bundle: str
    columns: tuple[tuple[str, str], ...]
    rows: tuple[Row, ...]


class Wanted(Struct, frozen=True):
    """What to show; empty is all. `principals` are ids of keys and users, or entities as Cedar writes them."""

    actions: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    teams: tuple[str, ...] = ()
    principals: tuple[str, ...] = ()
    administration: bool = False
    apart: bool = False

    def group(self, group: Group) -> Group | None:
        """Those of the group that are wanted."""
        askers = [asker for asker in group.askers if asker is not None]
        if self.teams and not any(asker.principal.team.id in self.teams for asker in askers):
            return None
        members = group.members
        if self.principals:
            members = tuple(who for who in members if str(who[0]) in self.principals or who[0].id in self.principals)
        return Group(members, group.askers) if members else None

    def target(self, target: Target) -> bool:
        named = not self.models or target.shown in self.models
        return named and (not self.actions or target.action in self.actions)


_OUTCOMES: Final = {(False, False): Outcome.NEVER, (True, False): Outcome.SOMETIMES, (True, True): Outcome.ALWAYS}
"""By whether any and whether every answer allows."""

NEVER: Final = Cell(Outcome.NEVER)


def make(survey: Survey, wanted: Wanted) -> Matrix:
    """Of the survey's last side."""
    found = [(group, targets) for group, targets in questions(survey, wanted)]
    columns = dict.fromkeys((target.action, target.shown) for _, targets in found for target in targets)
    look = Look(survey)
    rows = []
    for group, targets in found:
        cells: dict[str, dict[str, Cell]] = {}
        for target in targets:
            cells.setdefault(target.action, {})[target.shown] = look.cells(group, target)[-1]
        asker = next(asker for asker in reversed(group.askers) if asker is not None)
        rows.append(Row(group.shown, asker.principal.team.id, tuple(str(uid) for uid, _ in group.members), cells))
    return Matrix(survey.sides[-1].bundle.digest, tuple(columns), tuple(rows))


def questions(survey: Survey, wanted: Wanted) -> list[tuple[Group, list[Target]]]:
    """Who is asked for, and what they are asked about."""
    groups = [found for group in survey.groups(apart=wanted.apart) if (found := wanted.group(group)) is not None]
    targets: Callable[[Group], list[Target]]
    if wanted.administration:
        targets = Administration(survey).targets
    else:
        models = survey.models()
        targets = lambda group: models  # noqa: E731  # the other way of saying it is longer than the rest
    return [(group, [target for target in targets(group) if wanted.target(target)]) for group in groups]


class Summary(NamedTuple):
    """A `Cell` before its policies have names: the same for all who are asked the same."""

    outcome: Outcome
    allowing: frozenset[int] = frozenset()
    denying: frozenset[int] = frozenset()
    turns: tuple[Turn, ...] = ()
    allows_at: Mapping[str, Value] = {}
    denies_at: Mapping[str, Value] = {}
    errors: tuple[str, ...] = ()
    sampled: bool = False


class Look:
    """Cells of a survey. What was worked out for one question is kept for all that are asked the same."""

    def __init__(self, survey: Survey) -> None:
        self._survey = survey
        self._summary = cache(self._summarise)

    def cells(self, group: Group, target: Target) -> tuple[Cell, ...]:
        """One for each side."""
        reach = self._survey.reach(group, target)
        asked = self._survey.ask(group, target, reach)
        if asked is None:
            return tuple(NEVER for _ in self._survey.sides)
        found = []
        for at, (side, places) in enumerate(zip(self._survey.sides, reach, strict=True)):
            summary = self._summary(asked, at)
            found.append(
                Cell(
                    summary.outcome,
                    side.ids(places or (), summary.allowing),
                    side.ids(places or (), summary.denying),
                    summary.turns,
                    dict(summary.allows_at),
                    dict(summary.denies_at),
                    summary.errors,
                    summary.sampled,
                )
            )
        return tuple(found)

    def _summarise(self, asked: Asked, at: int) -> Summary:
        return summarise(asked.probes, asked.answers[at], self._survey.sides[at].bundle.time_zone)


def summarise(probes: Probes, answers: Sequence[Answer], zone: ZoneInfo) -> Summary:
    """`answers` at every probe, or none where it is denied without being asked."""
    allowed = [answer.allowed for answer in answers]
    outcome = _OUTCOMES[(any(allowed), any(allowed) and all(allowed))]
    depends = outcome is Outcome.SOMETIMES
    turns = probes.edges(allowed) if depends else ()
    facts = {edge.fact for edge in turns}
    return Summary(
        outcome,
        frozenset(place for answer in answers if answer.allowed for place in answer.policies),
        frozenset(place for answer in answers if not answer.allowed for place in answer.policies),
        tuple(turn(edge, zone) for edge in turns),
        example(probes, allowed, zone, facts) if depends else {},
        example(probes, [not each for each in allowed], zone, facts) if depends else {},
        tuple(sorted({error for answer in answers for error in answer.errors})),
        bool(answers) and probes.sampled,
    )


def example(probes: Probes, holds: Sequence[bool], zone: ZoneInfo, facts: set[str]) -> dict[str, Value]:
    """The plainest probe at which it holds, by the facts that make a difference (all of them where none does alone)."""
    index = next(index for index, held in zip(probes.indices, holds, strict=True) if held)
    values = probes.values(index)
    return {fact: readable(fact, value, zone) for fact, value in values.items() if fact in facts or not facts}


def turn(edge: Edge, zone: ZoneInfo) -> Turn:
    return Turn(edge.fact, readable(edge.fact, edge.holds, zone), readable(edge.fact, edge.not_, zone))


def readable(fact: str, value: Value, zone: ZoneInfo) -> Value:
    """An instant as people write it, to the second only where the second matters."""
    if fact != "time":
        return value
    at = datetime.fromtimestamp(int(value), zone)
    return at.strftime("%a %Y-%m-%d %H:%M:%S" if at.second else "%a %Y-%m-%d %H:%M")


def shown(value: Value) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case "":
            return "none"
        case _:
            return str(value)
