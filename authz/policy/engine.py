"""May this principal do this to that? Cedar's answer, on the few policies and entities that the request can reach.

What does not depend on the request's context (which policies, which entities, the names) is worked out once for each principal,
action and resource and kept; a decision is then one look-up, the context as text, and one call of Cedar.

Cedar answers the same question the same way, so its last answers are kept too, by the very text of the context that it was
given: whatever a policy in reach looks at stands in it (the time of day, how full the quotas are), and nothing else. An answer
is never older than what it rests on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

from msgspec import Struct

from authz.model import Principal, Uid
from authz.policy import cedar, entities
from authz.policy.actions import ACTIONS, PRINCIPALS, Kind
from authz.policy.cedar import CedarError, Json, Schema
from authz.policy.context import ALL, QUOTA_FACTS, TIMES, AdminContext, Context, ContextWriter, Facts, samples
from authz.policy.entities import Entity, EntityError
from authz.policy.policies import Effect, Mode, Policy
from authz.policy.slices import Node, Places, Slice, Slices

MAX_PLANS: Final = 4096
"""Plans kept: some 15 kB each. One that was dropped is made again in 0.2 ms."""

MAX_ANSWERS: Final = 8
"""Answers kept of each plan. Few of its facts change from one request to the next: a stream or not, the hour, a percentage."""

_OF_ITS_OWN: Final = frozenset({"input_tokens"})
"""Facts that differ with nearly every request: where a policy looks at one, Cedar is asked each time."""


class SchemaMismatch(CedarError):
    """The schema does not declare what the engine asks and sends; `str()` says which action and why."""


class Verdict(Struct, frozen=True):
    """Cedar's answer.

    policies   ids of the determining policies, sorted: the permits, or the forbids
    forbidden  a forbid decided; otherwise a denial is the lack of a permit
    errors     whatever could not be evaluated; any makes the answer a denial
    shadow     what `@mode("shadow")` policies would have changed: `allow:<id>`, `deny:<id>`, or `error:<message>`
    """

    allowed: bool
    policies: tuple[str, ...] = ()
    forbidden: bool = False
    errors: tuple[str, ...] = ()
    shadow: tuple[str, ...] = ()


class Plan(Struct, frozen=True):
    """Everything about a principal, an action and a resource that no context changes.

    facts           the fields of the context that some policy in reach looks at
    reach           places of the policies whose scope can match
    shadow          all shadow policies in reach: what would they change about an allow
    shadow_permits  the permits among them: what would they change about the lack of one
    answers         what Cedar has said lately, by the text of the context; None where that would hardly ever be the same again
    """

    request: Json
    facts: Facts
    reach: Places
    enforced: Slice
    shadow: Slice | None
    shadow_permits: Slice | None
    entities: cedar.Entities
    answers: dict[str, Verdict] | None


class PolicyEngine:
    """The policies of one bundle. Immutable but for its caches, and safe in threads.

    Raises `SchemaMismatch`, `CedarError` or `EntityError` when built on parts that do not fit each other.
    """

    def __init__(
        self,
        policies: Iterable[Policy],
        schema: Schema,
        known: Iterable[Entity],
        zone: ZoneInfo,
        *,
        max_plans: int = MAX_PLANS,
    ) -> None:
        table = entities.table(known)
        _check_entities(table, schema)
        _check_schema(schema, ContextWriter(zone))
        self.slices: Final = Slices(policies)
        self._writer = ContextWriter(zone)
        self._plan: Callable[[Principal, str, Uid], Plan | str] = lru_cache(maxsize=max_plans)(
            _planner(self.slices, table, schema)
        )

    def reads_quotas(self, principal: Principal, action: str, resource: Uid) -> bool:
        """Whether a policy in reach looks at how full the quotas are: only then is it worth finding out."""
        plan = self._plan(principal, action, resource)
        return not isinstance(plan, str) and not plan.facts.isdisjoint(QUOTA_FACTS)

    def in_reach(self, principal: Principal, action: str, resource: Uid) -> tuple[Policy, ...]:
        """The policies whose scope matches, satisfied or not: all that have a say. For explanations."""
        plan = self._plan(principal, action, resource)
        return () if isinstance(plan, str) else tuple(self.slices.policies[place] for place in plan.reach)

    def decide(
        self,
        principal: Principal,
        action: str,
        resources: tuple[Uid, ...],
        context: Context | AdminContext,
        told: Callable[[bool], None] = lambda remembered: None,
    ) -> Verdict:
        """Allowed only if every resource is, without a single error. `resources` holds at least one.

        told  is called for each resource, with whether the answer was remembered: for the metric
        """
        if len(resources) == 1:
            return self._decide(principal, action, resources[0], context, told)
        return _all_of([self._decide(principal, action, resource, context, told) for resource in resources])

    def _decide(
        self, principal: Principal, action: str, resource: Uid, context: Context | AdminContext, told: Callable[[bool], None]
    ) -> Verdict:
        plan = self._plan(principal, action, resource)
        if isinstance(plan, str):
            return Verdict(False, errors=(plan,))
        try:
            text = self._writer.write(context, plan.facts)
        except ValueError as error:
            return Verdict(False, errors=(str(error),))
        answers = plan.answers
        remembered = answers.get(text) if answers is not None else None
        told(remembered is not None)
        if remembered is not None:
            return remembered
        verdict = _ask(plan, text)
        if answers is not None:
            if len(answers) >= MAX_ANSWERS:
                answers.clear()
            answers[text] = verdict
        return verdict


def _ask(plan: Plan, context: str) -> Verdict:
    request = {**plan.request, "context": context}
    answer = cedar.authorise(request, plan.enforced.handle, plan.entities)
    if answer.errors:
        return Verdict(False, errors=plan.enforced.explain(answer.errors))
    policies = plan.enforced.ids(answer.policies)
    if answer.allowed:
        shadow = _would(Effect.FORBID, plan.shadow, request, plan.entities) if plan.shadow else ()
        return Verdict(True, policies, shadow=shadow)
    if policies:
        return Verdict(False, policies, forbidden=True)
    shadow = _would(Effect.PERMIT, plan.shadow_permits, request, plan.entities) if plan.shadow_permits else ()
    return Verdict(False, shadow=shadow)


def _would(effect: Effect, shadow: Slice, request: Json, known: cedar.Entities) -> tuple[str, ...]:
    """Which shadow policies of this effect would turn the answer round. Errors are told too: enforced, they would deny.

    Where an allow is to be turned, `shadow` holds permits too, for their errors; satisfied they change nothing.
    """
    answer = cedar.authorise(request, shadow.handle, known)
    turned = answer.policies if answer.allowed is (effect is Effect.PERMIT) else ()
    verb = "allow" if effect is Effect.PERMIT else "deny"
    errors = tuple(f"error:{message}" for message in shadow.explain(answer.errors))
    return (*(f"{verb}:{name}" for name in shadow.ids(turned)), *errors)


def _all_of(verdicts: list[Verdict]) -> Verdict:
    """Several resources as one question: what denies is told, and only if nothing does, what permits."""
    denials = [verdict for verdict in verdicts if not verdict.allowed]
    telling = denials or verdicts
    return Verdict(
        allowed=bool(verdicts) and not denials,
        policies=tuple(sorted({name for verdict in telling for name in verdict.policies})),
        forbidden=any(verdict.forbidden for verdict in denials),
        errors=tuple(sorted({error for verdict in denials for error in verdict.errors})),
        shadow=tuple(sorted({name for verdict in verdicts for name in verdict.shadow})),
    )


def _planner(slices: Slices, table: entities.Table, schema: Schema) -> Callable[[Principal, str, Uid], Plan | str]:
    """Not a method, so that the cache does not keep the engine alive after its bundle was swapped."""
    groups = cedar.action_groups(schema)

    def plan(principal: Principal, action: str, resource: Uid) -> Plan | str:
        spec = ACTIONS.get(action)
        if spec is None or resource.type not in spec.resources or principal.uid.type not in PRINCIPALS:
            return f"{principal.uid} cannot ask for `{action}` on {resource}"
        if resource not in table:
            return f"unknown resource {resource}"
        own = entities.of_resource(resource, table) | entities.of_principal(principal, table)
        asking = Node(principal.uid, entities.ancestors(principal.uid, own))
        asked = Node(resource, entities.ancestors(resource, own))
        places = slices.matching(asking, action, groups[action], asked)
        policies = slices.policies
        literals = {uid for place in places for uid in policies[place].literals}
        reach = entities.closure(literals, table) | own
        try:
            handle = cedar.parse_entities(entities.document(reach.values()), schema)
        except CedarError as error:
            return f"the entities of {principal.uid}: {error}"
        shadow = tuple(place for place in places if policies[place].mode is Mode.SHADOW)
        shadow_permits = tuple(place for place in shadow if policies[place].effect is Effect.PERMIT)
        facts = _facts((policies[place] for place in places), spec.kind)
        return Plan(
            request={
                "principal": cedar.uid(principal.uid),
                "action": {"type": "Action", "id": action},
                "resource": cedar.uid(resource),
            },
            reach=places,
            facts=facts,
            enforced=slices.slice(tuple(place for place in places if policies[place].mode is Mode.ENFORCE)),
            shadow=slices.slice(shadow) if shadow else None,
            shadow_permits=slices.slice(shadow_permits) if shadow_permits else None,
            entities=handle,
            answers={} if facts.isdisjoint(_OF_ITS_OWN) else None,
        )

    return plan


def _facts(policies: Iterable[Policy], kind: Kind) -> Facts:
    found: set[str] = set()
    for policy in policies:
        if policy.facts is None:
            return ALL[kind]
        found |= {fact if fact in TIMES else fact.partition(".")[0] for fact in policy.facts}
    return (ALL[kind] | TIMES) & found


def _check_entities(table: entities.Table, schema: Schema) -> None:
    """Cedar does not say which entity does not conform, so a failure is looked for one by one."""
    try:
        cedar.parse_entities(entities.document(table.values()), schema)
    except CedarError as error:
        for entity in table.values():
            try:
                cedar.parse_entities(entities.document((entity,)), schema)
            except CedarError as own:
                raise EntityError(entity.uid, str(own)) from None
        raise SchemaMismatch(str(error)) from None


def _check_schema(schema: Schema, writer: ContextWriter) -> None:
    """Every action with every type of principal and resource, and every shape of context, must be what the schema declares."""
    no_policies = cedar.parse_policies("")
    no_entities = cedar.parse_entities("[]", schema)
    contexts = {kind: [writer.write(sample, ALL[kind]) for sample in samples(kind)] for kind in Kind}
    for action, spec in ACTIONS.items():
        for resource in sorted(spec.resources):
            for principal in PRINCIPALS:
                for context in contexts[spec.kind]:
                    request = {
                        "principal": {"type": principal, "id": "-"},
                        "action": {"type": "Action", "id": action},
                        "resource": {"type": resource, "id": "-"},
                        "context": context,
                    }
                    for error in cedar.authorise(request, no_policies, no_entities, schema).errors:
                        problem = error.removeprefix("failed to build request: ")
                        raise SchemaMismatch(f"action `{action}` by a {principal} on a {resource} does not fit: {problem}")
