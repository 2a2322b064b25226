"""Users whom only an identity provider knows: no rule accuses what is there for them, and reviews say what they may."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.bundle import load_bundle
from authz.bundle.files import read_parts
from authz.review.access import Side, Survey
from authz.review.changes import Change
from authz.review.diff import compare
from authz.review.findings import Severity
from authz.review.lint import lint
from authz.review.matrix import Outcome, Wanted, make
from tests.review.small import FILES, NOW_NS

OKTA = "https://acme.okta.com"
WEB = "spiffe://acme.example/web"
ISSUERS = """issuers:
  okta:
    issuer: https://acme.okta.com
    jwks_uri: https://acme.okta.com/keys
    audience: [authz]
    claims: {groups: [groups]}
    prefix: okta.
    groups:
      Lab: {teams: [lab]}
      Developers: {roles: [developer]}
"""
POLICIES = """
@id("lab") permit (principal in Team::"lab", action in Action::"infer", resource == Model::"m1");
@id("developers")
permit (principal is User in Role::"developer", action == Action::"key.create", resource is Team)
when { principal in resource };
"""


def bundle(into: Path, *, users: str = "", more: str = "", issuers: str = ISSUERS) -> Path:
    folder = into / "bundle"
    (folder / "tests").mkdir(parents=True)
    directory = FILES["directory.yaml"].replace("  app: {}\n", "  app: {}\n  lab: {}\n")
    directory = directory.replace("  owner: {}\n", "  owner: {}\n  developer: {}\n")
    directory = directory.replace("users:\n", f"users:\n{users}")
    for name, text in {**FILES, "directory.yaml": directory + issuers, "guests.cedar": POLICIES + more}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return folder


def side(folder: Path) -> Side:
    return Side(load_bundle(folder))


def said(folder: Path) -> list[str]:
    found = lint(load_bundle(folder), read_parts(folder), NOW_NS)
    return [f"{each.rule}: {each.message}" for each in found if each.severity is not Severity.NOTE]


@pytest.mark.parametrize(
    ("users", "more"),
    [
        ("", ""),
        ("  okta.bo: {teams: [], disabled: true}\n", ""),
        ("  okta.bo: {teams: [], roles: [developer]}\n", ""),
        ("  okta.bo: {teams: []}\n", '@id("x") forbid (principal == User::"okta.bo", action in Action::"infer", resource);'),
        ("", '@id("x") forbid (principal in Role::"developer", action == Action::"chat", resource) when { context.tools };'),
        ("", '@id("x") forbid (principal in Team::"lab", action, resource) unless { principal in Role::"developer" };'),
        ("", '@id("x") forbid (principal in Team::"lab", action, resource) when { principal in Role::"developer" };'),
    ],
)
def test_what_is_there_for_them_is_not_accused(tmp_path: Path, users: str, more: str) -> None:
    assert said(bundle(tmp_path, users=users, more=more)) == []


def test_roles_that_groups_give_to_users_of_the_directory_are_somebodys(tmp_path: Path) -> None:
    issuers = ISSUERS.replace("      Lab: {teams: [lab]}\n", "")
    assert said(bundle(tmp_path, users="  okta.bo: {teams: [lab]}\n", issuers=issuers)) == []


def test_what_no_group_gives_is_still_accused(tmp_path: Path) -> None:
    without = ISSUERS.replace("Lab: {teams: [lab]}", "Lab: {roles: [owner]}")
    assert said(bundle(tmp_path, issuers=without)) == [
        'never-matches: no key and no user is in Team::"lab"',
        'never-matches: no key and no user is in Role::"developer" of type User',
    ]
    users = "  other.bo: {teams: []}\n"
    assert said(bundle(tmp_path / "b", users=users)) == ['unused-entity: User::"other.bo" is in no team, and so can never act']


def test_the_matrix_has_a_row_for_those_who_are_alike(tmp_path: Path) -> None:
    survey = Survey(side(bundle(tmp_path)))
    cells = {row.shown: row.cells["chat"]["m1"].outcome for row in make(survey, Wanted()).rows}
    assert cells['User::"okta.*" in Team::"lab"'] is Outcome.ALWAYS
    assert cells['User::"okta.*+developer" in Team::"lab"'] is Outcome.ALWAYS
    rows = {row.shown: row.cells for row in make(survey, Wanted(administration=True)).rows}
    create = {
        name: rows[f'User::"{name}" in Team::"lab"']["key.create"]["own team"].outcome
        for name in ("okta.*", "okta.*+developer")
    }
    assert create == {"okta.*": Outcome.NEVER, "okta.*+developer": Outcome.ALWAYS}


def test_a_disabled_team_is_so_for_them(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    directory = folder / "directory.yaml"
    directory.write_text(directory.read_text().replace("  lab: {}", "  lab: {disabled: true}"))
    cells = {row.shown: row.cells["chat"]["m1"].outcome for row in make(Survey(side(folder)), Wanted()).rows}
    assert cells['User::"okta.*" in Team::"lab", disabled'] is Outcome.NEVER


def changes(tmp_path: Path, old: str, new: str, issuers: str = ISSUERS) -> list[Change]:
    before, after = bundle(tmp_path / "a", issuers=issuers), bundle(tmp_path / "b", issuers=issuers)
    directory = after / "directory.yaml"
    assert old in directory.read_text()
    directory.write_text(directory.read_text().replace(old, new, 1))
    return list(compare(side(before), side(after)).directory)


@pytest.mark.parametrize(
    ("old", "new", "name", "text"),
    [
        ("Lab: {teams: [lab]}", "Lab: {teams: [app]}", OKTA, "group Lab changed, gives teams app"),
        ("      Lab: {teams: [lab]}\n", "", OKTA, "group Lab removed"),
        ("    groups:\n", "    groups:\n      New: {teams: [app]}\n", OKTA, "group New added, gives teams app"),
        ("okta.com/keys", "evil.example/keys", OKTA, f"keys from {OKTA}/keys → https://acme.evil.example/keys"),
        ("audience: [authz]", "audience: [authz, x]", OKTA, "audience authz → authz, x"),
        ("web: {team: app}", f'web: {{team: app, spiffe: ["{WEB}"]}}', "web", f"certificate {WEB} added"),
        ("  lab: {}", "  lab: {disabled: true}", "lab", "disabled"),
    ],
)
def test_a_diff_tells_who_else_gets_in(tmp_path: Path, old: str, new: str, name: str, text: str) -> None:
    told = {change.name: [detail.text for detail in change.details] for change in changes(tmp_path, old, new)}
    assert told == {name: [text]}


def test_a_diff_tells_what_a_group_opens(tmp_path: Path) -> None:
    new = "Lab: {teams: [lab]}\n      Apps: {teams: [app]}"
    found = compare(
        side(bundle(tmp_path / "a")), side(bundle(tmp_path / "b", issuers=ISSUERS.replace("Lab: {teams: [lab]}", new)))
    )
    assert 'User::"okta.*"' in str(found.more_permissive)
