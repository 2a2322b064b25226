from __future__ import annotations

import subprocess
import sys

import pytest

from authz.errors import ConfigError
from authz.policy import CedarText
from authz.policy import guard as guard_module
from authz.policy.guard import MAX_CHAIN, MAX_NESTING, MAX_SCHEMA_STATEMENTS, check_schema, statements, tokens

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


@pytest.mark.parametrize(
    ("fits", "too_much", "line", "column", "problem"),
    [
        (
            "(" * MAX_NESTING + ")" * MAX_NESTING + "()" * MAX_NESTING + ";",
            "\n" + "(" * (MAX_NESTING + 1),
            2,
            MAX_NESTING + 1,
            "nested deeper than 32",
        ),
        (
            "[{" * (MAX_NESTING // 2) + "}]" * (MAX_NESTING // 2),
            "[{" * (MAX_NESTING // 2) + "(",
            1,
            MAX_NESTING + 1,
            "nested deeper than 32",
        ),
        (
            " . x" * MAX_CHAIN + ";" + " && x" * MAX_CHAIN,
            ";\n" + " && x" * (MAX_CHAIN + 1),
            2,
            5 * MAX_CHAIN + 2,
            "more than 200 operators in one policy: write a set, or several policies",
        ),
        (
            " " * 9 + "x" * guard_module.MAX_STATEMENT_CHARS,
            "a;\n b " + "x" * (guard_module.MAX_STATEMENT_CHARS - 1),
            2,
            2,
            "a policy of more than 65536 characters",
        ),
        ("()[]{};", "(;\n))", 2, 2, "`)` closes nothing"),
        ('"a";', ';\n x "a', 2, 4, "this string has no end"),
    ],
    ids=["nesting", "mixed nesting", "chain", "characters", "closing", "string"],
)
def test_the_bounds_are_exact_and_an_error_says_where(fits: str, too_much: str, line: int, column: int, problem: str) -> None:
    split(fits)
    with pytest.raises(ConfigError) as caught:
        split(too_much)
    assert (caught.value.file, caught.value.problem) == ("a.cedar", problem)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_the_numbers_of_policies_and_bytes_are_bounded_exactly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard_module, "MAX_POLICIES", 3)
    assert split("a;b;c;") == ["a;", "b;", "c;"]
    with pytest.raises(ConfigError, match=r"^a\.cedar:2:2: more than 3 policies\n"):
        split("a;b;c;\nd;")
    monkeypatch.setattr(guard_module, "MAX_BYTES", 5)
    assert split("éé;") == ["éé;"]
    with pytest.raises(ConfigError, match=r"^a\.cedar: 6 bytes of policies, expected at most 5$"):
        split("ééé")
    monkeypatch.setattr(guard_module, "MAX_SCHEMA_BYTES", 5)
    check_schema(CedarText("s", "éé;"))
    with pytest.raises(ConfigError, match=r"^s: a schema of 6 bytes, expected at most 5$"):
        check_schema(CedarText("s", "ééé"))


@pytest.mark.parametrize(
    ("fits", "too_much", "line", "column", "problem"),
    [
        ("Set<" * MAX_NESTING + ">" * MAX_NESTING + "<>" * MAX_NESTING, "\n" + "<" * 33, 2, 33, "nested deeper than 32"),
        ("({[<" * 8 + ">]})" * 8, "\n" + "({[<" * 8 + "{", 2, 33, "nested deeper than 32"),
        ("a;" * MAX_SCHEMA_STATEMENTS, "a;" * MAX_SCHEMA_STATEMENTS + "\nbc;", 2, 3, "more than 500 declarations"),
        ("<>", "\n<>>", 2, 3, "`>` closes nothing"),
    ],
)
def test_the_bounds_of_a_schema_are_exact_and_an_error_says_where(
    fits: str, too_much: str, line: int, column: int, problem: str
) -> None:
    check_schema(CedarText("s", fits))
    with pytest.raises(ConfigError) as caught:
        check_schema(CedarText("s", too_much))
    assert (caught.value.file, caught.value.problem) == ("s", problem)
    assert (caught.value.line, caught.value.column) == (line, column)


def test_a_policy_ends_at_its_own_semicolon_and_what_is_left_at_the_end_is_one_too() -> None:
    assert split("a (b; c) [d;] {e;} f; g") == ["a (b; c) [d;] {e;} f;", "g"]
    first, second = statements(CedarText("x", "\n a b;\n\n  c\n d;"))
    assert (first.line, first.start, first.text, [token.text for token in first.tokens]) == (2, 2, "a b;", ["a", "b", ";"])
    assert (second.line, second.text) == (4, "c\n d;")
    assert str(second.fail("why")) == "x:4:3: why\n    c\n    ^"
    assert str(second.fail("why", second.tokens[1])) == "x:5:2: why\n   d;\n   ^"


LINES = "\none\ntwo  \r\n\tthree"


@pytest.mark.parametrize(
    ("offset", "line", "column", "excerpt"),
    [
        (0, 1, 1, ""),
        (1, 2, 1, "one"),
        (3, 2, 3, "one"),
        (4, 2, 4, "one"),  # the end of the line
        (5, 3, 1, "two  "),
        (12, 4, 1, "\tthree"),
        (len(LINES), 4, 7, "\tthree"),
    ],
)
def test_a_place_is_a_line_a_column_and_the_line_itself(offset: int, line: int, column: int, excerpt: str) -> None:
    error = CedarText("f", LINES).fail(offset, "p")
    assert (error.file, error.problem, error.line, error.column, error.excerpt) == ("f", "p", line, column, excerpt)


def test_of_a_lines_end_only_the_carriage_return_is_left_out() -> None:
    assert CedarText("f", "\r X \r\r\n").fail(0, "p").excerpt == "\r X "
    assert CedarText("f", "\rX").fail(0, "p").excerpt == "\rX"


@pytest.mark.parametrize(("length", "shown"), [(299, True), (300, True), (301, False)])
def test_a_long_line_is_not_shown(length: int, shown: bool) -> None:
    line = "x" * length
    assert CedarText("f", f"a\n{line}\nb").fail(2, "p").excerpt == (line if shown else "")


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
