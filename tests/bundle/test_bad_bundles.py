"""A bad bundle never comes to be, and its error says where: file, line, column, the line itself."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from authz.bundle import BundleSource, load_bundle
from authz.errors import ConfigError
from tests.bundle.folders import copy, edit

BAD = [
    # file, text, replaced by, what is under the caret, problem
    ("research.cedar", "Team::", "Taem::", "Taem", "unrecognized entity type `Taem`"),
    ("research.cedar", 'Team::"research"', 'Team::"reserach"', 'Team::"reserach"', 'Team::"reserach", which does not exist'),
    (
        "research.cedar",
        'Model::"openai/gpt-oss-20b"',
        'Model::"gpt-4o"',
        'Model::"gpt-4o"',
        'Model::"gpt-4o", which does not exist',
    ),
    ("analytics.cedar", 'ModelGroup::"cheapest"', 'ModelGroup::"cheap"', 'ModelGroup::"cheap"', "which does not exist"),
    ("analytics.cedar", "context.spend.org.percent", "context.spend.orgs.percent", "orgs", "attribute `spend.orgs`"),
    ("chatbot.cedar", '"chatbot-models"', '"analytics-cheapest"', '@id("analytics-cheapest")', "the id `analytics-cheapest`"),
    ("analytics.cedar", ">= 80 };", ">= 80 }", "", "unexpected end of input"),
    ("chatbot.cedar", "permit (", "premit (", "premit", "invalid policy effect: premit"),
    ("chatbot.cedar", "  action in", "  acton in", "acton", "invalid variable in the policy scope: acton"),
    ("chatbot.cedar", "when {", "wen {", "wen", "invalid policy condition: wen"),
    ("schema.cedarschema", "  tools: Bool,", "  tools: Bool,,", ",", "unexpected token `,`"),
    ("schema.cedarschema", "type Administration = {", "type Administration {", "{", "unexpected token `{`"),
    ("schema.cedarschema", "entity Team in [Org]", "entity Team in [Orgg]", "Orgg", "failed to resolve type: Orgg"),
    ("schema.cedarschema", "  tools: Bool,", "  tools: Bol,", "Bol", "Bol"),
    ("directory.yaml", "analytics-reports: {team: analytics", "analytics-reports: {team: analytic", "analytic", "unknown team"),
    ("directory.yaml", "roles: [reader]", "roles: [raeder]", "raeder", "unknown role `raeder`"),
    ("directory.yaml", "  dev: {", '  "dev\\u200b": {', "", "expected letters, digits"),
    ("directory.yaml", "keys:\n", "keys:\n  x: {team: chatbot, secret: abc}\n", "secret", "unknown field, expected `team`"),
    ("models.yaml", '"0.0375"', '"0.0375x"', '"0.0375x"', "expected an amount in USD"),
    ("models.yaml", "groups: [cheapest]", "groups: [chepest]", "chepest", "unknown group `chepest`"),
    ("models.yaml", "replacement: openai/gpt-oss-20b", "replacement: gpt-5", "gpt-5", "unknown model `gpt-5`"),
    ("quotas.yaml", 'Key::"chatbot-prod"', 'Key::"chatbot-prd"', 'Key::"chatbot-prd"', "does not exist"),
    ("quotas.yaml", "limit: 500 USD/month", "limit: 500 EUR/month", "500 EUR/month", "expected USD"),
    ("quotas.yaml", "limit: 60/minute", "limit: 60/minute\n    models: [gpt-5]", "gpt-5", "no model and no model group"),
    ("tests/models.yaml", "policies: [chatbot-models]", "policies: [chatbot-model]", "[chatbot-model]", "there is no policy"),
    ("tests/models.yaml", 'Key::"chatbot-prod"', 'Key::"nobody"', 'Key::"nobody"', "is no key and no user"),
    ("tests/models.yaml", "model: openai/gpt-oss-120b", "model: openai/gpt-oss-121b", "openai/gpt-oss-121b", "unknown model"),
    ("tests/limits.yaml", "used: {org-spend", "used: {org-spent", "{org-spent: 500 USD}", "there is no quota `org-spent`"),
    ("tests/limits.yaml", "reason: spend_cap_reached", "reason: spent", "spent", "invalid enum value 'spent', expected"),
    ("tests/administration.yaml", "team: research\n", "team: nowhere\n", "nowhere", "acts in one of its teams"),
    ("tests/administration.yaml", "action: key.create", "action: key.crate", "key.crate", "unknown action `key.crate`"),
    ("tests/administration.yaml", "resource: Org::", "model: Org::", "{action", "expected `resource` and no `model`"),
]


@pytest.mark.parametrize(("name", "old", "new", "under", "problem"), BAD, ids=lambda value: str(value)[:30])
def test_an_error_names_file_line_and_place(tmp_path: Path, name: str, old: str, new: str, under: str, problem: str) -> None:
    folder = copy(tmp_path)
    edit(folder, name, old, new)
    with pytest.raises(ConfigError) as caught:
        load_bundle(folder)
    error = caught.value
    assert error.file == f"{folder}/{name}"
    assert problem in error.problem
    assert error.line > 0
    assert error.excerpt == (folder / name).read_text(encoding="utf-8").split("\n")[error.line - 1]
    assert error.excerpt[error.column - 1 :].startswith(under)
    assert str(error).endswith("^")


@pytest.mark.parametrize("name", ["schema.cedarschema", "directory.yaml", "models.yaml", "quotas.yaml"])
def test_a_part_that_is_missing_is_named(tmp_path: Path, name: str) -> None:
    folder = copy(tmp_path)
    (folder / name).unlink()
    with pytest.raises(ConfigError, match=f"`{name}` is missing"):
        load_bundle(folder)


@pytest.mark.parametrize("name", ["no-interns.cdear", "models.yml", "directory.json"])
def test_a_file_with_a_slip_in_its_name_is_not_passed_over(tmp_path: Path, name: str) -> None:
    folder = copy(tmp_path)
    (folder / name).write_text("")
    with pytest.raises(ConfigError, match="does not belong to a bundle"):
        load_bundle(folder)


def test_neither_is_a_folder(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "more").mkdir()
    with pytest.raises(ConfigError, match="an unknown folder"):
        load_bundle(folder)


def test_hidden_files_and_notes_are_no_part_of_a_bundle(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    before = load_bundle(folder).digest
    (folder / "README.md").write_text("how we work")
    (folder / ".analytics.cedar.swp").write_bytes(b"\xff")
    assert load_bundle(folder).digest == before


def test_no_policy_file_and_no_folder_are_errors(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    for file in folder.glob("*.cedar"):
        file.unlink()
    with pytest.raises(ConfigError, match="without a permit nothing is allowed"):
        load_bundle(folder)
    with pytest.raises(ConfigError, match="cannot be read"):
        load_bundle(tmp_path / "nowhere")


def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    os.mkfifo(folder / "more.cedar")
    with pytest.raises(ConfigError, match=r"more\.cedar: expected a plain file"):
        load_bundle(folder)
    (folder / "more.cedar").unlink()
    (folder / "more.cedar").symlink_to("nowhere.cedar")
    with pytest.raises(ConfigError, match=r"more\.cedar: cannot be read: no such file"):
        load_bundle(folder)


def test_text_that_is_not_utf8_is_refused(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "extra.cedar").write_bytes(b"// \xe9\n")
    with pytest.raises(ConfigError, match="not UTF-8 at byte 3"):
        load_bundle(folder)


def test_a_schema_that_the_engine_does_not_fit_is_refused(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "schema.cedarschema", "  tools: Bool,", "  tool: Bool,")
    with pytest.raises(ConfigError, match="action `chat` by a Key on a Model does not fit") as caught:
        load_bundle(folder)
    assert caught.value.file.endswith("schema.cedarschema")
    edit(folder, "schema.cedarschema", "  tool: Bool,", "  tools: Bool,")
    edit(folder, "schema.cedarschema", "entity Key in [User, Team, Role] { team: Team }", "entity Key in [User, Team, Role]")
    for _ in ("developer", "reader"):
        edit(folder, "administration.cedar", "when { principal in resource.team };", ";")
    with pytest.raises(ConfigError, match='Key::"chatbot-prod": '):
        load_bundle(folder)


def test_the_digest_is_of_every_name_and_byte_and_of_nothing_else(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    first = load_bundle(folder).digest
    assert first.startswith("sha256:")
    assert len(first) == 7 + 64
    assert load_bundle(folder).digest == first
    digests = {first}
    for name in ("chatbot.cedar", "models.yaml", "tests/models.yaml", "schema.cedarschema"):
        file = folder / name
        text = file.read_text(encoding="utf-8")
        file.write_text(text + "\n", encoding="utf-8")
        digests.add(load_bundle(folder).digest)
        file.write_text(text, encoding="utf-8")
    (folder / "chatbot.cedar").rename(folder / "chat.cedar")
    digests.add(load_bundle(folder).digest)
    assert len(digests) == 6


def test_a50_a_bad_bundle_leaves_the_last_good_one_in_force(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    told: list[str] = []
    source = BundleSource(folder, load_bundle, clock=lambda: 7, reloaded=told.append)
    good = source.current
    assert not source.refresh()
    edit(folder, "chatbot.cedar", "permit (", "permit ((")
    assert not source.refresh()
    assert source.current is good
    assert (source.status.digest, source.status.refused_ns) == (good.digest, 7)
    assert "chatbot.cedar:4:9: unexpected token" in source.status.refused
    edit(folder, "chatbot.cedar", "permit ((", "forbid (")
    assert source.refresh()
    assert source.current.digest == source.status.digest != good.digest
    assert source.status.refused == ""
    assert told == ["refused", "swapped"]


LINKS = """links:
  - {id: lab, template: team-model, principal: {type: Team, id: research}, resource: {type: Model, id: whisper-large-v3}}
  - {id: bad, template: team-model, principal: {type: Team, id: %s}, resource: {type: Model, id: whisper-large-v3}}
"""
TEMPLATE = '@id("team-model") permit (principal in ?principal, action in Action::"infer", resource == ?resource);'


def test_templates_are_linked_by_a_file_of_their_own(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "templates.cedar").write_text(TEMPLATE)
    (folder / "links.yaml").write_text(LINKS % "chatbot")
    assert {policy.id for policy in load_bundle(folder).policies if policy.template} == {"lab", "bad"}
    (folder / "links.yaml").write_text(LINKS % "nowhere")
    with pytest.raises(ConfigError, match="which does not exist") as caught:
        load_bundle(folder)
    assert (caught.value.file, caught.value.line) == (f"{folder}/links.yaml", 3)
    (folder / "templates.cedar").unlink()
    with pytest.raises(ConfigError, match="unknown template") as caught:
        load_bundle(folder)
    assert caught.value.line == 2
