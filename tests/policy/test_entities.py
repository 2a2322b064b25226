"""The entities that a request can reach, as a dictionary, and what a table of them must be."""

from __future__ import annotations

import json
from collections.abc import Callable
from itertools import pairwise

import pytest

from authz.model import Principal, Uid
from authz.policy.entities import (
    MAX_DEPTH,
    Entity,
    EntityError,
    Table,
    Value,
    ancestors,
    closure,
    document,
    of_principal,
    of_resource,
    table,
)

ORG, TEAM, OTHER = Uid("Org", "o"), Uid("Team", "t"), Uid("Team", "other")
ROLE, USER, KEY = Uid("Role", "r"), Uid("User", "u"), Uid("Key", "k")
MODEL, GROUP = Uid("Model", "m"), Uid("ModelGroup", "g")
NEW, NEW_ROLE = Uid("User", "new"), Uid("Role", "new")
NICE: dict[str, Value] = {"nice": True}
KNOWN = table(
    [
        Entity(ORG, (), {"name": "O"}),
        Entity(TEAM, (ORG,), {"size": 3}),
        Entity(OTHER, (ORG,)),
        Entity(ROLE),
        Entity(USER, (TEAM, OTHER, ROLE), NICE),
        Entity(KEY, (USER, TEAM), {"owner": OTHER, "name": "K"}),
        Entity(GROUP),
        Entity(MODEL, (GROUP,), {"price": 1}),
    ]
)


def chain(length: int) -> list[Entity]:
    """The deepest first."""
    uids = [Uid("Team", str(place)) for place in range(length)]
    return [Entity(uid, (above,)) for uid, above in pairwise(uids)] + [Entity(uids[-1])]


@pytest.mark.parametrize("order", [list, lambda entities: list(reversed(entities))])
def test_a_hierarchy_may_be_as_deep_as_the_bound(order: Callable[[list[Entity]], list[Entity]]) -> None:
    assert len(table(order(chain(MAX_DEPTH)))) == MAX_DEPTH
    with pytest.raises(EntityError, match=f'^Team::"0": a hierarchy deeper than {MAX_DEPTH}') as caught:
        table(order(chain(MAX_DEPTH + 1)))
    assert caught.value.uid == Uid("Team", "0")


def test_the_longest_of_several_ways_up_is_what_counts() -> None:
    beside = Entity(Uid("Role", "x"))
    deep = chain(MAX_DEPTH)
    both = Entity(Uid("Team", "both"), (beside.uid, deep[1].uid, beside.uid))
    assert len(table([both, *deep, beside])) == MAX_DEPTH + 2
    too_deep = [Entity(Uid("Team", "both"), (beside.uid, deep[0].uid)), *deep, beside]
    for entities in (too_deep, too_deep[::-1]):
        with pytest.raises(EntityError, match=f"deeper than {MAX_DEPTH}") as caught:
            table(entities)
        assert caught.value.uid == Uid("Team", "both")


@pytest.mark.parametrize(
    ("entities", "uid", "problem"),
    [
        ([Entity(ORG), Entity(TEAM), Entity(ORG)], ORG, "stands twice"),
        ([Entity(TEAM, (ORG,))], TEAM, 'its parent Org::"o" does not exist'),
        ([Entity(KEY, (TEAM,)), Entity(TEAM, (ORG,))], TEAM, 'its parent Org::"o" does not exist'),
        ([Entity(TEAM, (TEAM,))], TEAM, f"a hierarchy deeper than {MAX_DEPTH}, or a circle in it"),
        ([Entity(TEAM, (OTHER,)), Entity(OTHER, (TEAM,))], TEAM, f"a hierarchy deeper than {MAX_DEPTH}, or a circle in it"),
    ],
)
def test_what_is_wrong_with_a_table_is_said_of_the_entity(entities: list[Entity], uid: Uid, problem: str) -> None:
    with pytest.raises(EntityError) as caught:
        table(entities)
    assert (caught.value.uid, str(caught.value)) == (uid, f"{uid}: {problem}")


def test_ancestors_are_all_that_one_is_in() -> None:
    assert ancestors(KEY, KNOWN) == {USER, TEAM, OTHER, ROLE, ORG}
    assert ancestors(ORG, KNOWN) == ancestors(Uid("Team", "nowhere"), KNOWN) == set()


def test_what_can_be_come_to_is_parents_and_attributes_as_far_as_they_exist() -> None:
    assert set(closure([KEY], KNOWN)) == {KEY, USER, TEAM, OTHER, ROLE, ORG}
    assert closure([MODEL, Uid("Model", "nowhere"), MODEL], KNOWN) == {MODEL: KNOWN[MODEL], GROUP: KNOWN[GROUP]}
    odd: Table = {MODEL: Entity(MODEL, (), {"like": Uid("Model", "nowhere"), "maker": ORG}), ORG: Entity(ORG)}
    assert set(closure([MODEL], odd)) == {MODEL, ORG}


@pytest.mark.parametrize(
    ("principal", "found"),
    [
        (  # a key of a user, in one of the user's two teams: the user is a name only
            Principal(uid=KEY, organisation=ORG, team=TEAM, user=USER, roles=(ROLE,)),
            {KEY: (USER, TEAM, ROLE), USER: (), TEAM: (ORG,), ORG: (), ROLE: ()},
        ),
        (  # a user acts in the team of the credential alone
            Principal(uid=USER, organisation=ORG, team=OTHER, user=USER, roles=()),
            {USER: (OTHER,), OTHER: (ORG,), ORG: ()},
        ),
        (  # a key of nobody
            Principal(uid=KEY, organisation=ORG, team=TEAM, user=None, roles=()),
            {KEY: (TEAM,), TEAM: (ORG,), ORG: ()},
        ),
        (  # of whom nothing is known, from a token
            Principal(
                uid=Uid("User", "new"), organisation=ORG, team=TEAM, user=Uid("User", "new"), roles=(Uid("Role", "new"),)
            ),
            {Uid("User", "new"): (TEAM, Uid("Role", "new")), Uid("Role", "new"): (), TEAM: (ORG,), ORG: ()},
        ),
    ],
)
def test_a_principal_is_where_its_credential_puts_it_and_nowhere_else(
    principal: Principal, found: dict[Uid, tuple[Uid, ...]]
) -> None:
    reached = of_principal(principal, KNOWN)
    beside = {OTHER} if principal.uid == KEY else set()  # its attribute names it, and so it is there to be looked at
    assert {uid: entity.parents for uid, entity in reached.items() if uid not in beside} == found
    assert beside <= set(reached)
    assert {uid: entity.attrs for uid, entity in reached.items()} == {
        uid: KNOWN[uid].attrs if uid in KNOWN else {} for uid in reached
    }
    assert all(uid == entity.uid for uid, entity in reached.items())


def test_a_resource_is_with_all_above_it_and_a_keys_user_is_a_name() -> None:
    assert of_resource(MODEL, KNOWN) == {MODEL: KNOWN[MODEL], GROUP: KNOWN[GROUP]}
    key = of_resource(KEY, KNOWN)
    assert key[USER] == Entity(USER, (), NICE)
    assert {uid: entity for uid, entity in key.items() if uid != USER} == {
        uid: KNOWN[uid] for uid in (KEY, TEAM, OTHER, ROLE, ORG)
    }
    assert of_resource(USER, KNOWN)[USER] == KNOWN[USER]
    assert of_resource(Uid("Model", "nowhere"), KNOWN) == {}


def test_cedars_json_has_entities_as_references_and_all_else_as_it_is() -> None:
    entity = Entity(KEY, (USER, TEAM), {"team": TEAM, "count": 3, "on": True, "name": 'Team::"t"', "tags": ("a", "b")})
    assert json.loads(document([entity, Entity(ORG)])) == [
        {
            "uid": {"type": "Key", "id": "k"},
            "parents": [{"type": "User", "id": "u"}, {"type": "Team", "id": "t"}],
            "attrs": {
                "team": {"__entity": {"type": "Team", "id": "t"}},
                "count": 3,
                "on": True,
                "name": 'Team::"t"',
                "tags": ["a", "b"],
            },
        },
        {"uid": {"type": "Org", "id": "o"}, "parents": [], "attrs": {}},
    ]
