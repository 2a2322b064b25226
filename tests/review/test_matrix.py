"""Who may use what, as the engine answers it, and few questions where policies cannot tell people apart."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.bundle import load_bundle
from authz.policy import ACTIONS, Context
from authz.review.access import Side, Survey
from authz.review.matrix import Cell, Matrix, Outcome, Row, Wanted, make
from tests.bundle.folders import REFERENCE, copy, edit

EXAMPLES = REFERENCE.parent / "docs" / "policies"
FOLDERS = [REFERENCE, *(path for path in sorted(EXAMPLES.iterdir()) if path.is_dir())]


def side(folder: Path) -> Side:
    return Side(load_bundle(folder))


def of(folder: Path, **wanted: object) -> Matrix:
    return make(Survey(side(folder)), Wanted(**wanted))  # type: ignore[arg-type]


def row(matrix: Matrix, shown: str) -> Row:
    return next(row for row in matrix.rows if row.shown == shown)


def cell(matrix: Matrix, shown: str, action: str, resource: str) -> Cell:
    return row(matrix, shown).cells[action][resource]


def test_the_reference_bundle() -> None:
    found = of(REFERENCE)
    allowed = cell(found, 'Key::"chatbot-prod"', "chat", "llama-3.3-70b-versatile")
    assert (allowed.outcome, allowed.allowed_by, allowed.denied_by) == (Outcome.ALWAYS, ("chatbot-models",), ())
    assert cell(found, 'Key::"chatbot-prod"', "chat", "openai/gpt-oss-120b").outcome is Outcome.NEVER
    assert cell(found, 'User::"olivia" in Team::"research"', "respond", "openai/gpt-oss-20b").outcome is Outcome.ALWAYS
    assert cell(found, 'User::"olivia" in Team::"analytics"', "respond", "openai/gpt-oss-20b").outcome is Outcome.NEVER


@pytest.mark.parametrize(
    ("example", "who", "turns", "denied_by"),
    [
        (
            "bounded-output-for-a-key",
            'Key::"kiosk"',
            ["input_tokens: 4096 allowed, 4097 denied", "max_output_tokens: 512 allowed, 513 denied"],
            "kiosk-output-is-bounded",
        ),
        ("no-tools-for-interns", 'Key::"ina-laptop"', ["tools: false allowed, true denied"], "no-tools-for-interns"),
        (
            "office-hours",
            'Key::"back-office-desk"',
            [
                "time: Thu 2026-01-01 08:30 allowed, Thu 2026-01-01 08:29 denied",
                "time: Thu 2026-01-01 17:59 allowed, Thu 2026-01-01 18:00 denied",
            ],
            "back-office-hours",
        ),
        (
            "contractor-until-a-date",
            'Key::"carla-laptop"',
            ["time: Thu 2026-12-31 12:00 allowed, Fri 2027-01-01 12:00 denied"],
            "carla-until-2026-12-31",
        ),
    ],
)
def test_a_condition_says_where_it_turns(example: str, who: str, turns: list[str], denied_by: str) -> None:
    found = cell(of(EXAMPLES / example), who, "chat", "openai/gpt-oss-20b")
    assert (found.outcome, [str(turn) for turn in found.turns], found.denied_by) == (Outcome.SOMETIMES, turns, (denied_by,))
    assert found.allows_at.keys() == found.denies_at.keys() == {turn.fact for turn in found.turns}


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
@pytest.mark.parametrize("administration", [False, True])
def test_reach_is_what_the_engine_finds(folder: Path, administration: bool) -> None:
    from authz.review.matrix import questions

    one = side(folder)
    asked = 0
    for group, targets in questions(Survey(one), Wanted(administration=administration)):
        asker = group.askers[0]
        assert asker is not None
        for target in targets:
            places = one.reach(asker.principal, target)
            engine = one.bundle.policy.in_reach(asker.principal, target.action, target.resource)
            assert [one.bundle.policies[place].id for place in places] == [policy.id for policy in engine]
            asked += bool(places)
    assert asked or administration


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_a_group_answers_as_each_of_its_members(folder: Path) -> None:
    together, apart = of(folder), of(folder, apart=True)
    by_member = {name: row for row in apart.rows for name in row.principals if row.shown.startswith("Key")}
    for each in together.rows:
        for name in each.principals if each.shown.startswith("Key") else ():
            assert by_member[name].cells == each.cells


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_always_and_never_are_what_the_engine_says_to_a_plain_request(folder: Path) -> None:
    one = side(folder)
    plain = Context(1, 1, False, "chat.completions", "on_demand", False, "", 1_767_614_400 * 10**9)
    found = make(Survey(one), Wanted(apart=True, actions=("chat",)))
    for each, group in zip(found.rows, Survey(one).groups(apart=True), strict=True):
        asker = group.askers[0]
        assert asker is not None
        for name, seen in each.cells["chat"].items():
            (target,) = [target for target in Survey(one).models() if (target.action, target.shown) == ("chat", name)]
            verdict = one.bundle.policy.decide(asker.principal, "chat", (target.resource,), plain)
            if seen.outcome is not Outcome.SOMETIMES:
                assert verdict.allowed is (seen.outcome is Outcome.ALWAYS)


def test_keys_that_no_policy_tells_apart_are_one_row(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "directory.yaml", "keys:", "keys:\n" + "".join(f"  lab-{n}: {{team: research}}\n" for n in range(40)))
    found = of(folder)
    (group,) = [row for row in found.rows if len(row.principals) > 1 and row.team == "research"]
    assert (group.shown, len(group.principals)) == ('Team::"research": 41 keys like Key::"lab-0"', 41)
    edit(folder, "research.cedar", "when\n{", 'when\n{\n  principal != Key::"lab-7" &&')
    named = row(of(folder), 'Key::"lab-7"')
    assert named.cells["chat"]["qwen/qwen3.6-27b"].outcome is Outcome.NEVER
    (group,) = [row for row in of(folder).rows if len(row.principals) > 1 and row.team == "research"]
    assert len(group.principals) == 40
    assert len([row for row in of(folder, apart=True).rows if row.team == "research" and row.shown.startswith("Key")]) == 41


def test_a_disabled_key_may_nothing_and_stands_apart_from_its_like(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "directory.yaml", "research-lab: {team: research,", "research-lab: {team: research, disabled: true,")
    edit(folder, "directory.yaml", "keys:", "keys:\n  lab-2: {team: research}")
    assert cell(of(folder), 'Key::"lab-2"', "chat", "qwen/qwen3.6-27b").outcome is Outcome.ALWAYS
    found = row(of(folder), 'Key::"research-lab", disabled')
    assert {cell.outcome for by_name in found.cells.values() for cell in by_name.values()} == {Outcome.NEVER}


def test_what_has_no_price_or_is_retired_is_not_a_column(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "models.yaml", '    price: {input: "0.60", output: "3.00", cached_input: "0.30"}\n', "")
    columns = {resource for _, resource in of(folder).columns}
    assert "qwen/qwen3.6-27b" not in columns
    assert "mixtral-8x7b-32768" not in columns
    assert "llama-3.1-8b-instant" in columns


def test_filters() -> None:
    found = of(REFERENCE, teams=("research",), models=("qwen/qwen3.6-27b",), actions=("chat",))
    assert found.columns == (("chat", "qwen/qwen3.6-27b"),)
    assert {row.team for row in found.rows} == {"research"}
    for name in ("rhea", 'User::"rhea"'):
        assert [row.shown for row in of(REFERENCE, principals=(name,)).rows] == ['User::"rhea" in Team::"research"']


def test_administration_is_asked_by_how_people_stand_to_it() -> None:
    found = of(REFERENCE, administration=True)
    dev, owner = 'User::"dev" in Team::"chatbot"', 'User::"olivia" in Team::"chatbot"'
    assert cell(found, dev, "key.create", "own team").outcome is Outcome.ALWAYS
    assert cell(found, dev, "key.create", "another team").outcome is Outcome.NEVER
    assert cell(found, dev, "key.revoke", "key of own team").outcome is Outcome.ALWAYS
    assert cell(found, dev, "key.revoke", "key of another team").outcome is Outcome.NEVER
    assert cell(found, owner, "policy.publish", "organisation").allowed_by == ("owner-administers",)
    assert set(ACTIONS) & set(row(found, dev).cells) == {name for name in ACTIONS if "." in name}


def test_a_policy_that_cannot_be_evaluated_denies_and_is_told(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    overflow = "when { context.input_tokens + 9223372036854775807 > 0 }"
    forbid = f'@id("broken")\nforbid (principal, action, resource is Model) {overflow};\n'
    edit(folder, "research.cedar", "@id(", f"{forbid}@id(")
    found = cell(of(folder), 'Key::"research-lab"', "chat", "qwen/qwen3.6-27b")
    assert found.outcome is Outcome.NEVER
    assert "broken" in found.errors[0]
