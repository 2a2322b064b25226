"""Names of the directory and the price book that nothing comes of."""

from __future__ import annotations

from collections.abc import Iterator

from authz.bundle.files import DIRECTORY, MODELS
from authz.model import Uid
from authz.policy import Policy
from authz.policy.policies import Match
from authz.review.findings import Severity
from authz.review.lint.conditions import Known
from authz.review.lint.places import Hit, InRow
from authz.review.lint.world import Who, World


def unused_entity(world: World) -> Iterator[Hit]:
    """A key that may do nothing is a rollout that was forgotten; a role that nobody has, or that nothing speaks of, is one that
    somebody takes for protection."""
    scoped, spoken = _spoken(world)
    yield from _groups(world, scoped, spoken)
    permits = _Permits(world)
    for key, member in world.bundle.directory.keys.items():
        who = world.members[Match(equals=member.principal.uid)]
        if who[0].live and not permits.cover(who):
            problem = f"{member.principal.uid} may do nothing: no permit is about it"
            yield Hit(InRow(DIRECTORY, ("keys", key)), problem)
    for user, by_team in world.bundle.directory.users.items():
        uid, at = Uid("User", user), InRow(DIRECTORY, ("users", user))
        if not by_team:
            if world.bundle.directory.vouched(user):
                continue  # the issuer's groups say in which team, or the row is there to keep somebody out
            yield Hit(at, f"{uid} is in no team, and so can never act")
        elif not any(member.disabled for member in by_team.values()) and not permits.cover(world.members[Match(equals=uid)]):
            yield Hit(at, f"{uid} may do nothing: no permit is about it")


def _groups(world: World, scoped: frozenset[Uid], spoken: frozenset[Uid]) -> Iterator[Hit]:
    """What is empty and stands in a scope is told of there, as a policy that never matches."""
    directory, prices = world.bundle.directory, world.bundle.prices
    rows = (
        *((team, DIRECTORY, "teams", "no key and no user is in it") for team in directory.teams),
        *((role, DIRECTORY, "roles", "nobody has it") for role in directory.roles),
        *((group, MODELS, "groups", "no model is in it") for group in prices.groups),
    )
    for uid, file, section, problem in rows:
        at = InRow(file, (section, uid.id))
        members = world.models if uid.type == "ModelGroup" else world.members
        if Match(within=uid) not in members:
            if uid not in scoped:
                yield Hit(at, f"{uid}: {problem}")
        elif uid.type != "Team" and uid not in spoken:  # a team is who belongs together, whether or not a policy names it
            yield Hit(at, f"{uid}: no policy and no quota speaks of it", Severity.NOTE)


def _spoken(world: World) -> tuple[frozenset[Uid], frozenset[Uid]]:
    """What stands in a policy's scope; and that with everything else that a policy or a quota names."""
    scoped: set[Uid | None] = set()
    spoken: set[Uid] = set()
    for policy in world.bundle.policies:
        scoped |= {policy.principal.equals, policy.principal.within, policy.resource.equals, policy.resource.within}
        spoken |= policy.literals
    for quota in world.bundle.quotas.quotas:
        spoken.update(quota.scope)
        spoken.update(Uid("ModelGroup", name) for name in quota.models)
    named = frozenset(uid for uid in scoped if uid is not None)
    return named, named | spoken


class _Permits:
    """The permits in force, by whom they are about."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._open: set[Match] = set()
        self._choosing: dict[Match, list[Policy]] = {}
        for policy in world.permits:
            if not world.chooses(policy):
                self._open.add(policy.principal)
            elif world.holds(policy, Known()) is not False:
                self._choosing.setdefault(world.narrowest(policy), []).append(policy)

    def cover(self, acting: list[Who]) -> bool:
        """Whether some permit can be about one of them."""
        return any(
            scope in self._open or any(self._world.can_be_about(policy, who) for policy in self._choosing.get(scope, ()))
            for who in acting
            for scope in who.node.scopes()
        )
