from __future__ import annotations

import pytest

from authz.errors import ConfigError
from authz.model import Uid
from authz.policy import CedarText, Effect, Link, LinkError, Mode, Policy, read_schema
from authz.policy.policies import Match
from tests.policy.world import M1, T1, T2, policies

HEAD = '@id("p") permit (principal, action == Action::"chat", resource) '


def one(text: str) -> Policy:
    (policy,) = policies(text)
    return policy


def test_a_policy_has_its_scope_as_data() -> None:
    policy = one("""// why
        @id("research large")
        @mode("shadow")
        @owner("security")
        forbid (
          principal is Key in Team::"research",
          action in [Action::"chat", Action::"respond"],
          resource == Model::"m\\u{31}"
        ) unless { resource in ModelGroup::"g1" && context.stream };""")
    assert policy.id == "research large"
    assert (policy.effect, policy.mode) == (Effect.FORBID, Mode.SHADOW)
    assert policy.principal == Match(type="Key", within=Uid("Team", "research"))
    assert set(policy.actions or ()) == {"chat", "respond"}
    assert not policy.exact
    assert policy.resource == Match(equals=M1)
    assert policy.literals == {Uid("ModelGroup", "g1")}
    assert policy.facts == frozenset({"stream"})
    assert policy.annotations == {"id": "research large", "mode": "shadow", "owner": "security"}
    assert (policy.file, policy.line) == ("test.cedar", 2)


@pytest.mark.parametrize(
    ("condition", "facts"),
    [
        ("true", set()),
        ("context.spend.org.percent > 3 || context.time.hour < 8", {"spend.org", "time.hour"}),
        ("context has time.hour && context.time.hour < 8", {"time", "time.hour"}),
        ("context.time == context.time", {"time"}),
        ("context has source_ip && context.source_ip.isLoopback()", {"source_ip"}),
        ('context["stream"]', {"stream"}),
        ("context has spend.org", {"spend"}),
    ],
)
def test_the_fields_of_the_context_that_a_policy_looks_at_are_known(condition: str, facts: set[str]) -> None:
    assert one(f"{HEAD} when {{ {condition} }};").facts == frozenset(facts)


def test_a_policy_that_takes_the_context_whole_is_given_it_whole() -> None:
    assert one(f"{HEAD} when {{ context == context }};").facts is None


BAD = [
    ("permit (principal, action, resource);", 1, 1, "a policy without an id"),
    ('@id("") permit (principal, action, resource);', 1, 1, "a policy without an id"),
    ('@id("a`b") permit (principal, action, resource);', 1, 1, "printable characters"),
    ('@id("a\\n") permit (principal, action, resource);', 1, 1, "printable characters"),
    ('@id("a") permit (principal, action, resource);\n @id("a") forbid (principal, action, resource);', 2, 2, "already"),
    ('@id("a") @mode("off") permit (principal, action, resource);', 1, 1, "expected `enforce` or `shadow`"),
    ('@id("a")\npermit (principal, action, resource)\nwhen { context.stream >> 3 };', 3, 24, "unexpected token `>`"),
    ('@id("a")\npermit (principal, action, resource)\nwhen { foo(3) };', 3, 8, "`foo` is not a valid function"),
    ('@id("a") permit (principal, action, resource', 1, 37, "unexpected end of input"),
    ('@id("a") permit (principal,\n in Taem::"x", resource);', 2, 5, "unexpected token `Taem`"),
    ('@id("a") permit (\n  principal in Taem::"x",\n  action,\n  resource);', 2, 16, "unrecognized entity type `Taem`"),
    ('@id("a") permit (principal,\n action == Action::"cht", resource);', 2, 20, "unrecognized action"),
    (f"{HEAD}\nwhen {{ context.strm }};", 2, 16, "attribute `strm`"),
    (f"{HEAD}\nwhen {{ context.source_ip.isLoopback() }};", 2, 16, "optional attribute `source_ip`"),
    (f"{HEAD}\nwhen {{ 1 }};", 1, 1, "expected Bool"),
    ('@id("a") permit (principal in Team::"x", action == Action::"chat", resource in Team::"y");', 1, 1, "applicable action"),
]


@pytest.mark.parametrize(("text", "line", "column", "problem"), BAD)
def test_an_error_says_where(text: str, line: int, column: int, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        policies('@id("good") permit (principal, action, resource);\n' + text)
    error = caught.value
    assert problem in error.problem
    assert (error.file, error.line - 1, error.column) == ("test.cedar", line, column)
    assert error.excerpt == text.split("\n")[line - 1]


TEMPLATE = '@id("t") permit (principal in ?principal, action == Action::"chat", resource == ?resource) when { context.stream };'


def test_a_link_is_a_policy_under_its_own_id() -> None:
    link = Link("l1", "t", principal=T1, resource=M1)
    (policy,) = policies(TEMPLATE, link)
    assert (policy.id, policy.template) == ("l1", "t")
    assert (policy.principal, policy.resource) == (Match(within=T1), Match(equals=M1))
    assert policy.facts == frozenset({"stream"})


def test_a_template_without_a_link_is_inert() -> None:
    assert policies(TEMPLATE) == ()


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        (Link("l", "nowhere", T1, M1), "unknown template `nowhere`"),
        (Link("t", "t", T1, M1), "the id `t` is taken already"),
        (Link("", "t", T1, M1), "printable"),
        (Link("l", "t", T1), "has the slots `\\?principal`, `\\?resource`"),
        (Link("l", "t", Uid('Team::"x", action, resource); permit(principal in A', "x"), M1), "not the name of a type"),
        (Link("l", "t", Uid("Taem", "x"), M1), "unrecognized entity type `Taem`"),
        (Link("l", "t", Uid("Model", "x"), M1), "applicable action"),
    ],
)
def test_a_link_that_cannot_be_made_is_refused(link: Link, problem: str) -> None:
    with pytest.raises(LinkError, match=problem) as caught:
        policies(TEMPLATE, Link("good", "t", T2, M1), link)
    assert caught.value.index == 1


@pytest.mark.parametrize(
    ("text", "line", "problem"),
    [
        ("", 0, "an empty schema"),
        ("entity A;\nentity B in [Taem];", 2, "failed to resolve type: Taem"),
        ("entity A;\nentity A;", 1, "`A` is declared twice"),
        ("entity A {\n  x: Long\n};\nzzz", 4, "unexpected token `zzz`"),
    ],
)
def test_a_bad_schema_says_where(text: str, line: int, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_schema(CedarText("s.cedarschema", text))
    assert problem in caught.value.problem
    assert caught.value.line == line
