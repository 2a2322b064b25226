"""What time has overtaken."""

from __future__ import annotations

from collections.abc import Iterator

from authz.bundle.files import DIRECTORY
from authz.policy import Effect
from authz.review.lint.conditions import Known
from authz.review.lint.places import Hit, InPolicy, InRow
from authz.review.lint.world import World


def past_date(world: World) -> Iterator[Hit]:
    """A permit whose last day is over, or a key, is dead weight that a careless edit brings back to life; a forbid whose day is
    over has stopped protecting, which may not have been noticed."""
    for policy in world.bundle.policies:
        if world.holds(policy, Known(now=world.now)) is False and world.holds(policy, Known()) is not False:
            verb = "permits" if policy.effect is Effect.PERMIT else "forbids"
            problem = f"{verb} nothing any more: the time that it asks for was over before {_day(world.now.date)}"
            yield Hit(InPolicy(policy, "context.time"), problem)
    for key, member in world.bundle.directory.keys.items():
        if not member.disabled and member.expires_ns and world.now_ns >= member.expires_ns:
            yield Hit(InRow(DIRECTORY, ("keys", key, "expires")), f"{member.principal.uid} has expired: take it out")


def _day(date: int) -> str:
    return f"{date // 10_000:04}-{date // 100 % 100:02}-{date % 100:02}"
