"""What costs without an end, cannot cost at all, or is counted for nobody."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

from authz.bundle.files import MODELS, QUOTAS
from authz.inference.pricebook import BATCH, ModelSpec
from authz.model import Meter, Uid
from authz.policy import Effect, Policy
from authz.policy.policies import Match
from authz.quota.definitions import Quota
from authz.review.lint.places import Hit, InPolicy, InRow
from authz.review.lint.world import INFERENCE, Who, World

Ids = frozenset[str]


def unbounded_permit(world: World) -> Iterator[Hit]:
    """A loop gone wrong spends until something stops it. Where no enforced spend quota lies on the way of a request, from the
    key up to the organisation, nothing does: a rate limit only sets the pace."""
    free = _Unbounded(world)
    for policy in world.permits:
        found = free.of(policy)
        if found is None:
            continue
        who, model = found
        if not free.quotas:
            problem = f"no spend quota is enforced: {who.principal.uid} may use `{model}` without a ceiling in money"
            yield Hit(InRow(QUOTAS, ()), problem)
            return
        acting = f" in {who.principal.team}" if who.principal.uid.type == "User" else ""
        problem = f"{who.principal.uid}{acting} may use `{model}` by this and meets no enforced spend quota"
        yield Hit(InPolicy(policy), problem)


def unpriced_model(world: World) -> Iterator[Hit]:
    """A request that cannot be priced is denied, whatever a policy permits: who wrote the permit has not opened anything."""
    allowed: dict[str, set[str]] = {}
    anybody = (Match(), Match(within=world.bundle.directory.organisation))
    for policy in world.permits:
        for model, serves in world.reached(policy):
            allowed.setdefault(model.id, set()).update(serves - world.forbidden(anybody, model))
    for name, actions in allowed.items():
        model = world.bundle.prices.models[name]
        missing: dict[str, list[str]] = {}
        for action in sorted(actions):
            if (kind := _missing_price(model, action)) is not None:
                missing.setdefault(kind, []).append(f"`{action}`")
        for kind, names in missing.items():
            problem = f"`{name}` is permitted for {', '.join(names)} and has no {kind}: such requests are denied"
            yield Hit(InRow(MODELS, ("models", name)), problem)


def quota_never_met(world: World) -> Iterator[Hit]:
    """A ceiling over something that nobody may do holds nothing. Mostly it is a scope that was meant otherwise."""
    who, models = _permitted(world)
    for index, quota in enumerate(world.bundle.quotas.quotas):
        if not (quota.scope[0] in who or quota.scope[0].type == "ModelGroup"):
            problem = f"nobody in {quota.scope[0]} may use any model"
        elif not any(_about(quota, model) for model in models):
            problem = "no model that it is about is permitted to anybody"
        else:
            continue
        yield Hit(InRow(QUOTAS, ("quotas", index)), f"quota `{quota.id}`: {problem}")


class _Unbounded:
    """Which models each principal can use without meeting an enforced spend quota."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.quotas = [quota for quota in world.bundle.quotas.quotas if quota.meter is Meter.SPEND and quota.enforced]
        asked = {uid for principal, _ in world.forbids for uid in (principal.equals, principal.within) if uid is not None}
        self._scopes = asked | {uid for quota in self.quotas for uid in quota.scope}
        self._found: dict[tuple[str, frozenset[Uid]], Ids] = {}
        self._by_scope: dict[Match, dict[Ids, Who]] = {}
        for who in world.principals:
            models = self._models(who)
            if who.live and models:
                for scope in who.node.scopes():
                    self._by_scope.setdefault(scope, {}).setdefault(models, who)

    def of(self, policy: Policy) -> tuple[Who, str] | None:
        """Somebody to whom the policy gives a model without a ceiling, and the model."""
        reached: Ids | None = None
        for who in self._candidates(policy):
            if self._world.tired:
                return None
            if reached is None:
                reached = frozenset(model.id for model, _ in self._world.reached(policy))
            common = reached & self._models(who)
            if common:
                return who, min(common)
        return None

    def _candidates(self, policy: Policy) -> Iterator[Who]:
        scope = self._by_scope.get(self._world.narrowest(policy), {})
        if not scope or not self._world.actions(policy) & INFERENCE:
            return iter(())
        if not self._world.chooses(policy):
            return iter(scope.values())
        return (who for who in self._world.who(policy) if who.live)

    def _models(self, who: Who) -> Ids:
        """By what of the path a quota or a forbid speaks of: many principals have the same."""
        path = who.principal.uid.type, frozenset(uid for uid in who.principal.path if uid in self._scopes)
        if path not in self._found:
            models = self._world.bundle.prices.models.values()
            self._found[path] = frozenset(
                model.id for model in models if self._usable(who, model) and not self._bounded(who, model)
            )
        return self._found[path]

    def _usable(self, who: Who, model: ModelSpec) -> bool:
        """Whether a request could be priced, and is not forbidden whatever it is."""
        return model.price is not None and not model.actions <= self._world.forbidden(who.node.scopes(), model)

    def _bounded(self, who: Who, model: ModelSpec) -> bool:
        met = self._world.bundle.quotas.applying(who.principal, model.id, model.groups)
        return any(applied.quota.meter is Meter.SPEND and applied.quota.enforced for applied in met)


def _missing_price(model: ModelSpec, action: str) -> str | None:
    match action:
        case "transcribe" | "translate":
            return "price for an hour of audio (`audio_hour`)" if model.audio_hour is None else None
        case "speak":
            return "price for characters (`million_characters`)" if model.million_characters is None else None
        case "chat" | "respond" | "embed":
            return "price by token (`input`, `output`)" if model.price is None else None
        case "batch":
            return "price by token for batches (`tiers: {batch: …}`)" if BATCH not in model.tiers else None
        case _:
            return None


def _permitted(world: World) -> tuple[frozenset[Uid], list[ModelSpec]]:
    """Everything on the path of somebody who may use some model, by a permit in force or in shadow; and these models."""
    permits = [policy for policy in world.bundle.policies if policy.effect is Effect.PERMIT]
    who: set[Uid] = set()
    models: dict[str, ModelSpec] = {}
    everybody = cache(lambda scope: {uid for each in world.members.get(scope, ()) for uid in each.principal.path})
    for policy in permits:
        reached = {model.id: model for model, _ in world.reached(policy)}
        if reached:
            models |= reached
            own = (uid for each in world.who(policy) for uid in each.principal.path)
            who.update(own if world.chooses(policy) else everybody(policy.principal))
    return frozenset(who), list(models.values())


def _about(quota: Quota, model: ModelSpec) -> bool:
    groups = [uid for uid in quota.scope if uid.type == "ModelGroup"]
    named = {model.id, *(group.id for group in model.groups)}
    return all(group in model.groups for group in groups) and (not quota.models or not named.isdisjoint(quota.models))
