"""What a decision is: A41 to A45, A47 and A49 of the catalogue, roles, scopes, shadow."""

from __future__ import annotations

import gc
import weakref

import pytest

from authz.model import Principal, Uid
from authz.policy import AdminContext, CedarText, Entity, EntityError, PolicyEngine, SchemaMismatch, Verdict, read_schema
from tests.policy.world import (
    BY_K1,
    BY_K2,
    BY_U2,
    ENTITIES,
    K1,
    K2,
    M1,
    M2,
    M3,
    ORG,
    SCHEMA_FILE,
    T1,
    U1,
    UTC,
    context,
    engine,
    schema,
)

PERMIT = '@id("permit") permit (principal, action in Action::"infer", resource);'
ADMIN = AdminContext("", 0)


def ask(text: str, principal: Principal = BY_K1, *models: Uid, spend: int = 0) -> Verdict:
    return engine(text).decide(principal, "chat", models or (M1,), context(spend=spend))


def test_nothing_is_allowed_without_a_permit() -> None:
    assert ask("") == Verdict(allowed=False)


def test_a_permit_allows_and_is_named() -> None:
    assert ask(PERMIT) == Verdict(allowed=True, policies=("permit",))


def test_a_forbid_beats_every_permit_whatever_the_order() -> None:
    forbid = '@id("no") forbid (principal, action, resource == Model::"m1");'
    for text in (PERMIT + forbid, forbid + PERMIT):
        assert ask(text) == Verdict(allowed=False, policies=("no",), forbidden=True)
        assert ask(text, BY_K1, M2).allowed


ERRING = {
    "overflow": "context.input_tokens + 9223372036854775807 > 0",
    "decimal": 'decimal("0.00001").lessThan(decimal("1.0"))',
    "missing attribute": "resource.output_price > 1",
    "missing entity": 'Key::"gone".team == principal',
    "missing fact": "context.nothing == 1",
}


@pytest.mark.parametrize("condition", ERRING.values(), ids=ERRING)
@pytest.mark.parametrize("effect", ["forbid", "permit"])
def test_a41_a_policy_that_errs_denies_and_is_named(effect: str, condition: str) -> None:
    """Cedar by itself skips it, and would answer Allow."""
    text = f'{PERMIT} @id("errs here") {effect} (principal, action, resource) when {{ {condition} }};'
    verdict = engine(text, validated=False).decide(BY_K1, "chat", (M3,), context())
    assert not verdict.allowed
    assert len(verdict.errors) == 1
    assert "policy `errs here`" in verdict.errors[0]


def test_a42_what_passed_the_validator_denies_all_the_same() -> None:
    text = f'{PERMIT} @id("over") forbid (principal, action == Action::"chat", resource) when {{ {ERRING["overflow"]} }};'
    verdict = engine(text, validated=True).decide(BY_K1, "chat", (M1,), context())
    assert not verdict.allowed
    assert verdict.errors[0].startswith("error while evaluating policy `over`: ")


def test_a45_ids_are_data() -> None:
    """The world's ids hold quotes, newlines, control characters and names of types; a look-alike is another entity."""
    text = '@id("p") permit (principal == Key::"\\u{202e}k2\\u{0}", action, resource == Model::"Model::\\"m1\\"");'
    assert ask(text, BY_K2, M3).allowed
    assert not ask(text, BY_K2, M1).allowed
    quoted = engine('@id("p") permit (principal in Team::"te\\"am\\n1", action, resource);', validated=False)
    assert quoted.decide(BY_K1, "chat", (M1,), context()).allowed
    assert not quoted.decide(BY_K2, "chat", (M1,), context()).allowed


def test_a47_hierarchies_deeper_than_the_bound_and_circles_are_refused() -> None:
    chain = [Entity(Uid("Team", str(n)), (Uid("Team", str(n + 1)),)) for n in range(9)]
    with pytest.raises(EntityError, match="deeper than 8"):
        PolicyEngine((), schema(), [*chain, Entity(Uid("Team", "9"))], UTC)
    with pytest.raises(EntityError, match="deeper than 8"):
        PolicyEngine((), schema(), [Entity(Uid("Team", "9")), *reversed(chain)], UTC)
    circle = [Entity(Uid("Team", "a"), (Uid("Team", "b"),)), Entity(Uid("Team", "b"), (Uid("Team", "a"),))]
    with pytest.raises(EntityError, match="circle"):
        PolicyEngine((), schema(), circle, UTC)


@pytest.mark.parametrize(
    ("entity", "problem"),
    [
        (Entity(Uid("Model", "x")), 'Model::"x": '),
        (Entity(Uid("Zork", "x")), 'Zork::"x": '),
        (Entity(Uid("Team", "x"), (Uid("Role", "r1"),)), 'Team::"x": '),
        (Entity(Uid("Team", "x"), (Uid("Org", "nowhere"),)), 'its parent Org::"nowhere" does not exist'),
        (Entity(ORG), "stands twice"),
    ],
)
def test_a49_entities_that_do_not_fit_the_schema_are_refused(entity: Entity, problem: str) -> None:
    with pytest.raises(EntityError, match=problem):
        PolicyEngine((), schema(), [*ENTITIES, entity], UTC)


def test_a49_a_principal_that_does_not_fit_the_schema_is_denied() -> None:
    odd = Principal(uid=K1, organisation=T1, team=ORG, user=None, roles=())
    verdict = ask(PERMIT, odd)
    assert (verdict.allowed, len(verdict.errors)) == (False, 1)


@pytest.mark.parametrize(
    ("declared", "instead"),
    [
        ("  stream: Bool,\n", ""),
        ("stream: Bool", "stream: String"),
        ("source_ip?: ipaddr", "source_ip: ipaddr"),
        ('action "policy.publish"', 'action "policy.publsh"'),
        ("  principal: [Key, User],\n  resource: Team,", "  principal: [Key],\n  resource: Team,"),
    ],
)
def test_a_schema_that_declares_something_else_than_what_is_sent_is_refused(declared: str, instead: str) -> None:
    text = SCHEMA_FILE.read_text(encoding="utf-8")
    assert declared in text
    changed = read_schema(CedarText("s", text.replace(declared, instead)))
    with pytest.raises(SchemaMismatch, match="does not fit"):
        PolicyEngine((), changed, ENTITIES, UTC)


def test_a_key_is_in_its_team_its_user_its_roles_and_its_organisation() -> None:
    for scope in ('Team::"te\\"am\\n1"', 'User::"u1"', 'Role::"r1"', 'Org::"acme"', 'Key::"k1"'):
        text = f'@id("p") permit (principal in {scope}, action, resource);'
        assert ask(text).allowed, scope
    for scope in ('Team::"Role::\\"r1\\""', 'User::"u2"', 'Role::"r\u00f4le\\\\2"', 'Org::"Acme"', 'Key::"k"'):
        text = f'@id("p") permit (principal in {scope}, action, resource);'
        assert not ask(text).allowed, scope


def test_a_key_of_a_user_in_two_teams_stays_in_its_own() -> None:
    two = (*(entity for entity in ENTITIES if entity.uid != U1), Entity(U1, (T1, Uid("Team", 'Role::"r1"'))))
    text = '@id("p") permit (principal in Team::"Role::\\"r1\\"", action, resource);'
    parsed = engine(text).slices.policies
    assert not PolicyEngine(parsed, schema(), two, UTC).decide(BY_K1, "chat", (M1,), context()).allowed


def test_attributes_can_be_asked_for() -> None:
    text = """@id("p") permit (principal is Key, action, resource is Model)
        when { resource has output_price && resource.output_price < 50 }
        when { principal.team == Team::"te\\"am\\n1" };"""
    assert ask(text, BY_K1, M1).allowed
    assert not ask(text, BY_K1, M2).allowed
    assert not ask(text, BY_K1, M3).allowed
    assert not ask(text, BY_K2, M1).allowed


def test_of_several_models_every_one_must_be_allowed() -> None:
    text = PERMIT + '@id("no") forbid (principal, action, resource == Model::"org/m2");'
    assert ask(text, BY_K1, M1, M3) == Verdict(allowed=True, policies=("permit",))
    assert ask(text, BY_K1, M1, M2) == Verdict(allowed=False, policies=("no",), forbidden=True)
    assert not engine(text).decide(BY_K1, "chat", (), context()).allowed


@pytest.mark.parametrize(
    ("action", "resource"),
    [("zork", M1), ("infer", M1), ("chat", T1), ("chat", Uid("Model", "nowhere")), ("key.create", M1)],
)
def test_what_cannot_be_asked_is_denied_with_an_error(action: str, resource: Uid) -> None:
    verdict = engine('@id("all") permit (principal, action, resource);').decide(BY_K1, action, (resource,), context())
    assert (verdict.allowed, len(verdict.errors)) == (False, 1)


def test_a_group_of_actions_reaches_what_is_in_a_group_in_it() -> None:
    text = SCHEMA_FILE.read_text(encoding="utf-8").replace("action infer;", "action work; action infer in [work];")
    policies = engine('@id("p") permit (principal, action in Action::"work", resource);', validated=False).slices.policies
    nested = PolicyEngine(policies, read_schema(CedarText("s", text)), ENTITIES, UTC)
    assert nested.decide(BY_K1, "chat", (M1,), context()).allowed
    assert not nested.decide(BY_K1, "key.rotate", (K1,), ADMIN).allowed


def test_administration_is_the_same_engine() -> None:
    text = """@id("own") permit (principal is User, action == Action::"key.rotate", resource is Key)
        when { principal in resource.team };"""
    assert engine(text).decide(BY_U2, "key.rotate", (K1,), ADMIN) == Verdict(allowed=True, policies=("own",))
    assert not engine(text).decide(BY_U2, "key.rotate", (K2,), ADMIN).allowed
    assert not engine(text).decide(BY_K1, "key.rotate", (K1,), ADMIN).allowed


SHADOW_NO = (
    '@id("no") @mode("shadow") forbid (principal, action == Action::"chat", resource) when { context.spend.org.percent >= 80 };'
)
SHADOW_YES = '@id("yes") @mode("shadow") permit (principal, action == Action::"chat", resource);'
SHADOW_ERR = (
    f'@id("err") @mode("shadow") permit (principal, action == Action::"chat", resource) when {{ {ERRING["overflow"]} }};'
)


@pytest.mark.parametrize(
    ("text", "spend", "allowed", "shadow"),
    [
        (PERMIT + SHADOW_NO, 79, True, ()),
        (PERMIT + SHADOW_NO, 80, True, ("deny:no",)),
        (PERMIT + SHADOW_NO + SHADOW_YES, 79, True, ()),
        (PERMIT + SHADOW_NO + SHADOW_YES, 80, True, ("deny:no",)),
        (SHADOW_YES, 0, False, ("allow:yes",)),
        (SHADOW_YES + SHADOW_NO, 80, False, ("allow:yes",)),
        (SHADOW_NO, 80, False, ()),
    ],
)
def test_shadow_policies_are_recorded_and_decide_nothing(text: str, spend: int, allowed: bool, shadow: tuple[str, ...]) -> None:
    verdict = ask(text, spend=spend)
    assert (verdict.allowed, verdict.shadow, verdict.errors) == (allowed, shadow, ())


def test_a_shadow_policy_that_errs_is_told_and_denies_nothing() -> None:
    verdict = ask(PERMIT + SHADOW_ERR)
    assert (verdict.allowed, verdict.errors) == (True, ())
    assert verdict.shadow[0].startswith("error:error while evaluating policy `err`")


def test_an_engine_that_was_swapped_out_is_let_go() -> None:
    old = engine(PERMIT)
    assert old.decide(BY_K1, "chat", (M1,), context()).allowed
    gone = weakref.ref(old)
    gc.disable()  # by reference count alone: a circle would wait for the collector, and grow with every reload
    try:
        del old
        assert gone() is None
    finally:
        gc.enable()
