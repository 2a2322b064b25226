"""The bundle's own cases are run by the PDP itself, and say what is not as expected."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.bundle import Bundle, load_bundle
from authz.errors import ConfigError
from authz.reasons import Reason
from authz.review import suite
from tests.bundle.folders import REFERENCE, copy

EXAMPLES = sorted(path.parent for path in (REFERENCE.parent / "docs" / "policies").glob("*/schema.cedarschema"))


def with_cases(folder: Path, text: str) -> Bundle:
    bundle = copy(folder)
    (bundle / "tests" / "more.yaml").write_text(text)
    return load_bundle(bundle)


def run_one(folder: Path, text: str) -> suite.Result:
    bundle = with_cases(folder, "cases:\n" + text)
    (case,) = (case for case in bundle.cases if case.file.endswith("more.yaml"))
    return suite.run_case(bundle, case)


@pytest.mark.parametrize("folder", [REFERENCE, *EXAMPLES], ids=lambda folder: folder.name)
def test_the_bundles_that_we_ship_pass_their_own_cases(folder: Path) -> None:
    report = suite.run(load_bundle(folder))
    assert report.results
    assert [(result.case.name, result.problems) for result in report.failed] == []
    assert list(report.undecided) == []


SMALL = 'principal: Key::"chatbot-prod"\n    request: {model: llama-3.1-8b-instant%s}\n'


@pytest.mark.parametrize(
    ("situation", "expect", "problem"),
    [
        (SMALL % "", "{effect: deny}", "expected deny, got allow by `chatbot-models`"),
        (
            SMALL % "",
            "{effect: allow, policies: [research-models]}",
            "expected the policies `research-models`, got `chatbot-models`",
        ),
        (SMALL % "", "{effect: allow, shadow: ['deny:batch-stops-at-80-percent']}", "expected in shadow"),
        (
            SMALL.replace("llama-3.1-8b-instant", "openai/gpt-oss-120b") % "",
            "{effect: allow}",
            "expected allow, got deny (`model_not_available`): The model `openai/gpt-oss-120b` is not available",
        ),
        (
            SMALL.replace("llama-3.1-8b-instant", "openai/gpt-oss-120b") % "",
            "{effect: deny, reason: policy_denied}",
            "expected the reason `policy_denied`, got `model_not_available`",
        ),
        (
            SMALL % "" + "    used: {chatbot-prod-requests: 500}\n",
            "{effect: deny, quota: chatbot-prod-tokens}",
            "expected the quota `chatbot-prod-tokens` to refuse, got `chatbot-prod-requests`",
        ),
        (
            SMALL % "" + "    used: {batch-processor-tokens: 1}\n",
            "{effect: allow}",
            "`batch-processor-tokens` does not meet",
        ),
        (SMALL % "" + "    used: {org-spend: 5}\n", "{effect: allow}", "found `5`, expected an amount such as"),
    ],
)
def test_what_is_not_as_expected_is_said(tmp_path: Path, situation: str, expect: str, problem: str) -> None:
    result = run_one(tmp_path, f"  - name: a case\n    {situation}    expect: {expect}\n")
    assert any(problem in found for found in result.problems), result.problems


@pytest.mark.parametrize(
    ("used", "left", "effect"),
    [
        ("org-spend: 499.99 USD", ", max_output_tokens: 1000", "allow"),
        ("org-spend: 100%", "", "deny"),
        ("chatbot-prod-tokens: 99800", "", "allow"),
        ("chatbot-prod-tokens: 99801", "", "deny"),
    ],
)
def test_used_is_what_a_quota_holds_before(tmp_path: Path, used: str, left: str, effect: str) -> None:
    text = f"  - name: a case\n    {SMALL % left}    used: {{{used}}}\n    expect: {{effect: {effect}}}\n"
    assert run_one(tmp_path, text).problems == ()


@pytest.mark.parametrize(
    ("situation", "shadow"),
    [
        ("used: {org-spend: 400 USD}", True),
        ("used: {org-spend: 399 USD}", False),
        ("spend: {org: 80}", True),
        ("spend: {org: 79}\n    used: {org-spend: 450 USD}", False),
    ],
)
def test_percentages_follow_from_what_is_used_unless_they_are_given(tmp_path: Path, situation: str, shadow: bool) -> None:
    expect = "['deny:batch-stops-at-80-percent']" if shadow else "[]"
    text = SMALL.replace("chatbot-prod", "batch-processor") % ""
    case = f"  - name: a case\n    {text}    {situation}\n    expect: {{effect: allow, shadow: {expect}}}\n"
    assert run_one(tmp_path, case).problems == ()


def test_a_failed_case_refuses_the_bundle_and_says_where(tmp_path: Path) -> None:
    bundle = with_cases(tmp_path, f"cases:\n  - name: wrong\n    {SMALL % ''}    expect: {{effect: deny}}\n")
    with pytest.raises(ConfigError, match="case `wrong`: expected deny, got allow") as caught:
        suite.refuse_failures(suite.run(bundle))
    assert caught.value.file.endswith("tests/more.yaml")
    assert caught.value.line == 2


def test_a_principal_that_is_not_in_force_is_no_denial(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    directory = folder / "directory.yaml"
    directory.write_text(directory.read_text().replace("chatbot-prod: {", "chatbot-prod: {disabled: true, "))
    failed = suite.run(load_bundle(folder)).failed
    assert {result.case.principal for result in failed} == {'Key::"chatbot-prod"'}
    assert failed[0].problems[0].startswith('Key::"chatbot-prod" is disabled or expired at')


def test_coverage_names_what_decided_nothing(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "tests" / "models.yaml").unlink()
    report = suite.run(load_bundle(folder))
    assert "batch-stops-at-80-percent" in report.undecided
    assert "chatbot-models" not in report.undecided  # the cases of limits.yaml rest on it
    assert report.results[0].reason in (None, Reason.RATE_LIMIT_EXCEEDED)
