"""What of people and keys differs between two directories, for the audit chain: teams, roles, and whether they may act."""

from __future__ import annotations

from typing import Final

from authz.audit import Fact, Facts
from authz.identity.directory import Directory, Member
from authz.model import Uid

MAX_TOLD: Final = 100
"""A new directory may differ in everything. What is beyond is counted; the bundle's digest names all of it."""


def changes(before: Directory, after: Directory) -> tuple[Facts, Facts]:
    """By entity, as it was and as it is; None where there is none."""
    was, now = _all(before), _all(after)
    differing = sorted(name for name in was.keys() | now.keys() if was.get(name) != now.get(name))
    told = differing[:MAX_TOLD]
    more: Facts = {"and so many more": len(differing) - MAX_TOLD} if len(differing) > MAX_TOLD else {}
    return {name: was.get(name) for name in told}, {name: now.get(name) for name in told} | more


def _all(directory: Directory) -> dict[str, Fact]:
    found: dict[str, Fact] = {str(Uid("Key", key)): _shown((member,)) for key, member in directory.keys.items()}
    found |= {str(Uid("User", user)): _shown(tuple(teams.values())) for user, teams in directory.users.items()}
    for issuer in directory.issuers.values():
        for group, row in issuer.groups.items():
            teams, roles = (f"team {team}" for team in row.teams), (f"role {role}" for role in row.roles)
            found[f"{issuer.issuer} {group}"] = (*teams, *roles)
    return found


def _shown(members: tuple[Member, ...]) -> tuple[str, ...]:
    teams = [f"team {each.principal.team.id}{' (disabled)' if each.disabled else ''}" for each in members]
    roles = [f"role {role.id}" for role in (members[0].principal.roles if members else ())]
    users = [f"user {user.id}" for each in members if (user := each.principal.user) is not None and user != each.principal.uid]
    return (*teams, *users, *roles)
