"""What a decision is: A41 to A45, A47 and A49 of the catalogue, roles, scopes, shadow."""

from __future__ import annotations

import gc
import weakref
from zoneinfo import ZoneInfo

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
    assert verdict == Verdict(False, errors=verdict.errors)
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
        (Entity(Uid("Model", "x")), '^Model::"x": entity does not conform to the schema'),
        (Entity(Uid("Zork", "x")), '^Zork::"x": error during entity deserialization'),
        (Entity(Uid("Team", "x"), (Uid("Role", "r1"),)), '^Team::"x": entity does not conform to the schema'),
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
    assert verdict.errors[0].startswith('the entities of Key::"k1": ')


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
    with pytest.raises(
        SchemaMismatch, match=r"^action `[a-z_.]+` by a (Key|User) on a [A-Z][a-z]+ does not fit: (?!failed to build|None)."
    ):
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


def test_of_several_models_all_that_denies_is_told_and_nothing_else() -> None:
    text = """@id("one") permit (principal, action, resource == Model::"m1");
        @id("two") permit (principal, action, resource) when { resource != Model::"m1" && resource.output_price > 1 };
        @id("b") forbid (principal, action, resource == Model::"org/m2") when { context.stream };
        @id("a") forbid (principal, action, resource == Model::"org/m2") when { context.stream };
        @id("c") @mode("shadow") forbid (principal, action, resource == Model::"m1");"""
    made, told = engine(text, validated=False), list[bool]()

    def asked(*models: Uid, stream: bool = False) -> Verdict:
        return made.decide(BY_K1, "chat", models, context(stream=stream), told.append)

    assert asked(M2, M1) == Verdict(True, ("one", "two"), shadow=("deny:c",))
    assert asked(M2, M1, stream=True) == Verdict(False, ("a", "b"), forbidden=True, shadow=("deny:c",))
    assert asked(M1, stream=True) == Verdict(True, ("one",), shadow=("deny:c",))
    assert told == [False, False, False, True, True]  # once for each model; nothing that is in reach of m1 looks at `stream`
    both = asked(M3, M2, stream=True)
    assert (both.allowed, both.policies, both.forbidden, len(both.errors)) == (False, ("a", "b"), True, 1)
    erring = asked(M3, M1)
    assert (erring.allowed, erring.policies, erring.forbidden) == (False, (), False)
    assert erring.errors == asked(M3).errors
    assert "policy `two`" in erring.errors[0]


@pytest.mark.parametrize(
    ("principal", "action", "resource", "problem"),
    [
        (BY_K1, "zork", M1, 'Key::"k1" cannot ask for `zork` on Model::"m1"'),
        (BY_K1, "infer", M1, 'Key::"k1" cannot ask for `infer` on Model::"m1"'),
        (BY_K1, "chat", ORG, 'Key::"k1" cannot ask for `chat` on Org::"acme"'),
        (BY_K1, "key.create", M1, 'Key::"k1" cannot ask for `key.create` on Model::"m1"'),
        (BY_K1, "chat", Uid("Model", "nowhere"), 'unknown resource Model::"nowhere"'),
        (
            Principal(uid=Uid("Role", "r1"), organisation=ORG, team=T1, user=None, roles=()),
            "chat",
            M1,
            'Role::"r1" cannot ask for `chat` on Model::"m1"',
        ),
    ],
)
def test_what_cannot_be_asked_is_denied_with_an_error(principal: Principal, action: str, resource: Uid, problem: str) -> None:
    made = engine('@id("all") permit (principal, action, resource) when { context == context };')
    assert made.decide(principal, action, (resource,), context()) == Verdict(False, errors=(problem,))
    assert not made.reads_quotas(principal, action, resource)
    assert made.in_reach(principal, action, resource) == ()


@pytest.mark.parametrize(
    ("condition", "reads"),
    [
        ("context.spend.org.percent < 80", True),
        ("context.window.key.percent < 80", True),
        ("context has spend", True),
        ("context == context", True),
        ("context.stream && context.time.hour > 3", False),
        ("true", False),
    ],
)
def test_how_full_the_quotas_are_is_found_out_only_where_a_policy_in_reach_looks(condition: str, reads: bool) -> None:
    made = engine(f'@id("p") permit (principal, action, resource == Model::"m1") when {{ {condition} }};', validated=False)
    assert made.reads_quotas(BY_K1, "chat", M1) is reads
    assert not made.reads_quotas(BY_K1, "chat", M2)


def test_a_group_of_actions_reaches_what_is_in_a_group_in_it() -> None:
    text = SCHEMA_FILE.read_text(encoding="utf-8").replace("action infer;", "action work; action infer in [work];")
    policies = engine('@id("p") permit (principal, action in Action::"work", resource);', validated=False).slices.policies
    nested = PolicyEngine(policies, read_schema(CedarText("s", text)), ENTITIES, UTC)
    assert nested.decide(BY_K1, "chat", (M1,), context()).allowed
    assert not nested.decide(BY_K1, "key.rotate", (K1,), ADMIN).allowed


def test_the_time_of_day_is_that_of_the_organisations_zone() -> None:
    text = '@id("p") permit (principal, action == Action::"chat", resource) when { context.time.hour == 9 };'
    policies = engine(text).slices.policies
    for zone, allowed in (("Asia/Tokyo", True), ("UTC", False)):
        made = PolicyEngine(policies, schema(), ENTITIES, ZoneInfo(zone))
        assert made.decide(BY_K1, "chat", (M1,), context(now_s=0)).allowed is allowed


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


def test_where_no_shadow_could_change_the_answer_none_is_told() -> None:
    forbid = '@id("never") forbid (principal, action, resource);'
    for text in (PERMIT + forbid + SHADOW_YES + SHADOW_ERR, forbid + SHADOW_NO + SHADOW_YES):
        assert ask(text, spend=80) == Verdict(False, ("never",), forbidden=True)


def test_of_the_lack_of_a_permit_the_errors_of_shadow_permits_are_told() -> None:
    verdict = ask(SHADOW_ERR + SHADOW_YES + SHADOW_YES.replace('"yes"', '"also"'))
    assert (verdict.allowed, verdict.errors, verdict.shadow[:2]) == (False, (), ("allow:also", "allow:yes"))
    assert verdict.shadow[2].startswith("error:error while evaluating policy `err`")
    assert len(verdict.shadow) == 3


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
