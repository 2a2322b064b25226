"""What is wrong with policies and links: everything, in words, and at its place."""

from __future__ import annotations

from typing import Any

import pytest

from authz.errors import ConfigError
from authz.model import Uid
from authz.policy import CedarText, Link, LinkError, Mode, Policy, cedar, read_schema
from authz.policy import policies as policies_module
from authz.policy.policies import Match, literal, parse_policies, policy_problems
from tests.policy.world import M1, T1, policies, schema


def rule(name: str, tail: str = "") -> str:
    return f'@id("{name}") permit (principal, action == Action::"chat", resource){tail};'


def problems(*texts: str) -> list[tuple[str, int, int, str]]:
    sources = [CedarText(f"f{number}.cedar", text) for number, text in enumerate(texts)]
    return [(error.file, error.line, error.column, error.problem) for error in policy_problems(sources, schema())]


def test_all_that_is_wrong_is_told_and_not_only_the_first() -> None:
    alike = rule("a", " when { context.strm }") + "\n" + rule("b", " when { context.strm && context.nope }")
    assert problems("permit(principal", '"', alike, rule("good")) == [
        ("f0.cedar", 1, 8, "unexpected end of input"),
        ("f1.cedar", 1, 1, "this string has no end"),
        ("f2.cedar", 1, 80, 'attribute `strm` in context for Action::"chat" not found'),
        ("f2.cedar", 2, 80, 'attribute `strm` in context for Action::"chat" not found'),
        ("f2.cedar", 2, 96, 'attribute `nope` in context for Action::"chat" not found'),
    ]


def test_what_is_wrong_only_together_is_told_too() -> None:
    assert problems(rule("a"), "\n " + rule("b") + "\n " + rule("a")) == [
        ("f1.cedar", 3, 2, "the id `a` stands at f0.cedar:1 already")
    ]
    assert problems(rule("a", "") + "permit (principal, action, resource);")[0][:3] == ("f0.cedar", 1, len(rule("a")) + 1)
    assert problems() == problems("// nothing") == problems(rule("a")) == []


def test_without_a_schema_what_parses_is_right() -> None:
    text = CedarText("f", rule("a", " when { context.strm }"))
    assert list(policy_problems([text], None)) == []
    assert [policy.id for policy in parse_policies([text])] == ["a"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (  # what follows from a name that does not exist is not told
            '@id("a") permit (principal == Taem::"x", action == Action::"cht", resource);',
            {(1, 31, "unrecognized entity type `Taem`"), (1, 60, 'unrecognized action `Action::"cht"`')},
        ),
        (  # alone it is
            '@id("a") permit (principal in Team::"x", action == Action::"chat", resource in Team::"y");',
            {(1, 1, "unable to find an applicable action given the policy scope constraints")},
        ),
        (
            rule("a", " when { context.spend.orgs }"),
            {(1, 86, 'attribute `spend.orgs` in context for Action::"chat" not found')},
        ),
        (
            rule("a", " when { context.spend.org.cents > 3 }"),
            {(1, 90, 'attribute `spend.org.cents` in context for Action::"chat" not found')},
        ),
        ('@id("a") premit (principal, action, resource);', {(1, 10, "invalid policy effect: premit")}),
        (rule("a", " wen { true }"), {(1, 65, "invalid policy condition: wen")}),
        ('@id("a") @id("b") permit (principal, action, resource);', {(1, 2, "duplicate annotation: @id")}),
        (
            '@id("a") permit (principal, action == Action :: "cht", resource);',
            {(1, 49, 'unrecognized action `Action::"cht"`')},
        ),
        (rule("a", " when { 1 + true > 2 }"), {(1, 1, "unexpected type: expected Long but saw __cedar::internal::True")}),
        (
            '@id("a") permit (principal == ?principal, action == Action::"chat" resource);',
            {(1, 68, "unexpected token `resource`")},
        ),
    ],
)
def test_a_problem_is_told_once_at_its_place(text: str, found: set[tuple[int, int, str]]) -> None:
    told = [problem[1:] for problem in problems(text)]
    assert set(told) == found
    assert len(told) == len(found)


def test_a_problem_without_a_place_is_the_first_files(monkeypatch: pytest.MonkeyPatch) -> None:
    said = [("policy1", "here"), ("policy2", "beyond"), ("", "why")]
    monkeypatch.setattr(cedar, "validate", lambda *_: said)
    assert problems(rule("a"), rule("b")) == [
        ("f0.cedar", 0, 0, "why"),
        ("f0.cedar", 0, 0, "beyond"),
        ("f1.cedar", 1, 1, "here"),
    ]


def test_what_the_guard_cuts_and_what_cedar_reads_must_be_the_same_policies(monkeypatch: pytest.MonkeyPatch) -> None:
    both = [CedarText("a", rule("a")), CedarText("b", rule("b"))]
    trees = cedar.syntax(rule("a"))
    monkeypatch.setattr(cedar, "syntax", lambda text: trees)
    with pytest.raises(ConfigError, match=r"^a: 1 policies where 2 were expected$"):
        parse_policies(both)

    def refuse(text: str) -> dict[str, Any]:
        if text.count("@id") > 1:
            raise cedar.CedarError("together only")
        return trees

    monkeypatch.setattr(cedar, "syntax", refuse)
    with pytest.raises(ConfigError, match=r"^a: together only$"):
        parse_policies(both)


@pytest.mark.parametrize("place", ["principal", "action", "resource"])
def test_a_scope_of_a_new_kind_is_refused_and_not_passed_over(place: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (tree,) = cedar.syntax(rule("a")).values()
    for odd in (
        {"op": "near", "entity": {"type": "A", "id": "a"}},
        {"op": "is", "entity_type": "A", "in": {"slot": "?principal"}},
    ):
        monkeypatch.setattr(cedar, "syntax", lambda _, odd=odd: {"policy0": tree | {place: odd}})
        with pytest.raises(ConfigError, match="scope of a kind that is not known here: ") as caught:
            parse_policies([CedarText("a", rule("a"))])
        assert (caught.value.line, caught.value.column) == (1, 1)


SCOPES = [
    ("", Match()),
    ('== Team::"x"', Match(equals=Uid("Team", "x"))),
    ('in Team::"x"', Match(within=Uid("Team", "x"))),
    ("is Team", Match(type="Team")),
    ('is Key in Team::"x"', Match(type="Key", within=Uid("Team", "x"))),
]


@pytest.mark.parametrize(("scope", "match"), SCOPES)
def test_every_kind_of_scope_is_read(scope: str, match: Match) -> None:
    for text, found in (
        (f"principal {scope}, action, resource", (match, Match())),
        (f"principal, action, resource {scope}", (Match(), match)),
    ):
        (policy,) = parse_policies([CedarText("a", f'@id("a") forbid ({text});')])
        assert (policy.principal, policy.resource) == found
        assert (policy.actions, policy.exact, policy.annotations) == (None, False, {"id": "a"})


@pytest.mark.parametrize(
    ("scope", "actions", "exact"),
    [
        ("", None, False),
        ('== Action::"a"', ("a",), True),
        ('in Action::"a"', ("a",), False),
        ('in [Action::"a", Action::"b"]', ("a", "b"), False),
        ("in []", (), False),
    ],
)
def test_every_kind_of_action_is_read(scope: str, actions: tuple[str, ...] | None, exact: bool) -> None:
    (policy,) = parse_policies([CedarText("a", f'@id("a") @why permit (principal, action {scope}, resource);')])
    assert (None if policy.actions is None else tuple(sorted(policy.actions)), policy.exact) == (actions, exact)
    assert policy.annotations == {"id": "a", "why": ""}


@pytest.mark.parametrize(
    ("head", "problem"),
    [
        ("", 'a policy without an id, expected `@id("…")` before it: decisions are explained by it'),
        ("@id", 'a policy without an id, expected `@id("…")` before it: decisions are explained by it'),
        ('@id("' + "x" * 201 + '")', f"the id '{'x' * 201}', expected at most 200 printable characters"),
        ('@id("a\\tb")', "the id 'a\\tb', expected at most 200 printable characters"),
        ('@id("a`b")', "the id 'a`b', expected at most 200 printable characters"),
        ('@id("a") @mode("off")', '`@mode("off")`, expected `enforce` or `shadow`'),
        ('@id("a") @mode', '`@mode("None")`, expected `enforce` or `shadow`'),
    ],
)
def test_a_policy_needs_an_id_and_a_mode_that_is_known(head: str, problem: str) -> None:
    for scope in ("principal", "principal == ?principal"):  # a template too
        with pytest.raises(ConfigError) as caught:
            parse_policies([CedarText("f", f"{head} permit ({scope}, action, resource);")])
        assert (caught.value.file, caught.value.line, caught.value.problem) == ("f", 1, problem)


@pytest.mark.parametrize(
    ("mode", "found"), [("", Mode.ENFORCE), ('@mode("enforce")', Mode.ENFORCE), ('@mode("shadow")', Mode.SHADOW)]
)
def test_an_id_may_have_200_characters_and_a_mode_is_to_enforce_if_nothing_is_said(mode: str, found: Mode) -> None:
    (policy,) = parse_policies([CedarText("f", f'{mode} @id("{"x" * 200}") permit (principal, action, resource);')])
    assert (policy.id, policy.mode) == ("x" * 200, found)


def test_the_policies_of_a_bundle_are_bounded_links_included(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(policies_module, "MAX_POLICIES", 4)
    sources = [CedarText("a", TEMPLATE + rule("x")), CedarText("b", rule("y"))]
    links = [Link(f"l{number}", "t", T1, M1) for number in range(2)]
    assert [policy.id for policy in parse_policies(sources, links[:1])] == ["x", "y", "l0"]
    with pytest.raises(ConfigError, match=r"^b: more than 4 policies in the bundle$"):
        parse_policies(sources, links)


# ---- links

TEMPLATE = '// why\n@id("t") @owner("s") permit (principal in ?principal, action == Action::"chat", resource == ?resource);'


def test_a_link_is_the_templates_own_text_with_its_slots_filled() -> None:
    text = TEMPLATE + " // more"
    first, second = policies(text, Link("l" * 200, "t", T1, M1), Link("é", "t", Uid("Team", 'a"\\ b'), Uid("Model", "x/é\n")))
    assert first.text == (
        f'@id("t") @owner("s") permit (principal in {literal(T1)}, action == Action::"chat", resource == Model::"m1");'
    )
    assert second.text == (
        '@id("t") @owner("s") permit (principal in Team::"a\\u{22}\\u{5c}\\u{20}b", action == Action::"chat", '
        'resource == Model::"x\\u{2f}\\u{e9}\\u{a}");'
    )
    assert (second.principal, second.resource) == (Match(within=Uid("Team", 'a"\\ b')), Match(equals=Uid("Model", "x/é\n")))
    for policy, name in ((first, "l" * 200), (second, "é")):
        assert (policy.id, policy.template, policy.file, policy.line) == (name, "t", "test.cedar", 2)
        assert policy.annotations == {"id": "t", "owner": "s"}


def test_a_type_in_a_namespace_can_stand_in_a_slot() -> None:
    (policy,) = parse_policies(
        [CedarText("f", '@id("t") permit (principal == ?principal, action, resource);')], [Link("l", "t", Uid("A::B", "x"))]
    )
    assert policy.principal == Match(equals=Uid("A::B", "x"))


@pytest.mark.parametrize(
    ("link", "problem"),
    [
        (Link("l", "nowhere", T1, M1), "unknown template `nowhere`"),
        (Link("l", "x", T1, M1), "unknown template `x`"),  # a policy is none
        (Link("", "t", T1, M1), "the id '', expected at most 200 printable characters"),
        (Link("l" * 201, "t", T1, M1), f"the id '{'l' * 201}', expected at most 200 printable characters"),
        (Link("a`b", "t", T1, M1), "the id 'a`b', expected at most 200 printable characters"),
        (Link("a\n", "t", T1, M1), "the id 'a\\n', expected at most 200 printable characters"),
        (Link("t", "t", T1, M1), "the id `t` is taken already"),
        (Link("x", "t", T1, M1), "the id `x` is taken already"),
        (Link("good", "t", T1, M1), "the id `good` is taken already"),
        (Link("l", "t", T1), "template `t` has the slots `?principal`, `?resource`"),
        (Link("l", "t", None, M1), "template `t` has the slots `?principal`, `?resource`"),
        (Link("l", "one", T1, M1), "template `one` has the slots `?principal`"),
        (Link("l", "t", Uid("A b", "x"), M1), "?principal: `A b` is not the name of a type"),
        (Link("l", "t", T1, Uid("A::", "x")), "?resource: `A::` is not the name of a type"),
        (Link("l", "t", Uid("if", "x"), M1), 'unexpected token `"x"`'),  # a word of Cedar's own
    ],
)
def test_a_link_that_cannot_be_made_is_named_by_its_place_and_in_words(link: Link, problem: str) -> None:
    text = TEMPLATE + rule("x") + '@id("one") permit (principal == ?principal, action, resource);'
    good = [Link("good", "t", T1, M1), Link("better", "one", T1)]
    with pytest.raises(LinkError) as caught:
        parse_policies([CedarText("f", text)], [*good, link])
    assert (caught.value.index, str(caught.value)) == (2, problem)


def test_a_link_that_the_validator_refuses_is_named_by_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    links = [Link("a", "t", T1, M1), Link("b", "t", Uid("Model", "x"), M1)]
    with pytest.raises(LinkError, match=r"^unable to find an applicable action") as caught:
        policies(TEMPLATE, *links)
    assert caught.value.index == 1
    monkeypatch.setattr(cedar, "validate", lambda text, _: [("", "why")] if literal(T1) in text else [])
    with pytest.raises(LinkError, match=r"^why$") as caught:
        policies(TEMPLATE, *links)
    assert caught.value.index == 0


# ---- the schema


@pytest.mark.parametrize(
    ("text", "line", "column", "problem"),
    [
        ("", 0, 0, "an empty schema: nothing could be checked against it"),
        (" \n", 0, 0, "an empty schema: nothing could be checked against it"),
        ("entity A;\nentity B in [Taem, Zork];\nentity C in [Taem];", 2, 14, "failed to resolve types: Taem, Zork"),
        ("entity A;\nentity B in N::C;\nentity D in N::C;", 2, 13, "failed to resolve type: N::C"),
        ("namespace N { entity A; }\nentity A;", 1, 1, "definition of `N::A` illegally shadows the existing definition of `A`"),
        ("entity A { x: Zork, y: Zork };", 1, 15, "failed to resolve type: Zork"),
        ("entity A {\n x: Long", 2, 5, "unexpected end of input"),
        ('entity A; action "x", "x" appliesTo { principal: A, resource: A };', 1, 18, "`x` is declared twice"),
        ("entity A;\nentity A in A A;", 2, 15, "unexpected token `A`"),
        ('entity A { "x y": Set<Long, "x y": Long };', 1, 27, "unexpected token `,`"),
        ("// one;\nentity A;;", 2, 10, "unexpected token `;`"),
        ("entity A;\n action x in [y];", 1, 1, 'undeclared action: Action::"y"'),
    ],
)
def test_a_bad_schema_is_told_at_its_place(text: str, line: int, column: int, problem: str) -> None:
    with pytest.raises(ConfigError) as caught:
        read_schema(CedarText("s", text))
    error = caught.value
    assert (error.file, error.line, error.column, error.problem) == ("s", line, column, problem)


def test_every_field_of_a_policy_that_cedar_has_read() -> None:
    text = rule("a", ' when { principal in ModelGroup::"g" && context.stream }')
    (policy,) = parse_policies([CedarText("f", "\n" + text)])
    assert policy == Policy(
        id="a",
        effect=policies_module.Effect.PERMIT,
        mode=Mode.ENFORCE,
        principal=Match(),
        actions=("chat",),
        exact=True,
        resource=Match(),
        literals=frozenset({Uid("ModelGroup", "g")}),
        facts=frozenset({"stream"}),
        annotations={"id": "a"},
        text=text,
        file="f",
        line=2,
    )
