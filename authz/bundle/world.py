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
    for name, model in prices.names.items():
        if isinstance(model, ModelSpec):
            yield _model(name, model)


def _model(name: str, model: ModelSpec) -> Entity:
    """An alias is a model of its own beside the one that it stands for: a request that names it has to be allowed on both."""
    prices = {"input_price": model.price.input, "output_price": model.price.output} if model.price else {}
    ceilings = {"context_tokens": model.context_tokens, "max_output_tokens": model.max_output_tokens}
    return Entity(Uid("Model", name), model.groups, {**prices, **ceilings})
