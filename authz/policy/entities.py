"""The entities that a request can reach: few, however many there are.

INVARIANT: for every entity that is handed to Cedar, all its ancestors are handed over too, and those that its attributes name;
so `in` and attributes give the same answer on the part as on the whole.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Final

from msgspec import Struct

from authz.errors import AuthzError
from authz.model import Principal, Uid
from authz.policy import cedar

MAX_DEPTH: Final = 8

Value = bool | int | str | Uid | tuple[str, ...]
"""What an attribute can be; a tuple becomes a Cedar set."""


class Entity(Struct, frozen=True):
    uid: Uid
    parents: tuple[Uid, ...] = ()
    attrs: dict[str, Value] = {}

    @property
    def named(self) -> tuple[Uid, ...]:
        """Every other entity that a policy can come to from this one."""
        return (*self.parents, *(value for value in self.attrs.values() if isinstance(value, Uid)))


Table = Mapping[Uid, Entity]


class EntityError(AuthzError):
    """The table of entities is not right; `uid` is the one that is meant."""

    def __init__(self, uid: Uid, problem: str) -> None:
        self.uid = uid
        super().__init__(f"{uid}: {problem}")


def table(entities: Iterable[Entity]) -> Table:
    """Raises `EntityError`: an entity that stands twice, a parent that is missing, a hierarchy that is too deep or a circle."""
    found: dict[Uid, Entity] = {}
    for entity in entities:
        if entity.uid in found:
            raise EntityError(entity.uid, "stands twice")
        found[entity.uid] = entity
    depths: dict[Uid, int] = {}
    for uid in found:
        _measure(uid, found, depths)
    return found


def _measure(start: Uid, found: Table, depths: dict[Uid, int]) -> None:
    """Depth of `start` above itself, with a path of its own in place of recursion: a circle is a path without an end."""
    path = [start]
    while path:
        uid = path[-1]
        if len(path) > MAX_DEPTH:
            raise EntityError(start, f"a hierarchy deeper than {MAX_DEPTH}, or a circle in it")
        pending = None
        for parent in found[uid].parents:
            if parent not in found:
                raise EntityError(uid, f"its parent {parent} does not exist")
            if parent not in depths:
                pending = parent
                break
        if pending is not None:
            path.append(pending)
            continue
        depths[uid] = 1 + max((depths[parent] for parent in found[uid].parents), default=0)
        if depths[uid] > MAX_DEPTH:
            raise EntityError(uid, f"a hierarchy deeper than {MAX_DEPTH}")
        path.pop()


def ancestors(uid: Uid, known: Table) -> frozenset[Uid]:
    """Everything that `uid` is in, without itself."""
    found: set[Uid] = set()
    stack = [uid]
    while stack:
        entity = known.get(stack.pop())
        for parent in entity.parents if entity else ():
            if parent not in found:
                found.add(parent)
                stack.append(parent)
    return frozenset(found)


def of_principal(principal: Principal, known: Table) -> dict[Uid, Entity]:
    """The principal and the scopes above it, as the credential gives them, in place of what the table says of them.

    The team and the roles are those of the `Principal`: a user who is in two teams acts in one of them. Above a key its user is
    a name only, for `in` would otherwise bring the key into the user's other teams.
    """
    found: dict[Uid, tuple[Uid, ...]] = dict.fromkeys((principal.organisation, *principal.roles), ())
    found[principal.team] = (principal.organisation,)
    acts_in = (principal.team, *principal.roles)
    if principal.user is None or principal.user == principal.uid:
        found[principal.uid] = acts_in
    else:
        found[principal.user] = ()
        found[principal.uid] = (principal.user, *acts_in)
    own = {uid: Entity(uid, parents, known[uid].attrs if uid in known else {}) for uid, parents in found.items()}
    return closure((uid for entity in own.values() for uid in entity.named), known) | own


def of_resource(resource: Uid, known: Table) -> dict[Uid, Entity]:
    """The resource and everything above it; above a key its user is a name only here too."""
    found = closure((resource,), known)
    if resource.type == "Key":
        found.update({uid: Entity(uid, (), entity.attrs) for uid, entity in found.items() if uid.type == "User"})
    return found


def closure(uids: Iterable[Uid], known: Table) -> dict[Uid, Entity]:
    """The entities named, as far as they exist, and everything that can be come to from them."""
    found: dict[Uid, Entity] = {}
    stack = list(uids)
    while stack:
        uid = stack.pop()
        if uid not in found and uid in known:
            found[uid] = known[uid]
            stack.extend(known[uid].named)
    return found


def document(entities: Iterable[Entity]) -> str:
    """Cedar's JSON for entities."""
    return json.dumps(
        [
            {
                "uid": cedar.uid(entity.uid),
                "parents": [cedar.uid(parent) for parent in entity.parents],
                "attrs": {
                    name: {"__entity": cedar.uid(value)} if isinstance(value, Uid) else value
                    for name, value in entity.attrs.items()
                },
            }
            for entity in entities
        ]
    )
