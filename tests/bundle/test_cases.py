"""The language of a bundle's own tests: fixtures, matrices and exceptions, and that a slip in them is never passed over."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.bundle import load_bundle
from authz.bundle.cases import MAX_CASES, Case, CasePercents, read_cases
from authz.errors import ConfigError
from authz.reasons import Reason
from authz.yamlfile import parse_yaml
from tests.bundle.folders import REFERENCE, copy

HEAD = 'principal: Key::"chatbot-prod", request: {model: llama-3.1-8b-instant}'
ALLOW = "expect: {effect: allow}"


def read(*texts: str) -> tuple[Case, ...]:
    sources = [parse_yaml(text, f"tests/{number}.yaml") for number, text in enumerate(texts)]
    return tuple(placed.case for placed in read_cases(sources))


def refused(*texts: str) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        read(*texts)
    return caught.value


WHOLE = """\
fixtures:
  night: {request: {time: 2026-11-24T02:00:00+01:00}}
  large: {request: {input_tokens: 100000, max_output_tokens: 8000, stream: true}, used: {a: 1}}
cases:
  - name: who may use the large model
    use: [night, large]
    request: {max_output_tokens: 9000}
    used: {b: 2}
    matrix:
      principal: ['Key::"a"', 'Key::"b"']
      request.model: [m1, m2]
    expect: {effect: deny, reason: model_not_available}
    except:
      - {principal: 'Key::"a"', request.model: m1, expect: {effect: allow, policies: [chatbot-models]}}
  - name: plain
    principal: Key::"a"
    request: {model: m1}
    expect: {effect: allow}
    spend: {org: 80}
"""


def test_a_matrix_is_multiplied_out_over_its_fixtures() -> None:
    *combinations, plain = read(WHOLE)
    assert [case.name for case in combinations] == [
        f"who may use the large model [principal={key}, request.model={model}]"
        for key, model in itertools.product(('Key::"a"', 'Key::"b"'), ("m1", "m2"))
    ]
    assert [(case.principal, case.request.model) for case in combinations] == list(
        itertools.product(('Key::"a"', 'Key::"b"'), ("m1", "m2"))
    )
    for case in combinations:
        request = case.request
        assert (request.input_tokens, request.max_output_tokens, request.stream) == (100_000, 9000, True)
        assert request.time is not None
        assert request.time.isoformat() == "2026-11-24T02:00:00+01:00"
        assert case.used == {"a": 1, "b": 2}
    first, *others = combinations
    assert (first.expect.effect, first.expect.reason, first.expect.policies) == ("allow", None, ("chatbot-models",))
    assert {(case.expect.effect, case.expect.reason) for case in others} == {("deny", Reason.MODEL_NOT_AVAILABLE)}
    assert plain.name == "plain"


def test_a_case_says_where_it_stands_and_what_it_leaves_open() -> None:
    *combinations, plain = read(WHOLE)
    assert {case.file for case in combinations} == {"tests/0.yaml"}
    assert [case.line for case in combinations] == [14, 5, 5, 5]
    assert plain.line == 15
    assert (plain.spend, plain.window) == (CasePercents(org=80), None)
    assert combinations[0].spend is None


def test_later_fixtures_win_and_the_case_itself_wins_over_all() -> None:
    (case,) = read(
        "fixtures:\n"
        '  a: {principal: Key::"a", request: {model: a, stream: true}, spend: {org: 1, team: 1}, expect: {effect: deny}}\n'
        "  b: {request: {model: b, tools: true}, spend: {org: 2}, expect: {reason: policy_denied}}\n"
        "cases: [{name: x, use: [a, b], request: {tools: false}, spend: {key: 3}}]"
    )
    assert (case.principal, case.request.model, case.request.stream, case.request.tools) == ('Key::"a"', "b", True, False)
    assert case.spend == CasePercents(org=2, team=1, key=3)
    assert (case.expect.effect, case.expect.reason) == ("deny", Reason.POLICY_DENIED)


def test_an_exception_replaces_what_is_expected_and_the_first_that_fits_counts() -> None:
    cases = read(
        f"cases: [{{name: x, {HEAD}, matrix: {{spend.org: [1, 2], request.stream: [true, false]}},"
        " expect: {effect: deny, reason: policy_denied, quota: q}, except: ["
        "{spend.org: 2, request.stream: false, expect: {effect: deny}}, {spend.org: 2, expect: {effect: allow}}]}]"
    )
    got = {case.name: (case.expect.effect, case.expect.reason, case.expect.quota) for case in cases}
    assert got == {
        "x [spend.org=1, request.stream=true]": ("deny", Reason.POLICY_DENIED, "q"),
        "x [spend.org=1, request.stream=false]": ("deny", Reason.POLICY_DENIED, "q"),
        "x [spend.org=2, request.stream=true]": ("allow", None, None),
        "x [spend.org=2, request.stream=false]": ("deny", None, None),
    }


def test_an_axis_takes_maps_and_quotas_whatever_their_names() -> None:
    cases = read(
        f"cases: [{{name: x, {HEAD}, {ALLOW}, matrix: {{spend: [{{org: 1}}, {{org: 2, key: 3}}], used.a.b: [1, 5 USD]}}}}]"
    )
    assert [(case.spend, case.used) for case in cases] == [
        (CasePercents(org=1), {"a.b": 1}),
        (CasePercents(org=1), {"a.b": "5 USD"}),
        (CasePercents(org=2, key=3), {"a.b": 1}),
        (CasePercents(org=2, key=3), {"a.b": "5 USD"}),
    ]
    assert cases[3].name == 'x [spend={"org":2,"key":3}, used.a.b=5 USD]'


def test_an_axis_wins_over_a_fixture_and_leaves_the_rest_of_it() -> None:
    cases = read(
        f"fixtures: {{f: {{{HEAD}, spend: {{org: 5, team: 6}}}}}}\n"
        f"cases: [{{name: x, use: [f], {ALLOW}, matrix: {{request.model: [a, b], spend.org: [80]}}}}]"
    )
    assert [(case.request.model, case.spend) for case in cases] == [(model, CasePercents(org=80, team=6)) for model in "ab"]
    assert {case.principal for case in cases} == {'Key::"chatbot-prod"'}


SLIPS = [
    # the file; the problem; what stands under the caret. `@` is `HEAD, ALLOW`
    ("cases: [{name: x, use: [nigth], @}]", "unknown fixture `nigth`, this file has none", "nigth"),
    ("fixtures: {night: {}}\ncases: [{name: x, use: [night, nigth], @}]", "expected one of `night`", "nigth]"),
    ("fixtures: {night: {team: a}}\ncases: [{name: x, @}]", "no case uses the fixture `night`", "{team: a}"),
    ("fixtures: {night: {nmae: a}}\ncases: []", "fixtures.night.nmae: unknown field, expected `principal`", "nmae"),
    ("fixtures: {night: {name: a}}\ncases: []", "fixtures.night.name: unknown field", "name: a}"),
    ("fixtures: {a: {team: b}, night: {request: {modle: a}}}\ncases: []", "unknown field, expected `action`", "modle"),
    ("fixtures: {night: {expect: {efect: deny}}}", "unknown field, expected `effect`", "efect: deny}"),
    ("fixtures: {night: {request: {stream: 3}}}", "expected `bool`, got `int`", "3}"),
    ("fixtures: []", "expected `object`, got `array`", "[]"),
    ("cases: [{name: x, @, use: [off]}]", "expected `str`, got `bool`", "off]"),
    ("cases: [{name: x, @, fiel: 1}]", "unknown field", "fiel"),
    ("cases: [{name: x, @, line: 1}]", "unknown field", "line"),
    ("cases: [{name: x, @, matrix: {}}]", "expected `object` of length >= 1", "{}"),
    ("cases: [{name: x, @, matrix: {team: []}}]", "matrix.team: expected `array` of length >= 1", "[]"),
    ("cases: [{name: x, @, matrix: {team: a}}]", "expected `array`, got `str`", "a}}]"),
    ("cases: [{name: x, @, matrix: {request.modle: [a]}}]", "`request.modle` is no path into a case, expected one of", "[a]"),
    ("cases: [{name: x, @, matrix: {nowhere: [a]}}]", "expected one of `principal`, `team`", "[a]"),
    ("cases: [{name: x, @, matrix: {used: [{q: []}]}}]", "expected `int | str`, got `array`", "{q"),
    ("cases: [{name: x, @, matrix: {used: [1]}}]", "expected `object`, got `int`", "1]"),
    ("cases: [{name: x, @, matrix: {used.q: [[]]}}]", "expected `int | str`, got `array`", "[]]"),
    ("cases: [{name: x, @, matrix: {request.model.x: [a]}}]", "is no path into a case", "[a]"),
    ("cases: [{name: x, @, matrix: {expect: [{effect: allow}]}}]", "`expect` is no path into a case", "[{effect"),
    ("cases: [{name: x, @, matrix: {expect.effect: [allow]}}]", "is no path into a case", "[allow]"),
    ("cases: [{name: x, @, matrix: {name: [a]}}]", "`name` is no path into a case", "[a]"),
    ("cases: [{name: x, @, matrix: {request.stream: [true, 3]}}]", "expected `bool`, got `int`", "3]"),
    ("cases: [{name: x, @, matrix: {spend.org: [80, -1]}}]", "expected `int` >= 0", "-1]"),
    ("cases: [{name: x, @, matrix: {request.time: [noon]}}]", "invalid RFC3339", "noon]"),
    ("cases: [{name: x, @, matrix: {spend: [{org: 1}, {orgs: 2}]}}]", "unknown field, expected `org`", "orgs"),
    ("cases: [{name: x, @, matrix: {window: [{org: a}]}}]", "expected `int`, got `str`", "a}]"),
    ("cases: [{name: x, @, matrix: {team: [a, b, a]}}]", "`a` stands twice in this axis", "a]}"),
    ("cases: [{name: x, @, matrix: {request.model: [a]}}]", "the case itself says `request.model` already", "[a]"),
    ("cases: [{name: x, @, except: []}]\nfixtures: {a: {}}", "no case uses the fixture", "{}"),
    ("cases: [{name: x, @, except: [{team: a, EXP}]}]", "`team` is no axis of the matrix: the case has none", "a, exp"),
    ("cases: [{name: x, @, MAT, except: [{spend.org: 1, EXP}]}]", "is no axis of the matrix, expected one of `team`", "1, exp"),
    ("cases: [{name: x, @, MAT, except: [{team: c, EXP}]}]", "`c` is no value of the axis `team`, expected one", "c, exp"),
    ("cases: [{name: x, @, MAT, except: [{EXP}]}]", "expected a value of an axis: this fits every combination", "{expect"),
    ("cases: [{name: x, @, MAT, except: [{team: a}]}]", "expected an `expect`", "{team"),
    ("cases: [{name: x, @, MAT, except: [{team: a, EXP}, {team: a, EXP}]}]", "this changes nothing", "{team: a, ex"),
    ("cases: [{name: x, @, MAT, except: [{team: a, expect: {efect: deny}}]}]", "unknown field", "efect"),
    ("cases: [{name: x, @, MAT, except: [{team: a, expect: {effect: denied}}]}]", "'denied', expected `allow` or", "denied}"),
    ("cases: [{name: x, @, MAT, except: [{team: a, expect: {reason: policy_denied}}]}]", "required field `effect`", "{reason"),
    ("cases: [{name: x, @, MAT, except: [{team: a, expect: deny}]}]", "expected `object`, got `str`", "deny}"),
    ("cases: [{name: x, @, MAT, except: {team: a}}]", "expected `array`, got `object`", "{team"),
    ("cases: [{name: x, request: {}, EXP}]", "the case `x` has no `principal`, neither of its own nor from a fixture", "{name"),
    ("cases: [{name: x, principal: a, EXP}]", "the case `x` has no `request`", "{name"),
    ("cases: [{name: x, principal: a, request: {}}]", "the case `x` has no `expect`", "{name"),
    ("cases: [{name: x, principal: a, request: {}, expect: {reason: policy_denied}}]", "expects no `effect`", "{reason"),
    ("cases: [{principal: a, request: {}, EXP}]", "missing required field `name`", "{principal"),
    ("cases: [{name: x, @}, {name: x, @}]", "the case `x` stands at tests/0.yaml:1 already", "x, principal"),
    ("cases: [{name: x, principal: null, request: {}, EXP}]", "expected `str`, got `null`", "null"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "problem", "under"), SLIPS, ids=lambda value: value[:60])
def test_a_slip_is_an_error_at_its_place(text: str, problem: str, under: str) -> None:
    for short, whole in (("@", f"{HEAD}, {ALLOW}"), ("EXP", "expect: {effect: deny}"), ("MAT", "matrix: {team: [a, b]}")):
        text = text.replace(short, whole)
    error = refused(text)
    assert problem in error.problem
    assert error.file == "tests/0.yaml"
    assert error.excerpt == text.split("\n")[error.line - 1]
    assert error.excerpt[error.column - 1 :].startswith(under)


def test_names_are_unique_over_the_files_of_a_bundle() -> None:
    one = f"\ncases: [{{name: x, {HEAD}, {ALLOW}}}]"
    other = f"cases:\n- {{name: y, {HEAD}, {ALLOW}}}\n- {{name: x, {HEAD}, {ALLOW}}}"
    error = refused(one, other)
    assert error.problem == "the case `x` stands at tests/0.yaml:2 already"
    assert (error.file, error.line, error.column) == ("tests/1.yaml", 3, 10)


def test_a_name_that_only_a_matrix_would_make_is_taken_too() -> None:
    matrix, plain = "name: x, matrix: {team: [a]}", 'name: "x [team=a]"'
    assert "`x [team=a]` stands at" in refused(f"cases: [{{{matrix}, {HEAD}, {ALLOW}}}, {{{plain}, {HEAD}, {ALLOW}}}]").problem


@pytest.mark.parametrize("key", ["off", "on", "yes", "no"])
def test_a_name_that_yaml_takes_for_a_boolean_is_said_to_be_one(key: str) -> None:
    error = refused(f"\nfixtures:\n  {key}: {{team: a}}\ncases: []")
    assert "bool" in error.problem
    assert (error.line, error.column) == (3, 3)


def test_a_fixture_is_its_own_files() -> None:
    shared = "fixtures: {night: {team: a}}\n"
    used, other = f"cases: [{{name: x, use: [night], {HEAD}, {ALLOW}}}]", f"cases: [{{name: y, use: [night], {HEAD}, {ALLOW}}}]"
    assert refused(shared + used, other).file == "tests/1.yaml"


def _of(cases: int, name: str) -> str:
    return f"cases: [{{name: {name}, {HEAD}, {ALLOW}, matrix: {{request.input_tokens: {list(range(cases))}}}}}]"


def test_the_bound_on_cases_is_of_the_bundle_and_exact() -> None:
    assert len(read(_of(MAX_CASES - 1, "x"), _of(1, "y"))) == MAX_CASES
    error = refused(_of(MAX_CASES - 1, "x"), _of(2, "y"))
    assert error.problem == "more than 10000 cases in the bundle with case `y` multiplied out"
    assert (error.file, error.line) == ("tests/1.yaml", 1)


def test_a_matrix_too_large_to_count_out_is_refused_and_not_counted_out() -> None:
    axes = ", ".join(f"used.q{number}: [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]" for number in range(500))
    assert "more than 10000 cases" in refused(f"cases: [{{name: x, {HEAD}, {ALLOW}, matrix: {{{axes}}}}}]").problem


def test_what_an_anchor_shares_is_not_changed_by_a_merge() -> None:
    cases = read(
        "fixtures: {a: {request: &r {model: m}}}\n"
        "cases:\n"
        f'- {{name: x, use: [a], principal: Key::"a", request: {{stream: true}}, {ALLOW}}}\n'
        f'- {{name: y, principal: Key::"a", request: *r, {ALLOW}}}\n'
    )
    assert [case.request.stream for case in cases] == [True, False]


def test_a_file_of_no_cases_is_none() -> None:
    assert read("") == read("cases: []") == ()


IN_A_BUNDLE = [
    # fixture, case, the problem, what stands under the caret
    ('principal: Key::"nobody"', "request: {model: llama-3.1-8b-instant}", "is no key and no user", 'Key::"nobody"'),
    ("request: {model: llama-9}", 'principal: Key::"chatbot-prod"', "unknown model `llama-9`", "llama-9}"),
    ("request: {action: key.crate}", f"{HEAD}", "unknown action `key.crate`", "key.crate}"),
    ("team: chatbot", HEAD, "a key acts in its own team", "chatbot}"),
    ("request: {source_ip: 10.0.0.300}", HEAD, "`10.0.0.300` is no address", "10.0.0.300}"),
    ("request: {time: 2026-11-24T02:00:00}", HEAD, "expected a time with an offset", "2026-11-24T02:00:00}"),
    ("used: {nothing: 3}", HEAD, "there is no quota `nothing`", "{nothing: 3}"),
    ("team: null", f"{HEAD}, matrix: {{used.nothing: [3]}}", "there is no quota `nothing`", "3]"),
    ("team: null", 'principal: Key::"chatbot-prod", matrix: {request.model: [a9, llama-3.1-8b-instant]}', "`a9`", "a9,"),
    ("expect: {reason: policy_denied}", f"{HEAD}, expect: {{effect: allow}}", "an allow has no reason", "policy_denied}"),
    ("expect: {quota: org-spend}", f"{HEAD}, expect: {{effect: allow}}", "an allow has no quota", "org-spend}"),
    ("expect: {quota: org-spent}", f"{HEAD}, expect: {{effect: deny}}", "there is no quota `org-spent`", "org-spent}"),
    ("expect: {policies: [nowhere]}", HEAD, "there is no policy `nowhere`", "[nowhere]}"),
    ('expect: {shadow: ["deny:nowhere"]}', HEAD, "found `deny:nowhere`", '["deny:nowhere"]}'),
    ("expect: {shadow: [chatbot-models]}", HEAD, "expected `allow:` or `deny:`", "[chatbot-models]}"),
    (
        "team: null",
        f"{HEAD}, matrix: {{spend.org: [1]}}, except: [{{spend.org: 1, expect: {{effect: deny, policies: [gone]}}}}]",
        "there is no policy `gone`",
        "[gone]}",
    ),
]


@pytest.mark.parametrize(("fixture", "case", "problem", "under"), IN_A_BUNDLE, ids=lambda value: value[:60])
def test_what_does_not_exist_is_found_where_it_is_said(
    tmp_path: Path, fixture: str, case: str, problem: str, under: str
) -> None:
    folder = copy(tmp_path)
    expect = "" if "expect: {effect" in case.split("except")[0] else f", {ALLOW}"
    text = f"fixtures:\n  f: {{{fixture}}}\ncases:\n  - {{name: x, use: [f], {case}{expect}}}\n"
    (folder / "tests" / "more.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_bundle(folder)
    error = caught.value
    assert problem in error.problem
    assert error.file == f"{folder}/tests/more.yaml"
    assert error.excerpt[error.column - 1 :].startswith(under)


def test_a_bundle_holds_its_cases_with_their_places() -> None:
    cases = load_bundle(REFERENCE).cases
    (case,) = (case for case in cases if case.name == "request 501 of the minute is not")
    lines = Path(case.file).read_text(encoding="utf-8").split("\n")
    assert lines[case.line - 1].strip() == f"- name: {case.name}"
    assert len({case.name for case in cases}) == len(cases)


AXES = {
    "principal": st.sampled_from(["a", "b", "c"]),
    "team": st.sampled_from(["a", "b", "c"]),
    "request.stream": st.booleans(),
    "request.input_tokens": st.integers(0, 3),
    "spend.org": st.integers(0, 3),
    "used.q": st.one_of(st.integers(0, 3), st.sampled_from(["1 USD", "2 USD"])),
}


@st.composite
def matrices(draw: st.DrawFn) -> tuple[dict[str, list[Any]], list[dict[str, Any]]]:
    keys = draw(st.lists(st.sampled_from(sorted(AXES)), min_size=1, max_size=3, unique=True))
    matrix = {key: draw(st.lists(AXES[key], min_size=1, max_size=3, unique=True)) for key in keys}
    rows = []
    for number in range(draw(st.integers(0, 3))):
        named = draw(st.lists(st.sampled_from(keys), min_size=1, unique=True))
        values = {key: draw(st.sampled_from(matrix[key])) for key in named}
        rows.append({**values, "expect": {"effect": "allow", "policies": [f"p{number}"]}})
    return matrix, rows


@settings(max_examples=300, deadline=None)
@given(matrices())
def test_every_combination_is_there_once_and_expects_what_the_first_row_that_fits_says(
    drawn: tuple[dict[str, list[Any]], list[dict[str, Any]]],
) -> None:
    matrix, rows = drawn
    combinations = [dict(zip(matrix, values, strict=True)) for values in itertools.product(*matrix.values())]
    first = [next((row for row in rows if _fits(row, each)), None) for each in combinations]
    base: dict[str, Any] = {"principal": "z"} if "principal" not in matrix else {}
    row = {"name": "x", **base, "request": {"model": "m"}, "expect": {"effect": "deny"}, "matrix": matrix, "except": rows}
    text = msgspec.json.encode({"cases": [row]}).decode()
    if any(all(row is not other for other in first) for row in rows):
        assert "changes nothing" in refused(text).problem
        return
    cases = read(text)
    assert len({case.name for case in cases}) == len(cases) == len(combinations)
    for case, each, fits in zip(cases, combinations, first, strict=True):
        assert case.expect.policies == (tuple(fits["expect"]["policies"]) if fits else None)
        found = msgspec.to_builtins(case)
        for key, value in each.items():
            part, _, name = key.partition(".")
            assert (found[part][name] if name else found[part]) == value
        assert case.request.model == "m"


def _fits(row: dict[str, Any], combination: dict[str, Any]) -> bool:
    return all(combination[key] == value for key, value in row.items() if key != "expect")


def test_a_place_is_looked_for_from_the_last_word_to_the_first() -> None:
    fixtures, case = "{f: {used: {q: 1, r: 1}}}", f"{{name: x, use: [f], {HEAD}, {ALLOW}, used: {{q: 2}}}}"
    (placed,) = read_cases([parse_yaml(f"fixtures: {fixtures}\ncases: [{case}]", "f")])
    assert placed.case.used == {"q": 2, "r": 1}
    assert placed.fail(("used", "q"), "").line == 2
    assert placed.fail(("used", "r"), "").line == 1
    assert placed.fail(("team",), "").line == 2
