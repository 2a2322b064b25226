"""What a change of a bundle opens and closes, and what a reviewer is told first."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.bundle import load_bundle
from authz.bundle.files import SCHEMA
from authz.review.access import Side, Survey
from authz.review.changes import Change, Sort
from authz.review.diff import Access, Diff, compare, moves
from authz.review.matrix import Outcome, Wanted
from tests.bundle.folders import REFERENCE, copy, edit

LIMIT = "limit: 500 USD/month"
FORBID = 'forbid (principal in Team::"research", action in Action::"infer", resource)'


def side(folder: Path) -> Side:
    return Side(load_bundle(folder))


@cache
def reference() -> Side:
    return side(REFERENCE)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The reference bundle without its cases, so that everything in it can be changed."""
    found = copy(tmp_path)
    for case in (found / "tests").iterdir():
        case.unlink()
    return found


def uses(access: Access) -> set[tuple[str, str]]:
    return {(action, resource) for use in access.uses for action in use.actions for resource in use.resources}


def changes(found: tuple[Change, ...]) -> list[tuple[str, str, tuple[str, ...], bool, bool]]:
    return [
        (f"{change.sort} {change.kind}", change.name, tuple(detail.text for detail in change.details), *_way(change))
        for change in found
    ]


def _way(change: Change) -> tuple[bool, bool]:
    return change.effects.more, change.effects.less


def test_a_bundle_does_not_differ_from_itself() -> None:
    found = compare(reference(), reference())
    assert not found.differs
    assert (found.more_permissive, found.less_permissive, found.lost_forbids) == ((), (), ())
    assert (found.policies, found.quotas, found.directory, found.models, found.beside) == ((), (), (), (), ())


def test_a_model_more_for_a_team(folder: Path) -> None:
    edit(folder, "chatbot.cedar", '"llama-3.1-8b-instant"]', '"llama-3.1-8b-instant", Model::"openai/gpt-oss-120b"]')
    found = compare(reference(), side(folder))
    (more,) = found.more_permissive
    assert more.principals == ('Key::"chatbot-prod"', 'User::"dev" in Team::"chatbot"', 'User::"olivia" in Team::"chatbot"')
    assert uses(more) == {("chat", "openai/gpt-oss-120b"), ("respond", "openai/gpt-oss-120b")}
    assert (more.was, more.now, more.by, more.before, more.at) == (Outcome.NEVER, Outcome.ALWAYS, ("chatbot-models",), (), {})
    assert found.less_permissive == ()
    (policy,) = found.policies
    assert (policy.id, policy.what, policy.effects.more, policy.effects.less) == ("chatbot-models", ("condition",), True, False)
    assert policy.file.endswith("chatbot.cedar")
    assert any(line.startswith("+") and "gpt-oss-120b" in line for line in policy.diff)


@pytest.mark.parametrize(
    ("change", "how", "twin"),
    [
        (lambda text: "", "removed", None),
        (lambda text: text.replace("forbid", '@mode("shadow") forbid'), "in shadow", None),
        (lambda text: text.replace("forbid", "permit"), "a permit now", None),
        (lambda text: text.replace("no-research", "no-more-research"), "removed", "no-more-research"),
    ],
)
def test_a_forbid_that_is_gone_is_called_out(folder: Path, change: Callable[[str], str], how: str, twin: str | None) -> None:
    before = f'\n@id("no-research") {FORBID};\n'
    text = (folder / "research.cedar").read_text()
    (folder / "research.cedar").write_text(text + before)
    old = side(folder)
    (folder / "research.cedar").write_text(text + change(before))
    found = compare(old, side(folder))
    (lost,) = found.lost_forbids
    assert (lost.id, lost.how, lost.retired, lost.twin) == ("no-research", how, False, twin)
    assert lost.line == len(text.splitlines()) + 2
    assert bool(found.more_permissive) is (twin is None)
    for access in found.more_permissive:
        assert access.before == ("no-research",)
    if how == "removed":
        (folder / "retired.yaml").write_text("forbids: {no-research: it was for a week}\n")
        assert compare(old, side(folder)).lost_forbids[0].retired
    assert [lost.twin for lost in compare(side(folder), old).lost_forbids] == ["no-research"] * (twin is not None)


def test_a_forbid_that_is_narrowed_says_from_where_to_where(folder: Path) -> None:
    text = (folder / "research.cedar").read_text()
    sides = []
    for most in (500, 800):
        (folder / "research.cedar").write_text(f'{text}\n@id("short") {FORBID} when {{ context.max_output_tokens > {most} }};')
        sides.append(side(folder))
    found = compare(*sides)
    assert found.lost_forbids == ()
    assert found.less_permissive == ()
    (more,) = found.more_permissive
    assert (more.was, more.now, more.before) == (Outcome.SOMETIMES, Outcome.SOMETIMES, ("short",))
    assert {(edge.changed, edge.not_changed) for edge in more.edges} == {(501, 500), (800, 801)}
    (policy,) = found.policies
    assert (policy.what, policy.effects.more, policy.effects.less) == (("condition",), True, False)


def test_layout_and_comments_are_no_change_of_policy(folder: Path) -> None:
    edit(folder, "chatbot.cedar", 'principal in Team::"chatbot",', '// who\n     principal in   Team::"chatbot",')
    found = compare(reference(), side(folder))
    assert found.differs
    assert [(policy.id, policy.what, policy.diff) for policy in found.policies] == [("chatbot-models", ("layout",), ())]
    assert found.more_permissive == found.less_permissive == ()


@pytest.mark.parametrize(
    ("old", "new", "details", "more", "less"),
    [
        (LIMIT, "limit: 800 USD/month", ("limit 500.00 USD/month → 800.00 USD/month",), True, False),
        (LIMIT, "limit: 500 USD/day", ("limit 500.00 USD/month → 500.00 USD/day",), False, False),
        (LIMIT, f"{LIMIT}\n    mode: shadow", ("mode enforce → shadow",), True, False),
        (LIMIT, f"{LIMIT}\n    per: key", ("one counter for each key",), True, False),
        (LIMIT, f"{LIMIT}\n    models: [cheapest]", ("models cheapest",), True, False),
        (
            LIMIT,
            f"{LIMIT}\n    reserve: adaptive",
            ("reserve worst_case → adaptive",),
            True,
            False,
        ),
        (
            LIMIT,
            f"{LIMIT}\n    on_store_error: allow",
            ("on store error deny → allow",),
            True,
            False,
        ),
        ("[100 USD, 250 USD, 400 USD]", "[100 USD]", ("alerts 100.00 USD, 250.00 USD, 400.00 USD → 100.00 USD",), False, False),
    ],
)
def test_a_quota_says_which_way_it_moves(
    folder: Path, old: str, new: str, details: tuple[str, ...], more: bool, less: bool
) -> None:
    edit(folder, "quotas.yaml", old, new)
    changed = side(folder)
    assert changes(compare(reference(), changed).quotas) == [("changed quota", "org-spend", details, more, less)]
    assert [_way(change) for change in compare(changed, reference()).quotas] == [(less, more)]


def test_a_quota_that_is_gone_is_more_permissive_and_a_new_one_less(folder: Path) -> None:
    edit(folder, "quotas.yaml", "chatbot-prod-requests", "chatbot-prod-calls")
    assert changes(compare(reference(), side(folder)).quotas) == [
        ("removed quota", "chatbot-prod-requests", ('500 requests/minute for Key::"chatbot-prod"',), True, False),
        ("added quota", "chatbot-prod-calls", ('500 requests/minute for Key::"chatbot-prod"',), False, True),
    ]


def test_the_directory_and_who_is_new(folder: Path) -> None:
    secret = "ab" * 32
    edit(
        folder, "directory.yaml", "rhea: {teams: [research], roles: [reader]}", "rhea: {teams: [research], roles: [developer]}"
    )
    edit(folder, "directory.yaml", "research-lab: {team: research,", f'lab: {{team: research, digests: ["sha256:{secret}"],')
    edit(folder, "directory.yaml", "chatbot-prod: {team: chatbot,", "chatbot-prod: {team: chatbot, expires: 2027-01-31,")
    edit(
        folder, "directory.yaml", "analytics-reports: {team: analytics,", "analytics-reports: {team: analytics, disabled: true,"
    )
    found = compare(reference(), side(folder))
    assert changes(found.directory) == [
        ("changed user", "rhea", ("roles reader → developer",), False, False),
        ("removed key", "research-lab", (), False, False),
        ("added key", "lab", ("team research", "secret sha256:abababababab… added"), False, False),
        ("changed key", "analytics-reports", ("disabled",), False, True),
        ("changed key", "chatbot-prod", ("last day 2027-01-31",), False, True),
    ]
    standing = {(access.standing, access.principals[0]) for access in (*found.more_permissive, *found.less_permissive)}
    assert {("new", 'Key::"lab"'), ("gone", 'Key::"research-lab"')} <= standing
    assert ("", 'Key::"analytics-reports", disabled') in standing
    (own,) = [access for access in found.more_permissive if access.principals == ('User::"rhea" in Team::"research"',)]
    assert ("key.create", "own team") in uses(own)
    assert own.by == ("developer-own-team",)


def test_models_and_what_is_beside_them(folder: Path) -> None:
    edit(folder, "models.yaml", 'price: {input: "0.59", output: "0.79"}', 'price: {input: "0.59", output: "0.99"}')
    edit(folder, "models.yaml", "decommissioned:", "aliases: {fast: llama-3.1-8b-instant}\ndecommissioned:")
    edit(folder, "quotas.yaml", "time_zone: UTC", "time_zone: Europe/Berlin")
    (folder / SCHEMA).write_text((folder / SCHEMA).read_text() + "\nentity Project;\n")
    found = compare(reference(), side(folder))
    assert changes(found.models) == [
        ("changed model", "llama-3.3-70b-versatile", ("output (USD/M tokens) 0.79 → 0.99",), False, False),
        ("added alias", "fast", ("stands for llama-3.1-8b-instant",), False, False),
    ]
    beside = [change for change in changes(found.beside) if "test case" not in change[0]]
    assert [change[:3] for change in beside] == [
        ("changed time zone", "Europe/Berlin", ("time zone UTC → Europe/Berlin",)),
        ("changed schema", SCHEMA, (" };", "+", "+entity Project;")),
    ]
    assert {change.sort for change in found.beside if change.kind == "test case"} == {Sort.REMOVED}


def test_a_model_whose_group_changes_opens_it_for_those_who_have_the_group(folder: Path) -> None:
    edit(folder, "models.yaml", "qwen/qwen3.6-27b:\n", "qwen/qwen3.6-27b:\n    groups: [cheapest]\n")
    found = compare(reference(), side(folder))
    (more,) = found.more_permissive
    assert uses(more) == {("chat", "qwen/qwen3.6-27b"), ("respond", "qwen/qwen3.6-27b")}
    assert more.by == ("analytics-cheapest",)


def test_policies_that_stayed_may_answer_otherwise_for_a_role_or_a_price(folder: Path) -> None:
    text = (folder / "research.cedar").read_text()
    conditions = f"""
@id("readers") {FORBID} when {{ principal in Role::"reader" && context.tools }};
@id("dear") {FORBID} when {{ resource has output_price && resource.output_price > 900000000 }};
"""
    (folder / "research.cedar").write_text(text + conditions)
    old = side(folder)
    edit(folder, "directory.yaml", "teams: [research], roles: [reader]", "teams: [research]")
    (more,) = compare(old, side(folder)).more_permissive
    assert (more.principals, more.before) == (('User::"rhea" in Team::"research"',), ("readers",))
    assert [(edge.fact, edge.changed) for edge in more.edges] == [("tools", True)]
    edit(folder, "directory.yaml", "teams: [research]}", "teams: [research], roles: [reader]}")
    edit(folder, "models.yaml", 'price: {input: "0.59", output: "0.79"}', 'price: {input: "0.59", output: "0.99"}')
    closed = compare(old, side(folder)).less_permissive
    assert {use for access in closed for use in uses(access)} == {("chat", "llama-3.3-70b-versatile")}
    assert {access.by for access in closed} >= {("dear",)}


_PRINCIPALS = ["principal", 'principal in Team::"research"', 'principal == Key::"research-lab"', 'principal in Role::"reader"']
_ACTIONS = ["action", 'action in Action::"infer"', 'action == Action::"chat"', 'action in Action::"administer"']
_RESOURCES = ["resource", 'resource in ModelGroup::"cheapest"', 'resource == Model::"qwen/qwen3.6-27b"', "resource is Model"]
_CONDITIONS = [
    "",
    "when { context.time.hour < 6 }",
    "when { context.time.weekday > 5 } unless { context.time.hour >= 20 }",
    'unless { principal in Role::"reader" }',
    'when { context has source_ip && context.source_ip.isInRange(ip("10.0.0.0/8")) }',
    "when { context.time.date > 20260301 }",
]


@st.composite
def statements(draw: st.DrawFn) -> str:
    effect = draw(st.sampled_from(["permit", "permit", "forbid"]))
    mode = draw(st.sampled_from(["", "", "", '@mode("shadow") ']))
    principal, action, resource = (draw(st.sampled_from(part)) for part in (_PRINCIPALS, _ACTIONS, _RESOURCES))
    if "administer" in action:
        resource = "resource"  # of a model there is nothing to administer, and the validator says so
    return f"{mode}{effect} ({principal}, {action}, {resource}) {draw(st.sampled_from(_CONDITIONS))};"


@st.composite
def bundles(draw: st.DrawFn) -> tuple[str, str]:
    """Policies, and what stands in the directory for rhea's key."""
    numbered = enumerate(draw(st.lists(statements(), max_size=4)))
    key = draw(st.sampled_from(["", "\n  rheas: {team: research, user: rhea}", "\n  rheas: {team: chatbot}"]))
    return "\n".join(f'@id("p{number}") {text}' for number, text in numbered), key


def build(made: tuple[str, str]) -> Side | None:
    policies, key = made
    with TemporaryDirectory() as place:
        folder = copy(Path(place))
        for path in (*folder.glob("*.cedar"), *(folder / "tests").iterdir()):
            path.unlink()
        (folder / "all.cedar").write_text(policies)
        edit(folder, "directory.yaml", "keys:", f"keys:{key}")
        return side(folder)


def mirrored(access: Access) -> Access:
    standing = {"new": "gone", "gone": "new"}.get(access.standing, access.standing)
    return msgspec.structs.replace(
        access, was=access.now, now=access.was, by=access.before, before=access.by, standing=standing
    )


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bundles(), bundles())
def test_what_one_way_opens_the_other_closes(one: tuple[str, str], other: tuple[str, str]) -> None:
    a, b = build(one), build(other)
    assert a is not None
    assert b is not None
    there, back = compare(a, b), compare(b, a)
    assert _plain(there.more_permissive) == _plain(tuple(map(mirrored, back.less_permissive)))
    assert _plain(there.less_permissive) == _plain(tuple(map(mirrored, back.more_permissive)))
    assert _nothing_moves(compare(a, a))


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(bundles(), bundles())
def test_no_answer_moves_unseen(one: tuple[str, str], other: tuple[str, str]) -> None:
    """Against the engine itself, asked of everybody at every probe, without any of what is passed over."""
    a, b = build(one), build(other)
    assert a is not None
    assert b is not None
    survey = Survey(a, b)
    seen = {(moved.group.members[0], moved.target, moved.more) for moved in moves(survey, Wanted(apart=True))}
    found = set()
    for group in survey.groups(apart=True):
        for target in survey.models():
            asking, reach = (target.resource,), survey.reach(group, target)
            asked = survey.ask(group, target, reach)
            for context in asked.probes.contexts if asked else ():
                was, now = (
                    asker is not None and one.bundle.policy.decide(asker.principal, target.action, asking, context).allowed
                    for one, asker in zip(survey.sides, group.askers, strict=True)
                )
                if was != now:
                    found.add((group.members[0], target, now))
    assert seen == found


def _nothing_moves(found: Diff) -> bool:
    return not (found.more_permissive or found.less_permissive or found.policies or found.directory or found.lost_forbids)


def _plain(accesses: tuple[Access, ...]) -> set[bytes]:
    return {msgspec.json.encode(access) for access in accesses}
