"""A slice answers as the whole set does: against Cedar itself on everything, and against ten lines that anyone can check."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import NamedTuple

import cedarpy
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.model import Principal, Uid
from authz.policy import AdminContext, CedarText, Context, Entity, Kind, Link, PolicyEngine
from authz.policy.cedar import action_groups
from authz.policy.context import ALL, ContextWriter
from authz.policy.entities import ancestors, document, table
from authz.policy.policies import literal, parse_policies
from authz.policy.slices import Slice, Slices
from tests.policy import world

WORLD = table(world.ENTITIES)
GROUPS = action_groups(world.schema())
EVERYTHING = cedarpy.Entities.from_json_str(document(world.ENTITIES), world.schema())
UIDS = tuple(WORLD)
TYPES = ("Org", "Team", "Role", "User", "Key", "ModelGroup", "Model")
ACTIONS = ("chat", "respond", "usage.read", "key.rotate")


class Question(NamedTuple):
    principal: Principal
    action: str
    resource: Uid
    context: Context | AdminContext


Outcome = bool | None  # None: it errs


class Rule(NamedTuple):
    """A policy in Cedar's text beside what it means, in Python. `link` has what stands in its template's slots."""

    id: str
    text: str
    effect: str
    scope: Callable[[Question], bool]
    condition: Callable[[Question], Outcome]
    link: Link | None


def inside(uid: Uid, group: Uid) -> bool:
    return uid == group or group in ancestors(uid, WORLD)


def reference(rules: list[Rule], question: Question) -> tuple[bool, set[str], set[str]]:
    """The authoriser: allowed, determining ids, ids that err."""
    outcomes = {rule.id: rule.condition(question) for rule in rules if rule.scope(question)}
    errors = {name for name, outcome in outcomes.items() if outcome is None}
    met = {rule.id for rule in rules if outcomes.get(rule.id)}
    forbids = {rule.id for rule in rules if rule.id in met and rule.effect == "forbid"}
    if errors:
        return False, set(), errors
    return bool(met) and not forbids, forbids or met, errors


ALWAYS: tuple[str, Callable[[Question], Outcome]] = ("true", lambda q: True)
NEVER: tuple[str, Callable[[Question], Outcome]] = ("false", lambda q: False)
CONDITIONS: list[tuple[str, Callable[[Question], Outcome]]] = [
    ALWAYS,
    NEVER,
    ("context.time.epoch_s >= 100", lambda q: q.context.now_ns >= 100 * 10**9),
    ("context.time.epoch_s + 9223372036854775000 > 0", lambda q: True if q.context.now_ns // 10**9 <= 807 else None),
    ('context has source_ip && context.source_ip.isInRange(ip("10.0.0.0/8"))', lambda q: q.context.source_ip.startswith("10.")),
    (
        "context has spend && context.spend.org.percent >= 80",
        lambda q: isinstance(q.context, Context) and q.context.spend.org >= 80,
    ),
    ("context has input_tokens", lambda q: isinstance(q.context, Context)),
    ("context == context", lambda q: True),
    ("principal in resource", lambda q: inside(q.principal.uid, q.resource)),
    (
        "resource has team && principal in resource.team",
        lambda q: (
            q.resource.type == "Key" and inside(q.principal.uid, WORLD[q.resource].parents[-2 if q.resource == world.K1 else 0])
        ),
    ),
    (
        "resource.output_price > 50",
        lambda q: None if "output_price" not in WORLD[q.resource].attrs else WORLD[q.resource].attrs["output_price"] == 99,
    ),
    (f"{literal(world.U2)} in {literal(world.T1)}", lambda q: True),
    (f"{literal(world.K2)} in {literal(world.T1)}", lambda q: False),
    (f"{literal(world.K2)}.team == {literal(world.T2)}", lambda q: True),
    (
        f"principal in [{literal(world.R2)}, {literal(world.U1)}]",
        lambda q: inside(q.principal.uid, world.R2) or inside(q.principal.uid, world.U1),
    ),
    (f"resource in {literal(world.G2)}", lambda q: inside(q.resource, world.G2)),
    ('Key::"gone".team == principal', lambda q: None),
]


def one_scope(
    draw: st.DrawFn, variable: str, of: Callable[[Question], Uid]
) -> tuple[str, Callable[[Question], bool], Uid | None]:
    """Scope text, its meaning, and the entity in a slot."""
    form = draw(st.sampled_from(["any", "any", "any", "==", "in", "is", "is in", "== ?", "in ?", "is in ?"]))
    group, kind = draw(st.sampled_from(UIDS)), draw(st.sampled_from(TYPES))
    named = f"?{variable}" if form.endswith("?") else literal(group)
    slot = group if form.endswith("?") else None
    match form.removesuffix(" ?"):
        case "any":
            return variable, lambda q: True, None
        case "==":
            return f"{variable} == {named}", lambda q: of(q) == group, slot
        case "in":
            return f"{variable} in {named}", lambda q: inside(of(q), group), slot
        case "is":
            return f"{variable} is {kind}", lambda q: of(q).type == kind, None
        case _:
            return f"{variable} is {kind} in {named}", lambda q: of(q).type == kind and inside(of(q), group), slot


@st.composite
def rules(draw: st.DrawFn) -> list[Rule]:
    found = []
    for index in range(draw(st.integers(1, 12))):
        name, effect = f"rule {index}", draw(st.sampled_from(["permit", "permit", "forbid"]))
        principal, principal_means, principal_slot = one_scope(draw, "principal", lambda q: q.principal.uid)
        resource, resource_means, resource_slot = one_scope(draw, "resource", lambda q: q.resource)
        action, actions = draw(
            st.sampled_from(
                [
                    ("action", set(ACTIONS)),
                    ('action == Action::"chat"', {"chat"}),
                    ('action == Action::"infer"', set()),
                    ('action in Action::"infer"', {"chat", "respond"}),
                    ('action in Action::"respond"', {"respond"}),
                    ('action in [Action::"respond", Action::"administer"]', {"respond", "usage.read", "key.rotate"}),
                    ("action in []", set()),
                ]
            )
        )
        (when, when_means), (unless, unless_means) = draw(
            st.tuples(st.sampled_from([ALWAYS] * 9 + CONDITIONS), st.sampled_from([NEVER] * 9 + CONDITIONS))
        )
        link = Link(name, f"template {index}", principal_slot, resource_slot) if principal_slot or resource_slot else None
        text = (
            f'@id("{link.template if link else name}") {effect} ({principal}, {action}, {resource})'
            f" when {{ {when} }} unless {{ {unless} }};"
        )

        def scope(
            q: Question,
            a: set[str] = actions,
            p: Callable[[Question], bool] = principal_means,
            r: Callable[[Question], bool] = resource_means,
        ) -> bool:
            return q.action in a and p(q) and r(q)

        def condition(
            q: Question, w: Callable[[Question], Outcome] = when_means, u: Callable[[Question], Outcome] = unless_means
        ) -> Outcome:
            met = w(q)
            if not met:
                return met
            stopped = u(q)
            return None if stopped is None else not stopped

        found.append(Rule(name, text, effect, scope, condition, link))
    return found


@st.composite
def questions(draw: st.DrawFn) -> Question:
    principal = draw(st.sampled_from([world.BY_K1, world.BY_K2, world.BY_U2]))
    action, resources = draw(
        st.sampled_from(
            [
                ("chat", [world.M1, world.M2, world.M3]),
                ("respond", [world.M1, world.M2, world.M3]),
                ("usage.read", [world.ORG, world.T1, world.T2, world.U1, world.U2, world.K1, world.K2]),
                ("key.rotate", [world.K1, world.K2]),
            ]
        )
    )
    source_ip, now_s, spend = (
        draw(st.sampled_from(["", "10.0.0.1", "192.0.2.1"])),
        draw(st.sampled_from([0, 100, 1000])),
        draw(st.integers(0, 100)),
    )
    facts: Context | AdminContext = AdminContext(source_ip, now_s * 10**9)
    if action in ("chat", "respond"):
        facts = world.context(source_ip=source_ip, now_s=now_s, spend=spend)
    return Question(principal, action, draw(st.sampled_from(resources)), facts)


def whole(rules: list[Rule], question: Question) -> tuple[bool, set[str], int]:
    """Cedar on every policy, every entity and the full context, with links made by Cedar. Any error denies, as with us."""
    policies = cedarpy.PolicySet.from_str("\n".join(rule.text for rule in rules)).with_linked_batch(
        [
            {
                "template_id": rule.link.template,
                "new_id": rule.link.id,
                "values": {
                    slot: {"type": uid.type, "id": uid.id}
                    for slot, uid in (("?principal", rule.link.principal), ("?resource", rule.link.resource))
                    if uid is not None
                },
            }
            for rule in rules
            if rule.link is not None
        ]
    )
    kind = Kind.INFERENCE if isinstance(question.context, Context) else Kind.ADMIN
    request = {
        "principal": {"type": question.principal.uid.type, "id": question.principal.uid.id},
        "action": {"type": "Action", "id": question.action},
        "resource": {"type": question.resource.type, "id": question.resource.id},
        "context": ContextWriter(world.UTC).write(question.context, ALL[kind]),
    }
    result = cedarpy.is_authorized(request, policies, EVERYTHING, world.schema())
    assert result.decision is not cedarpy.Decision.NoDecision, result.diagnostics.errors
    errors = len(result.diagnostics.errors)
    by_position = {f"policy{index}": rule.id for index, rule in enumerate(rules)}
    named = {by_position.get(name, name) for name in result.diagnostics.reasons}
    return result.allowed and not errors, set() if errors else named, errors


@settings(max_examples=settings().max_examples * 6 // 5, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rules(), st.lists(questions(), min_size=1, max_size=8))
def test_a_slice_answers_as_the_whole_set(rules: list[Rule], asked: list[Question]) -> None:
    links = [rule.link for rule in rules if rule.link is not None]
    parsed = parse_policies([CedarText("rules.cedar", "\n".join(rule.text for rule in rules))], links)
    engine = PolicyEngine(parsed, world.schema(), world.ENTITIES, world.UTC)
    for question in asked:
        verdict = engine.decide(question.principal, question.action, (question.resource,), question.context)
        assert (verdict.allowed, set(verdict.policies), len(verdict.errors)) == whole(rules, question)
        allowed, determining, errors = reference(rules, question)
        assert (verdict.allowed, set(verdict.policies), len(verdict.errors)) == (allowed, determining, len(errors))
        assert verdict.forbidden is (not verdict.allowed and bool(verdict.policies))


def test_the_slice_of_a_request_holds_what_can_match_and_nothing_else() -> None:
    text = "".join(
        f'@id("{name}") permit (principal {scope}, action, resource);'
        for name, scope in {
            "equal": '== Key::"k1"',
            "team": f"in {literal(world.T1)}",
            "type": "is Key",
            "type in role": 'is Key in Role::"r1"',
            "other key": '== Key::"k9"',
            "other team": f"in {literal(world.T2)}",
            "other type": "is User",
            "other type in role": 'is User in Role::"r1"',
        }.items()
    )
    verdict = world.engine(text).decide(world.BY_K1, "chat", (world.M1,), world.context())
    assert verdict.policies == ("equal", "team", "type", "type in role")


def test_the_slice_holds_what_is_said_of_the_resource_too() -> None:
    text = "".join(
        f'@id("{name}") permit (principal, action, resource {scope});'
        for name, scope in {
            "any": "",
            "equal": '== Model::"m1"',
            "itself": 'in Model::"m1"',
            "group": 'in ModelGroup::"g1"',
            "another group": 'in ModelGroup::"g2"',
            "type": "is Model",
            "type in group": 'is Model in ModelGroup::"g2"',
            "other model": '== Model::"m2"',
            "other group": 'in ModelGroup::"g3"',
            "other type": "is Team",
            "other type in group": 'is Team in ModelGroup::"g1"',
        }.items()
    )
    engine = world.engine(text, validated=False)
    reached = [policy.id for policy in engine.in_reach(world.BY_K1, "chat", world.M1)]
    assert reached == ["any", "equal", "itself", "group", "another group", "type", "type in group"]
    assert [policy.id for policy in engine.in_reach(world.BY_K1, "chat", world.M3)] == ["any", "type"]
    verdict = engine.decide(world.BY_K1, "chat", (world.M1,), world.context())
    assert verdict.policies == tuple(sorted(reached))


def test_the_slice_holds_what_is_said_of_the_action_too() -> None:
    text = "".join(
        f'@id("{name}") permit (principal, action {scope}, resource);'
        for name, scope in {
            "any": "",
            "the one": '== Action::"chat"',
            "another": '== Action::"respond"',
            "its group itself": '== Action::"infer"',
            "its group": 'in Action::"infer"',
            "another group": 'in Action::"administer"',
            "one of several": 'in [Action::"respond", Action::"chat"]',
            "a group of several": 'in [Action::"respond", Action::"infer"]',
            "none of several": 'in [Action::"respond", Action::"embed"]',
        }.items()
    )
    engine = world.engine(text, validated=False)
    reached = [policy.id for policy in engine.in_reach(world.BY_K1, "chat", world.M1)]
    assert reached == ["any", "the one", "its group", "one of several", "a group of several"]
    assert engine.in_reach(world.BY_K1, "zork", world.M1) == ()


def test_cedars_messages_have_our_ids_in_them() -> None:
    made = Slice(cedarpy.PolicySet.from_str(""), {"policy0": "mine", "policy1": "an other"})
    assert made.explain(["b", "while policy `policy1`: `x` of policy `policy0`", "a policy `policy7` `y`", "`policy0`"]) == (
        "`policy0`",
        "a policy `policy7` `y`",
        "b",
        "while policy `an other`: `x` of policy `policy0`",
    )
    assert made.ids(["policy0", "policy1"]) == ("an other", "mine")


def test_slices_are_kept_and_only_so_many() -> None:
    kept = Slices(world.policies('@id("a") permit (principal, action == Action::"chat", resource);'), max_cached=1)
    first = kept.slice((0,))
    assert kept.slice((0,)) is first
    kept.slice(())
    assert kept.slice((0,)) is not first


def _of_size(teams: int) -> PolicyEngine:
    text = "\n".join(
        f'@id("p{n}") permit (principal in Team::"t{n}", action in Action::"infer", resource == Model::"m1");'
        for n in range(teams)
    )
    entities = [*world.ENTITIES]
    for n in range(teams):
        team = Uid("Team", f"t{n}")
        entities += [Entity(team, (world.ORG,)), Entity(Uid("Key", f"key{n}"), (team,), {"team": team})]
    return PolicyEngine(parse_policies([CedarText("teams.cedar", text)]), world.schema(), entities, world.UTC)


def _round_s(engine: PolicyEngine, round_: int, *, warm: bool) -> float:
    """Seconds for a decision, over one short round; not warm: the first of each principal."""
    calls = 30
    asking = [
        Principal(
            uid=Uid("Key", f"key{n}"),
            organisation=world.ORG,
            team=Uid("Team", f"t{n}"),
            user=None,
            roles=() if warm else (Uid("Role", f"{round_}-{index}"),),
        )
        for index, n in enumerate([0] * calls if warm else [n % 10 for n in range(calls)])
    ]
    facts = world.context()
    started = time.perf_counter()
    for principal in asking:
        assert engine.decide(principal, "chat", (world.M1,), facts).allowed
    return (time.perf_counter() - started) / calls


def _ratio(above: PolicyEngine, below: PolicyEngine, *, warm: bool) -> float:
    """The best of many short rounds of each, taken in turn: what else the machine does then meets both alike."""
    rounds = [(_round_s(above, round_, warm=warm), _round_s(below, round_, warm=warm)) for round_ in range(25)]
    return min(large for large, _ in rounds) / min(small for _, small in rounds)


@pytest.mark.timeout(60)
def test_the_ten_thousandth_team_costs_a_decision_nothing() -> None:
    small, large = _of_size(10), _of_size(10_000)
    assert _ratio(large, small, warm=True) < 2
    assert _ratio(large, small, warm=False) < 3
