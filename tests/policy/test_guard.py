from __future__ import annotations

import subprocess
import sys

import pytest

from authz.errors import ConfigError
from authz.policy import CedarText
from authz.policy import guard as guard_module
from authz.policy.guard import MAX_CHAIN, MAX_NESTING, check_schema, statements, tokens

ANY = "permit (principal, action, resource) when { %s };"


def split(text: str) -> list[str]:
    return [statement.text for statement in statements(CedarText("a.cedar", text))]


def test_statements_are_cut_outside_strings_and_comments() -> None:
    first = '@id("x;{(") permit(principal,action,resource) when { "};" == "\\";" };'
    second = '@id("y") forbid(principal,action,resource);'
    assert split(f"// a ; b\n{first} // c\n {second}\n") == [first, second]


def test_a_comment_ends_at_a_carriage_return_as_it_does_for_cedar() -> None:
    hidden = "permit(principal, action, resource) when {" + "(" * 1000 + "true" + ")" * 1000 + "};"
    with pytest.raises(ConfigError, match="nested deeper than 32"):
        split(f"// harmless\r{hidden}")


@pytest.mark.parametrize(
    "condition",
    [
        "(" * 40 + "true" + ")" * 40,
        "[" * 40 + "]" * 40 + ".isEmpty()",
        "{a: " * 40 + "1" + "}" * 40 + " == 1",
    ],
)
def test_a46_nesting_beyond_the_bound_is_refused_before_parsing(condition: str) -> None:
    with pytest.raises(ConfigError, match=f"nested deeper than {MAX_NESTING}") as caught:
        split("\n\n" + ANY % condition)
    assert caught.value.line == 3
    assert caught.value.column > 30


@pytest.mark.parametrize(
    "condition",
    [
        " && ".join(["true"] * 5000),
        " + ".join(["1"] * 5000) + " == 1",
        "context" + ".a" * 5000,
        "context" + '["a"]' * 5000,
        "context has a" + ".a" * 5000,
        "if true then true else " * 5000 + "true",
        "if true then " * 5000 + "true" + " else true" * 5000,
        "true }" + " when { true }" * 5000 + " when { true",
    ],
)
def test_a46_chains_deepen_the_tree_without_a_bracket_and_are_bounded_too(condition: str) -> None:
    with pytest.raises(ConfigError, match="more than 200 operators"):
        split(ANY % condition)


def test_what_the_guard_lets_through_does_not_crash_a_parser_on_a_small_stack() -> None:
    """The worst of both: full nesting and a full chain, parsed, validated and evaluated on a stack of 1 MB."""
    program = f"""
import threading
from authz.policy import CedarText, cedar
from authz.policy.guard import statements
chains = [" && ".join(["true"] * 190), "1" + " + 1" * 190 + " == 1"]
chains += ["if true then true else " * 60 + "true", "context" + ".a" * 190]
deep = {MAX_NESTING - 1}
def run():
    for chain in chains:
        text = "permit (principal, action, resource) when {{ " + "(" * deep + chain + ")" * deep + " }};"
        statements(CedarText("a", text))
        policies = cedar.parse_policies(text)
        cedar.syntax(text)
        schema = cedar.parse_schema("entity A; action x appliesTo {{ principal: A, resource: A, context: {{}} }};")
        cedar.validate(text, schema)
        uid = {{"type": "A", "id": "a"}}
        request = {{"principal": uid, "action": {{"type": "Action", "id": "x"}}, "resource": uid, "context": "{{}}"}}
        cedar.authorise(request, policies, cedar.parse_entities("[]", schema))
    print("alive")
threading.stack_size(1024 * 1024)
thread = threading.Thread(target=run)
thread.start()
thread.join()
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "alive\n"), done.stderr


def test_a48_more_policies_than_the_bound_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "MAX_POLICIES", 3)
    with pytest.raises(ConfigError, match="more than 3 policies"):
        split("permit(principal,action,resource);" * 4)


def test_sizes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="a policy of more than 65536 characters"):
        split(ANY % f'"{"x" * 70_000}" == "x"')
    monkeypatch.setattr(guard_module, "MAX_BYTES", 100)
    with pytest.raises(ConfigError, match="101 bytes of policies"):
        split("é" * 50 + "x")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('permit(principal, "no end', "this string has no end"),
        ('"\\', "this string has no end"),
        ("permit(principal)) ;", "`\\)` closes nothing"),
    ],
)
def test_broken_text_is_refused_where_it_breaks(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem) as caught:
        split(text)
    assert caught.value.line == 1


def test_scanning_takes_time_in_proportion_to_the_text() -> None:
    """Strings without an end, many of them: each could have been tried to the end of the text."""
    with pytest.raises(ConfigError, match="this string has no end"):
        list(tokens(CedarText("a", '"\\' * 500_000)))


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("entity A { x: " + "Set<" * 50 + "Long" + ">" * 50 + " };", "nested deeper"),
        ("entity A { x: " + "{a: " * 50 + "Long" + "}" * 50 + " };", "nested deeper"),
        ("".join(f"entity A{n};" for n in range(600)), "more than 500 declarations"),
        ("//" + " " * 300_000, "a schema of 300002 bytes"),
    ],
)
def test_a_schema_is_bounded(text: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        check_schema(CedarText("schema", text))


def test_the_chain_bound_is_for_one_policy() -> None:
    text = ANY % " && ".join(["true"] * (MAX_CHAIN // 2))
    assert len(split(text * 5)) == 5
