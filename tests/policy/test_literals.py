"""What a policy's conditions look at and compare: where an answer can change, as the reviews see it."""

from __future__ import annotations

import json

import pytest

from authz.policy import CedarText
from authz.policy.literals import FACTS, INTEGERS, Reading, Tree, readings, sums
from authz.policy.policies import parse_policies


def read(condition: str) -> Reading:
    text = f'@id("a") permit (principal, action, resource) when {{ {condition} }};'
    (reading,) = readings(parse_policies([CedarText("f", text)]))
    return reading


def fact(name: str) -> Tree:
    tree: Tree = {"Var": "context"}
    for part in name.split("."):
        tree = {".": {"left": tree, "attr": part}}
    return tree


SPENDS = {f"spend.{scope}.percent" for scope in ("org", "team", "user", "key")}
TIME = {"time.epoch_s", "time.date", "time.hour", "time.minute", "time.weekday"}


@pytest.mark.parametrize(
    ("condition", "facts", "opaque", "context_only"),
    [
        ("true", set(), False, True),
        ("context.stream && !context.tools", {"stream", "tools"}, False, True),
        ("context.spend.org.percent >= 80", {"spend.org.percent"}, False, True),
        ("context.window.key.percent >= 80", {"window.key.percent"}, False, True),
        ('context.endpoint like "a*"', {"endpoint"}, False, True),
        (
            "if context.stream then context.time.hour > 2 else context.time.minute > 1",
            {"stream", "time.hour", "time.minute"},
            False,
            True,
        ),
        # whether an address is there is a fact; whether anything else is there never changes
        ("context has source_ip", {"source_ip"}, False, True),
        ("context has spend", set(), False, True),
        ("context has spend.org", set(), False, True),
        ("context has spend && context.stream", {"stream"}, False, True),
        ("context.stream && context has spend", {"stream"}, False, True),
        ("context.stream && context has source_ip", {"stream", "source_ip"}, False, True),
        # as a whole
        ("context.time == context.time", TIME, True, True),
        ("context.spend == context.spend", SPENDS, True, True),
        ("context.spend.org == context.spend.team", {"spend.org.percent", "spend.team.percent"}, True, True),
        ("context == context && context.stream", FACTS, True, True),
        # beyond the context
        ("principal == resource", set(), False, False),
        ('principal in Team::"t" && context.stream', {"stream"}, False, False),
        ('context.stream && Team::"t" == Team::"u"', {"stream"}, False, False),
        ("resource.output_price < context.input_tokens", {"input_tokens"}, False, False),
        ("principal has team && context.tools", {"tools"}, False, False),
        ('action == Action::"chat"', set(), False, False),
    ],
)
def test_the_facts_that_a_policy_looks_at(condition: str, facts: set[str], opaque: bool, context_only: bool) -> None:
    found = read(condition)
    assert (set(found.facts), found.opaque, found.context_only) == (set(facts), opaque, context_only)


@pytest.mark.parametrize(
    ("condition", "comparisons"),
    [
        ("true", []),
        *((f"context.time.hour {sign} 8", [(fact("time.hour"), {"Value": 8})]) for sign in ("<", "<=", ">", ">=", "==", "!=")),
        ("8 < context.time.hour", [({"Value": 8}, fact("time.hour"))]),
        ("context.time.hour + 8 > 9", [({"+": {"left": fact("time.hour"), "right": {"Value": 8}}}, {"Value": 9})]),
        ("context.stream == true && context.tools", [(fact("stream"), {"Value": True})]),
        (
            '["a", "b"].contains(context.endpoint)',
            [({"Value": "a"}, fact("endpoint")), ({"Value": "b"}, fact("endpoint"))],
        ),
        (
            '["a", "b"].containsAll([context.endpoint, "c"])',
            [({"Value": left}, right) for left in "ab" for right in (fact("endpoint"), {"Value": "c"})],
        ),
        ('["a"].containsAny([context.endpoint])', [({"Value": "a"}, fact("endpoint"))]),
        (
            "resource.tags.containsAny([context.endpoint])",
            [({".": {"left": {"Var": "resource"}, "attr": "tags"}}, fact("endpoint"))],
        ),
        ('principal in [Team::"t"] && context.time.hour < 8', [(fact("time.hour"), {"Value": 8})]),
        ("!(context.time.hour < 8 || 1 == 2)", [(fact("time.hour"), {"Value": 8}), ({"Value": 1}, {"Value": 2})]),
    ],
)
def test_what_a_policy_compares(condition: str, comparisons: list[tuple[Tree, Tree]]) -> None:
    def in_order(pairs: object) -> list[str]:
        assert isinstance(pairs, tuple | list)
        return sorted(json.dumps(pair, sort_keys=True) for pair in pairs)

    assert in_order(read(condition).comparisons) == in_order(comparisons)


@pytest.mark.parametrize(
    ("condition", "networks"),
    [
        ('context has source_ip && context.source_ip.isInRange(ip("10.0.0.0/8"))', {"10.0.0.0/8"}),
        (
            'context has source_ip && (context.source_ip == ip("::1") || context.source_ip == ip("10.0.0.1"))',
            {"::1", "10.0.0.1"},
        ),
        ('context.endpoint == "10.0.0.1"', set()),
        ('decimal("1.0").lessThan(decimal("2.0"))', set()),
    ],
)
def test_the_networks_that_a_policy_names(condition: str, networks: set[str]) -> None:
    assert read(condition).networks == networks


ATTRIBUTES = {"output_price": 10, "context_tokens": 1000}


@pytest.mark.parametrize(
    ("condition", "linear"),
    [
        ("context.time.hour < 8", {"time.hour": 1, "": -8}),
        ("8 < context.time.hour", {"time.hour": -1, "": 8}),
        ("-context.time.hour < 8", {"time.hour": -1, "": -8}),
        ("-(context.time.hour + 2) < 8", {"time.hour": -1, "": -10}),
        ("context.time.hour + 3 < context.time.minute", {"time.hour": 1, "time.minute": -1, "": 3}),
        ("context.time.hour - 3 < 4 - context.time.minute", {"time.hour": 1, "time.minute": 1, "": -7}),
        ("3 * context.time.hour < 8", {"time.hour": 3, "": -8}),
        ("context.time.hour * 3 < 8", {"time.hour": 3, "": -8}),
        ("(context.time.hour + context.time.minute + 2) * 3 < 8", {"time.hour": 3, "time.minute": 3, "": -2}),
        ("context.time.hour * 0 + context.time.minute < 8", {"time.hour": 0, "time.minute": 1, "": -8}),
        ("context.input_tokens < resource.context_tokens", {"input_tokens": 1, "": -1000}),
        ("context.input_tokens * resource.output_price < 7", {"input_tokens": 10, "": -7}),
        ("[3].contains(context.time.hour)", {"": 3, "time.hour": -1}),
    ],
)
def test_a_comparison_of_integers_is_a_sum_that_is_nothing_where_it_changes(condition: str, linear: dict[str, int]) -> None:
    found, complete = sums(read(condition), ATTRIBUTES)
    assert complete
    assert [dict(each) for each in found] == [linear]


@pytest.mark.parametrize(
    ("condition", "complete"),
    [
        ("true", True),
        ("context.stream == true", True),  # no integers
        ('context.endpoint == "a"', True),
        ("context.stream == context.tools", True),
        ("context.time.hour == true", False),  # no schema has been asked
        ("1 < 2", True),  # nothing that could change
        ("context.time.hour * 0 < 8", True),
        ("context.time.hour - context.time.hour < 8", True),
        ("resource.nowhere < 8", True),  # none of our facts
        ("true == (1 < 2)", True),
        ("context.input_tokens * context.max_output_tokens < 8", False),
        ("context.input_tokens < resource.nowhere", False),
        ("resource.nowhere + 1 > context.input_tokens", False),
        ("-resource.nowhere > context.input_tokens", False),
        ("context.input_tokens + resource.nowhere > 1", False),
        ("(if context.stream then 1 else 2) < context.time.hour", False),
        ("context.time == context.time", False),
        ("context == context", False),
    ],
)
def test_what_is_no_sum_is_said_not_to_be_all(condition: str, complete: bool) -> None:
    assert sums(read(condition), ATTRIBUTES) == ([], complete)


def test_sums_are_told_beside_what_is_none() -> None:
    found, complete = sums(
        read("context.time.hour < 8 && context.input_tokens < resource.nowhere && context.time.minute < 9"), {}
    )
    assert sorted(str(dict(each)) for each in found) == ["{'time.hour': 1, '': -8}", "{'time.minute': 1, '': -9}"]
    assert not complete


def test_policies_are_read_in_their_order_and_layout_makes_no_difference() -> None:
    one = '@id("a") permit (principal, action, resource) when { context.stream } unless { context.tools };'
    other = '@id("b") forbid (principal, action, resource)\n// why\nwhen{context . stream}unless{context["tools"]};'
    third = '@id("c") forbid (principal, action, resource) unless { context.stream } when { context.tools };'
    read_ = readings(parse_policies([CedarText("f", one + other + third)]))
    assert [sorted(each.facts) for each in read_] == [["stream", "tools"]] * 3
    assert read_[0].text == read_[1].text != read_[2].text
    assert read_[0].text == (
        '[{"body": {".": {"attr": "stream", "left": {"Var": "context"}}}, "kind": "when"}, '
        '{"body": {".": {"attr": "tools", "left": {"Var": "context"}}}, "kind": "unless"}]'
    )
    assert readings([]) == []


def test_every_integer_is_a_fact() -> None:
    assert INTEGERS < FACTS
    assert {"stream", "endpoint", "service_tier", "tools", "source_ip"} == FACTS - INTEGERS
