"""What a rule says of a policy is true of the engine that decides: no false alarm, over generated policies."""

from __future__ import annotations

import itertools
from pathlib import Path
from tempfile import TemporaryDirectory

from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from authz.bundle import Bundle, load_bundle, world
from authz.bundle.files import read_parts
from authz.errors import ConfigError
from authz.model import Principal, Uid
from authz.policy import ACTIONS, AdminContext, CedarText, Context, Kind, Mode, Policy, PolicyEngine, Verdict, read_schema
from authz.review.lint.rules import RULES
from authz.review.lint.world import World
from tests.review.small import FILES, NOW_NS, bundle

PRINCIPALS = (
    "principal",
    'principal in Org::"acme"',
    'principal in Team::"app"',
    'principal in Team::"lab"',
    'principal in User::"ada"',
    'principal == User::"ada"',
    'principal == Key::"web"',
    'principal is Key',
    'principal is User in Role::"owner"',
    'principal in Role::"none"',
)  # fmt: skip
ACTION_SCOPES = (
    "action",
    'action in Action::"infer"',
    'action == Action::"chat"',
    'action in [Action::"chat", Action::"speak"]',
    'action in Action::"administer"',
)
RESOURCES = (
    "resource",
    "resource is Model",
    'resource in ModelGroup::"fast"',
    'resource == Model::"m1"',
    'resource == Model::"voice"',
    'resource == Model::"old"',
    'resource == Team::"app"',
)
ATOMS = (
    "true",
    "false",
    'principal in Team::"app"',
    'principal in [Team::"lab", Role::"none"]',
    "principal is User",
    'principal is Key in Org::"acme"',
    'principal != Key::"web"',
    'resource in [Model::"m1", Model::"old"]',
    'resource == Model::"voice"',
    "context.time.date <= 20261129",
    "context.time.date < 20270101",
    "20261130 <= context.time.date",
    "context has source_ip",
    "context.time.hour < 1",
    "context.time.hour >= 12",
    "context.time.hour != 24",
    "context.time.weekday == 0",
)
CONDITIONS = st.recursive(
    st.sampled_from(ATOMS),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} && {pair[1]})"),
        st.tuples(inner, inner).map(lambda pair: f"({pair[0]} || {pair[1]})"),
        inner.map(lambda one: f"!({one})"),
        st.tuples(inner, inner, inner).map(lambda parts: f"(if {parts[0]} then {parts[1]} else {parts[2]})"),
    ),
    max_leaves=4,
)
POLICIES = st.builds(
    "{} ({}, {}, {}) {};".format,
    st.sampled_from(("permit", "permit", "forbid", '@mode("shadow") permit')),
    st.sampled_from(PRINCIPALS),
    st.sampled_from(ACTION_SCOPES),
    st.sampled_from(RESOURCES),
    st.one_of(st.just(""), st.just(""), CONDITIONS.map("when {{ {} }}".format), CONDITIONS.map("unless {{ {} }}".format)),
)
DIRECTORY = (
    FILES["directory.yaml"]
    .replace("  app: {}", "  app: {}\n  lab: {}")
    .replace("  owner: {}", "  owner: {}\n  none: {}")
    .replace("teams: [app]", "teams: [app, lab]")
    .replace("keys:\n", "keys:\n  bench: {team: lab, user: ada}\n")
)
YEAR_NS = 366 * 86_400 * 10**9


def contexts(kind: Kind) -> list[Context | AdminContext]:
    found: list[Context | AdminContext] = []
    for now_ns, address in itertools.product((NOW_NS, NOW_NS + YEAR_NS), ("", "192.0.2.1")):
        if kind is Kind.ADMIN:
            found.append(AdminContext(address, now_ns))
        else:
            found.append(Context(1, 1, False, "chat.completions", "on_demand", False, address, now_ns))
    return found


CONTEXTS = {kind: contexts(kind) for kind in Kind}
Question = tuple[Principal, str, Uid, int]


def questions(loaded: Bundle) -> list[Question]:
    """Everything that can be asked: everybody, every action, and what it can be done to; a model as far as it serves it."""
    people = [member.principal for member in loaded.directory.keys.values()]
    people += [member.principal for teams in loaded.directory.users.values() for member in teams.values()]
    models = loaded.prices.models  # by their own names: what names an alias is told of under the same rule
    known = [entity.uid for entity in world.entities(loaded.directory, loaded.prices)]
    things = [uid for uid in known if uid.type != "Model" or uid.id in models]
    return [
        (principal, action, thing, number)
        for principal in people
        for action, spec in ACTIONS.items()
        for thing in things
        if thing.type in spec.resources
        and (thing.type != "Model" or action in models[thing.id].actions)
        for number in range(len(CONTEXTS[spec.kind]))
    ]  # fmt: skip


def answers(loaded: Bundle, policies: list[Policy], asked: list[Question]) -> list[Verdict]:
    schema = read_schema(CedarText("schema", FILES["schema.cedarschema"]))
    engine = PolicyEngine(policies, schema, world.entities(loaded.directory, loaded.prices), loaded.time_zone)
    return [
        engine.decide(principal, action, (thing,), CONTEXTS[ACTIONS[action].kind][number])
        for principal, action, thing, number in asked
    ]


def loaded_with(folder: Path, policies: list[str]) -> Bundle:
    files = bundle(folder)
    (files / "directory.yaml").write_text(DIRECTORY)
    (files / "tests/a.yaml").unlink()
    (files / "a.cedar").write_text("\n".join(f'@id("p{index}") {policy}' for index, policy in enumerate(policies)))
    try:
        return load_bundle(files)
    except ConfigError:
        assume(False)  # the validator knows better than to let it in
        raise


def alone(policy: Policy) -> Policy:
    """As a permit in force, so that it is seen wherever it matches."""
    text = policy.text.replace("forbid (", "permit (", 1)
    return replace(policy, text=text, mode=Mode.ENFORCE)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.filter_too_much])
@given(st.lists(POLICIES, min_size=2, max_size=3))
def test_no_rule_accuses_wrongly(policies: list[str]) -> None:
    with TemporaryDirectory() as folder:
        loaded = loaded_with(Path(folder), policies)
        looked_at = World(loaded, read_parts(Path(folder) / "bundle"), NOW_NS)
    asked = questions(loaded)
    everything = answers(loaded, list(loaded.policies), asked)
    by_id = {policy.id: policy for policy in loaded.policies}

    for rule in ("never-matches", "past-date"):
        for hit in RULES[rule](looked_at):
            policy = hit.at[0]
            assert isinstance(policy, Policy)
            assert not any(verdict.allowed for verdict in answers(loaded, [alone(policy)], asked)), hit.message

    for hit in RULES["shadowed"](looked_at):
        policy = hit.at[0]
        assert isinstance(policy, Policy)
        if policy.mode is Mode.SHADOW:
            if not hit.message.startswith("says the same"):
                assert not any(f"allow:{policy.id}" in verdict.shadow for verdict in everything), hit.message
            continue
        without = answers(loaded, [other for other in by_id.values() if other is not policy], asked)
        assert [(v.allowed, v.forbidden) for v in without] == [(v.allowed, v.forbidden) for v in everything], hit.message

    idle = {hit.message.split(" may do nothing")[0] for hit in RULES["unused-entity"](looked_at) if "may do" in hit.message}
    for (principal, *_), verdict in zip(asked, everything, strict=True):
        assert not (verdict.allowed and str(principal.uid) in idle), principal.uid
