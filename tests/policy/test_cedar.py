"""The one importer of cedarpy: what it gives, and that nothing but `CedarError` comes out of it."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import cedarpy
import pytest

from authz.model import Uid
from authz.policy import cedar
from authz.policy.cedar import Answer, CedarError

SCHEMA = cedar.parse_schema("""
    entity A in [B];
    entity B;
    action x, y in [h] appliesTo { principal: A, resource: A, context: { n: Long } };
    action h in [g];
    action g;
""")
ALL = "permit (principal, action, resource);"
LONE = 'permit (principal, action, resource) when { "\ud800" == "" };'
"""Half of a surrogate pair: no text that could be handed over."""


def request(context: str = '{"n": 1}') -> cedar.Json:
    own = cedar.uid(Uid("A", "a"))
    return {"principal": own, "action": {"type": "Action", "id": "x"}, "resource": own, "context": context}


def asked(text: str, context: str = '{"n": 1}', schema: cedar.Schema | None = None) -> Answer:
    return cedar.authorise(request(context), cedar.parse_policies(text), cedar.parse_entities("[]", SCHEMA), schema)


def test_an_answer_has_the_decision_the_policies_and_every_error() -> None:
    erring = "forbid (principal, action, resource) when { context.n + 9223372036854775807 > 0 };"
    assert asked(ALL) == Answer(True, ["policy0"], [])
    assert asked("") == Answer(False, [], [])
    assert asked(f"{ALL} forbid (principal, action, resource);") == Answer(False, ["policy1"], [])
    allowed, policies, errors = asked(ALL + erring)
    assert (allowed, policies, len(errors)) == (True, ["policy0"], 1)  # Cedar skips it: the engine must not


def test_with_a_schema_the_request_is_checked_too() -> None:
    assert asked(ALL, '{"n": "s"}').allowed
    allowed, policies, errors = asked(ALL, '{"n": "s"}', SCHEMA)
    assert (allowed, policies) == (False, [])
    assert "is not valid for" in errors[0]


@pytest.mark.parametrize(
    ("decision", "errors", "answer"),
    [
        (cedarpy.Decision.NoDecision, [], Answer(False, [], ["cedar gave no decision"])),
        (cedarpy.Decision.NoDecision, ["why"], Answer(False, [], ["why"])),
        (cedarpy.Decision.Deny, [], Answer(False, [], [])),
        (cedarpy.Decision.Allow, [], Answer(True, [], [])),
    ],
)
def test_no_decision_is_an_error_whatever_is_said_with_it(
    decision: object, errors: list[str], answer: Answer, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = SimpleNamespace(decision=decision, diagnostics=SimpleNamespace(reasons=[], errors=errors))
    monkeypatch.setattr(cedarpy, "is_authorized", lambda *_: said)
    assert asked(ALL) == answer


@pytest.mark.parametrize(
    ("call", "problem"),
    [
        (lambda: cedar.parse_policies("permit("), "^unexpected end of input$"),
        (lambda: cedar.parse_schema("entity A in [Z];"), "^failed to resolve type: Z$"),
        (lambda: cedar.parse_schema("zork"), "^unexpected token `zork`$"),
        (lambda: cedar.parse_entities("[", SCHEMA), "^error during entity deserialization$"),
        (lambda: cedar.syntax("permit("), "^unexpected end of input$"),
        (
            lambda: cedar.syntax(f"permit (principal, action, resource) when {{ true{' && true' * 900} }};"),
            "^nested too deeply to read$",
        ),
        (lambda: cedar.formatted("permit(", 100, 2), "^cannot parse input policies$"),
        (lambda: cedar.parse_policies(LONE), "surrogates not allowed"),
        (lambda: cedar.parse_schema(LONE), "surrogates not allowed"),
        (lambda: cedar.parse_entities(LONE, SCHEMA), "surrogates not allowed"),
        (lambda: cedar.syntax(LONE), "surrogates not allowed"),
        (lambda: cedar.formatted(LONE, 100, 2), "surrogates not allowed"),
        (lambda: cedar.validate(LONE, SCHEMA), "surrogates not allowed"),
    ],
)
def test_what_cedar_refuses_is_said_in_its_own_words(call: Callable[[], object], problem: str) -> None:
    with pytest.raises(CedarError, match=problem):
        call()


def test_an_error_without_words_is_told_as_one(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise ValueError

    monkeypatch.setattr(cedarpy, "policies_to_json_str", refuse)
    with pytest.raises(CedarError, match=r"^refused without a reason$"):
        cedar.syntax(ALL)


def test_the_groups_of_an_action_are_all_those_above_it() -> None:
    chain = "action a0;" + "".join(f"action a{place + 1} in [a{place}];" for place in range(400))
    deep = cedar.action_groups(cedar.parse_schema(chain))
    assert cedar.action_groups(SCHEMA) == {"x": {"g", "h"}, "y": {"g", "h"}, "h": {"g"}, "g": set()}
    assert deep["a400"] == {f"a{place}" for place in range(400)}


def test_policies_and_templates_are_found_by_their_place() -> None:
    trees = cedar.syntax(f"{ALL} permit (principal == ?principal, action, resource); forbid (principal, action, resource);")
    assert sorted(trees) == ["policy0", "policy1", "policy2"]
    assert [trees[f"policy{place}"]["effect"] for place in range(3)] == ["permit", "permit", "forbid"]
    assert trees["policy1"]["principal"] == {"op": "==", "slot": "?principal"}


def test_a_text_is_laid_out_as_wide_and_as_deep_as_is_asked() -> None:
    text = 'permit (principal, action == Action::"x", resource) when { context.n > 3 && context.n < 9 };'
    assert "\nwhen { context.n > 3 && context.n < 9 };" in cedar.formatted(text, 120, 8)
    narrow = cedar.formatted(text, 30, 8)
    assert "\n        context.n > 3 &&\n        context.n < 9\n" in narrow


def test_the_validator_says_which_policy_and_what() -> None:
    fine = 'permit (principal, action == Action::"x", resource) when { context.n > 3 };'
    assert cedar.validate(fine, SCHEMA) == []
    assert cedar.validate(fine + fine.replace("context.n", "context.m"), SCHEMA) == [
        ("policy1", 'attribute `m` in context for Action::"x" not found')
    ]
    assert cedar.validate("permit(", SCHEMA) == [("", "Policy parse error: unexpected end of input")]


@pytest.mark.parametrize(("passed", "found"), [(True, []), (False, [("", "the policies do not validate")])])
def test_what_does_not_validate_is_told_even_without_an_error(
    passed: bool, found: list[tuple[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cedarpy, "validate_policies", lambda *_: SimpleNamespace(errors=[], validation_passed=passed))
    assert cedar.validate(ALL, SCHEMA) == found


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ([], set()),
        ([{"__entity": {"type": "A", "id": "a"}}], {Uid("A", "a")}),
        (
            {"x": [{"y": {"__entity": {"type": "A", "id": "a"}}}, {"__entity": {"type": "B", "id": ""}}]},
            {Uid("A", "a"), Uid("B", "")},
        ),
        (
            [{"__entity": {"type": "A"}}, {"__entity": {"id": "a"}}, {"__entity": "A"}, {"__entity": {"type": 1, "id": "a"}}],
            set(),
        ),
        ([{"__entity": {"type": "A", "id": 1}}, {"entity": {"type": "A", "id": "a"}}, "__entity", None, 3], set()),
    ],
)
def test_every_entity_that_conditions_name_is_found(conditions: Any, found: set[Uid]) -> None:
    assert cedar.entity_literals(conditions) == found


CONTEXT = {"Var": "context"}


@pytest.mark.parametrize(
    ("conditions", "found"),
    [
        ([], set()),
        ([CONTEXT], None),
        ([{"==": {"left": {"Value": 1}, "right": CONTEXT}}], None),
        ([{"Var": "principal"}, {"Value": "context"}], set()),
        ([{".": {"left": CONTEXT, "attr": "stream"}}], {"stream"}),
        ([{"has": {"left": CONTEXT, "attr": "stream"}}], {"stream"}),
        ([{"like": {"left": CONTEXT, "attr": "stream"}}], None),
        ([{".": {"left": {"Var": "principal"}, "attr": "stream"}}], set()),
        ([{".": {"left": {".": {"left": CONTEXT, "attr": "time"}}, "attr": "hour"}}], {"time.hour"}),
        ([{"has": {"left": {".": {"left": CONTEXT, "attr": "time"}}, "attr": "hour"}}], {"time"}),
        ([{".": {"left": {"has": {"left": CONTEXT, "attr": "time"}}, "attr": "hour"}}], {"time"}),
        ([{".": [CONTEXT]}], None),  # of a form that Cedar does not write
        ([{".": [{"has": {"left": CONTEXT, "attr": "a"}}]}, {".": {"left": ["context"], "attr": "a"}}], {"a"}),
        ([{"Set": [{".": {"left": CONTEXT, "attr": "a"}}, [{".": {"left": CONTEXT, "attr": "b"}}]]}], {"a", "b"}),
        ([{".": {"left": {".": {"left": {".": {"left": CONTEXT, "attr": "a"}}, "attr": "b"}}, "attr": "c"}}], {"a.b"}),
    ],
)
def test_the_fields_that_conditions_look_at_are_found_or_else_all_are(conditions: Any, found: set[str] | None) -> None:
    assert cedar.context_fields(conditions) == found


def test_names_are_quoted_one_after_the_other() -> None:
    assert cedar.quoted(["a", "b"]) == "`a`, `b`"
    assert cedar.quoted([]) == ""
