"""The directory and the price book as Cedar's entities: everything that a policy of the bundle can speak of."""

from __future__ import annotations

from collections.abc import Iterator

from authz.identity.directory import Directory
from authz.inference.pricebook import ModelSpec, PriceBook
from authz.model import Uid
from authz.policy import Entity


def entities(directory: Directory, prices: PriceBook) -> Iterator[Entity]:
    yield Entity(directory.organisation)
    for team in directory.teams:
        yield Entity(team, (directory.organisation,))
    for role in directory.roles:
        yield Entity(role)
    for user, by_team in directory.users.items():
        teams = tuple(member.principal.team for member in by_team.values())
        roles = next(iter(by_team.values())).principal.roles if by_team else ()
        yield Entity(Uid("User", user), (*teams, *roles))
    for member in directory.keys.values():
        principal = member.principal
        users = (principal.user,) if principal.user is not None else ()
        yield Entity(principal.uid, (*users, principal.team, *principal.roles), {"team": principal.team})
    for group in prices.groups:
        yield Entity(group)
    for model in prices.models.values():
        yield _model(model)


def _model(model: ModelSpec) -> Entity:
    prices = {"input_price": model.price.input, "output_price": model.price.output} if model.price else {}
    ceilings = {"context_tokens": model.context_tokens, "max_output_tokens": model.max_output_tokens}
    return Entity(Uid("Model", model.id), model.groups, {**prices, **ceilings})
