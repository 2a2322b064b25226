"""Every rule speaks where it should, at the right place, and is silent beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.bundle import load_bundle
from authz.bundle.files import read_parts
from authz.review.findings import Finding, Severity
from authz.review.lint import RULES, lint
from authz.review.lint.rules import MAX_SHOWN
from tests.bundle.folders import REFERENCE
from tests.review.small import FILES, NOW_NS, bundle

INFER = 'action in Action::"infer"'


def linted(folder: Path) -> tuple[Finding, ...]:
    return lint(load_bundle(folder), read_parts(folder), NOW_NS)


def said(folder: Path) -> dict[str, str]:
    """The message of each rule that has found something; of several, the first."""
    return {finding.rule: finding.message for finding in reversed(linted(folder)) if finding.severity is not Severity.NOTE}


def test_the_smallest_bundle_is_clean(tmp_path: Path) -> None:
    assert linted(bundle(tmp_path)) == ()


def test_the_reference_bundle_has_notes_and_no_warning() -> None:
    assert {finding.message for finding in linted(REFERENCE)} == {
        'ModelGroup::"guard": no policy and no quota speaks of it',
        'ModelGroup::"audio": no policy and no quota speaks of it',
    }


def test_every_rule_says_why_it_matters() -> None:
    for name, rule in RULES.items():
        assert rule.__name__.replace("_", "-") == name
        assert len(rule.__doc__ or "") > 60
    guide = (REFERENCE.parent / "docs" / "policies" / "README.md").read_text(encoding="utf-8")
    assert all(f"| `{name}` |" in guide for name in RULES)


SHADOWED = [
    # a wider permit
    ('permit (principal in Org::"acme", %s, resource);', "app-models", "adds nothing: `x` ("),
    ("permit (principal, %s, resource) when { true };", "app-models", "adds nothing: `x` ("),
    # a forbid over all of it
    ('forbid (principal in Team::"app", %s, resource);', "app-models", "can never allow: `x` ("),
    ("forbid (principal, action, resource is Model);", "app-models", "can never allow: `x` ("),
    # narrower than what stands there
    (
        'permit (principal == Key::"web", %s, resource in ModelGroup::"fast") when { context.stream };',
        "x",
        "adds nothing: `app-models`",
    ),
    (
        'permit (principal in Team::"app", action == Action::"chat", resource == Model::"m1");',
        "x",
        "adds nothing: `app-models`",
    ),
    ('permit (principal == User::"ada", %s, resource in ModelGroup::"fast");', "x", "adds nothing: `app-models`"),
    ('permit (principal is Key in Team::"app", %s, resource == Model::"m1");', "x", "adds nothing: `app-models`"),
    (
        '@mode("shadow") permit (principal in Team::"app", %s, resource == Model::"m1");',
        "x",
        "would change nothing: `app-models`",
    ),
]


@pytest.mark.parametrize(("policy", "by", "message"), SHADOWED)
def test_shadowed(tmp_path: Path, policy: str, by: str, message: str) -> None:
    folder = bundle(tmp_path, more=f'@id("x") {policy.replace("%s", INFER)}')
    found = [finding for finding in linted(folder) if finding.rule == "shadowed"]
    assert [finding.message.startswith(message) for finding in found] == [True]
    assert (f'@id("{by}")' in found[0].excerpt) is True


NOT_SHADOWED = [
    'permit (principal in Org::"acme", %s, resource) when { context.stream };',  # under a condition
    '@mode("shadow") permit (principal in Org::"acme", %s, resource);',  # decides nothing
    '@mode("shadow") forbid (principal, action, resource);',
    'permit (principal in Org::"acme", action == Action::"chat", resource);',  # fewer actions
    'permit (principal in Org::"acme", %s, resource == Model::"voice");',  # another model
    "permit (principal is User, %s, resource) when { context.stream };",  # some of the principals
    'forbid (principal == Key::"web", %s, resource);',  # forbids some
    "forbid (principal, %s, resource) when { context.tools };",
]


@pytest.mark.parametrize("policy", NOT_SHADOWED)
def test_not_shadowed(tmp_path: Path, policy: str) -> None:
    assert "shadowed" not in said(bundle(tmp_path, more=f'@id("x") {policy.replace("%s", INFER)}'))


def test_twins_are_told_of_once_and_at_the_later_one(tmp_path: Path) -> None:
    one = '%s permit (principal in Team::"app", action, resource) when { %s };\n'
    twins = one % ('@id("x")', "context has source_ip") + one % ('@id("y")', "context  has\nsource_ip")
    (finding,) = [each for each in linted(bundle(tmp_path, more=twins)) if each.rule == "shadowed"]
    assert finding.message.startswith("says the same as `x` (")
    assert (finding.line, '@id("y")' in finding.excerpt) == (2, True)
    (tmp_path / "bundle/more.cedar").write_text(twins.replace("context  has\nsource_ip", "!(context has source_ip)"))
    assert "shadowed" not in said(tmp_path / "bundle")


@pytest.mark.parametrize("how", ["==", "in"])
def test_a_user_of_two_teams_is_above_neither(tmp_path: Path, how: str) -> None:
    """The user acts in one of them, and so does each of the user's keys: a permit for one team does not cover both."""
    more = f'@id("x") permit (principal {how} User::"ada", {INFER}, resource in ModelGroup::"fast");'
    folder = bundle(tmp_path, more=more, directory=("teams: [app]", "teams: [app, other]"))
    text = (folder / "directory.yaml").read_text()
    (folder / "directory.yaml").write_text(text.replace("  app: {}\n", "  app: {}\n  other: {}\n"))
    assert "shadowed" not in said(folder)


NEVER = [
    (
        "directory",
        ("  app: {}\n", "  app: {}\n  empty: {}\n"),
        'principal in Team::"empty", action, resource',
        'no key and no user is in Team::"empty"',
        'Team::"empty"',
    ),
    (
        "directory",
        ("  owner: {}\n", "  owner: {}\n  none: {}\n"),
        'principal is User in Role::"none", action, resource',
        'no key and no user is in Role::"none" of type User',
        'Role::"none"',
    ),
    (
        "directory",
        ("keys:", "  bob: {teams: []}\nkeys:"),
        'principal == User::"bob", action, resource',
        'User::"bob" is in no team, and so never asks',
        'User::"bob"',
    ),
    (
        "models",
        ("  fast: {}", "  fast: {}\n  void: {}"),
        'principal, %s, resource in ModelGroup::"void"',
        'no model is in ModelGroup::"void"',
        'ModelGroup::"void"',
    ),
    (
        None,
        None,
        'principal, action == Action::"speak", resource in ModelGroup::"fast"',
        "no model in its scope serves `speak`",
        'ModelGroup::"fast"',
    ),
    (None, None, 'principal, action == Action::"embed", resource', "no model in its scope serves `embed`", "@id"),
    (None, None, 'principal, %s, resource == Model::"old"', 'Model::"old" is decommissioned', 'Model::"old"'),
    (
        None,
        None,
        'principal, %s, resource == Model::"one"',
        'Model::"one" is an alias: a request for it has to be allowed on Model::"m1" too',
        'Model::"one"',
    ),
]


@pytest.mark.parametrize(("file", "change", "scope", "message", "under"), NEVER)
def test_never_matches_by_its_scope(
    tmp_path: Path, file: str | None, change: tuple[str, str] | None, scope: str, message: str, under: str
) -> None:
    replaced = {file: change} if file is not None and change is not None else {}
    more = f'@id("x")\nforbid ({scope.replace("%s", INFER)})\nwhen {{ context has source_ip }};'
    folder = bundle(tmp_path, more=more, **replaced)
    assert set(said(folder)) - {"never-matches"} == ({"unused-entity"} if "bob" in scope else set())  # said once
    (finding,) = [each for each in linted(folder) if each.rule == "never-matches"]
    assert finding.message.startswith(message)
    assert finding.excerpt[finding.column - 1 :].startswith(under)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ("when { false }", "its conditions never hold"),
        ("when { context.tools && !true }", "its conditions never hold"),
        ('when { principal is Key && principal in Role::"owner" }', "its conditions hold for no key and no user in its scope"),
        ('unless { principal in Org::"acme" }', "its conditions hold for no key and no user in its scope"),
        ('when { resource in [Model::"old"] }', "every model that it names is decommissioned"),
        (
            'when { resource in [Model::"voice"] && !(resource == Model::"voice") }',
            "its conditions hold for no model in its scope",
        ),
        ('when { resource in [Model::"m1", Model::"one"] && context.tools }', 'Model::"one" is an alias'),
    ],
)
def test_never_matches_by_its_conditions(tmp_path: Path, conditions: str, message: str) -> None:
    found = said(bundle(tmp_path, more=f'@id("x") forbid (principal, {INFER}, resource) {conditions};'))
    assert found["never-matches"].startswith(message)


@pytest.mark.parametrize(
    "policy",
    [
        'forbid (principal, %s, resource) when { resource in [Model::"m1", Model::"old"] && context.tools };',
        'forbid (principal in Role::"owner", %s, resource) unless { principal is Key };',
        "forbid (principal, action, resource) when { resource has team && principal in resource.team };",
        'forbid (principal, action == Action::"list_models", resource) when { context.tools };',
        'forbid (principal, action == Action::"key.create", resource is Team) when { principal in resource };',
        'forbid (principal, action == Action::"key.revoke", resource == Key::"web");',
        'forbid (principal in User::"ada", action, resource) when { context.time.hour > 22 };',
    ],
)
def test_what_can_match_is_not_accused(tmp_path: Path, policy: str) -> None:
    assert said(bundle(tmp_path, more=f'@id("x") {policy.replace("%s", INFER)}')) == {}


def test_a_linked_policy_is_told_of_where_it_is_linked(tmp_path: Path) -> None:
    template = '@id("t") permit (principal in ?principal, action in Action::"infer", resource == ?resource);'
    folder = bundle(tmp_path, more=template)
    row = "  - {id: %s, template: t, principal: {type: Team, id: app}, resource: {type: Model, id: %s}}\n"
    (folder / "links.yaml").write_text("links:\n" + row % ("fine", "voice") + row % ("bad", "old"))
    (finding,) = linted(folder)
    assert (finding.rule, finding.file, finding.line) == ("never-matches", f"{folder}/links.yaml", 3)


def test_open_permit(tmp_path: Path) -> None:
    policy = '@id("x") permit (principal, action in Action::"infer", resource == Model::"voice")'
    assert said(bundle(tmp_path, more=f"{policy};"))["open-permit"].startswith("permits whoever asks")


@pytest.mark.parametrize(
    "policy",
    [
        'permit (principal in Org::"acme", action in Action::"infer", resource == Model::"voice");',
        'permit (principal, action in Action::"infer", resource == Model::"voice") when { context.stream };',
        '@mode("shadow") permit (principal, action in Action::"infer", resource == Model::"voice");',
    ],
)
def test_not_an_open_permit(tmp_path: Path, policy: str) -> None:
    assert "open-permit" not in said(bundle(tmp_path, more=f'@id("x") {policy}'))


ORG = """scope: 'Org::"acme"', what: spend, limit: 5 USD/month}"""


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        ("""scope: 'Org::"acme"', what: requests, limit: 5/minute}""", "no spend quota is enforced: "),
        (ORG.replace("}", ", mode: shadow}"), "no spend quota is enforced: "),
        (ORG.replace("Org", "User").replace("acme", "ada"), 'Key::"web" may use `m1`'),
        (ORG.replace("Org", "Key").replace("acme", "web"), 'User::"ada" in Team::"app" may use `m1`'),
        (ORG.replace("}", ", models: [voice]}"), 'Key::"web" may use `m1`'),
        ("""scope: ['Role::"owner"', 'ModelGroup::"fast"'], what: spend, limit: 5 USD/month}""", 'Key::"web" may use `m1`'),
    ],
)
def test_unbounded_permit(tmp_path: Path, quota: str, message: str) -> None:
    (finding, *_) = [each for each in linted(bundle(tmp_path, quotas=(ORG, quota))) if each.rule == "unbounded-permit"]
    assert finding.message.startswith(message)
    assert finding.file.endswith("quotas.yaml" if "no spend" in message else "a.cedar")


@pytest.mark.parametrize(
    "quota",
    [
        ORG.replace("Org", "Team").replace("acme", "app"),
        ORG.replace("}", ", models: [fast]}"),
        ORG.replace("}", ", per: key}"),
        """scope: ['Team::"app"', 'ModelGroup::"fast"'], what: spend, limit: 5 USD/month}""",
        """scope: 'ModelGroup::"fast"', what: spend, limit: 5 USD/day, per: user}""",
    ],
)
def test_a_permit_with_a_ceiling_anywhere_on_the_way(tmp_path: Path, quota: str) -> None:
    assert "unbounded-permit" not in said(bundle(tmp_path, quotas=(ORG, quota)))


def test_whoever_may_not_ask_needs_no_ceiling(tmp_path: Path) -> None:
    """Disabled, forbidden whatever it is, not meant by the condition, or asking for what costs nothing by token."""
    only_key = ORG.replace("Org", "Key").replace("acme", "web")
    more = '@id("x") forbid (principal is User, action in Action::"infer", resource);'
    folder = bundle(tmp_path, more=more, quotas=(ORG, only_key))
    assert said(folder) == {}
    (folder / "more.cedar").unlink()
    assert set(said(folder)) == {"unbounded-permit"}
    text = (folder / "a.cedar").read_text()
    (folder / "a.cedar").write_text(text.replace('"fast");', '"fast") when { principal is Key };', 1))
    assert said(folder) == {}
    (folder / "a.cedar").write_text(text)
    directory = (folder / "directory.yaml").read_text()
    (folder / "directory.yaml").write_text(directory.replace("roles: [owner]}", "roles: [owner], disabled: true}"))
    (folder / "tests/a.yaml").unlink()
    assert said(folder) == {}


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        (", price: {input: 1, output: 1}", "", "`m1` is permitted for `chat` and has no price by token"),
        (
            "actions: [chat], price",
            "actions: [chat, transcribe], price",
            "`m1` is permitted for `transcribe` and has no price for an hour",
        ),
        (
            "actions: [chat], price",
            "actions: [chat, speak], price",
            "`m1` is permitted for `speak` and has no price for characters",
        ),
    ],
)
def test_unpriced_model(tmp_path: Path, old: str, new: str, message: str) -> None:
    (finding,) = linted(bundle(tmp_path, models=(old, new)))
    assert finding.rule == "unpriced-model"
    assert finding.message.startswith(message)
    assert (finding.line, "m1:" in finding.excerpt) == (5, True)


def test_a_model_that_nobody_may_use_needs_no_price(tmp_path: Path) -> None:
    assert said(bundle(tmp_path, models=(", price: {million_characters: 1}", ""))) == {}
    more = '@id("x") forbid (principal, action == Action::"speak", resource);'
    (tmp_path / "bundle/more.cedar").write_text(more)
    folder = tmp_path / "bundle"
    models = (folder / "models.yaml").read_text().replace("voice: {actions", "voice: {groups: [fast], actions")
    (folder / "models.yaml").write_text(models)
    assert said(folder) == {}
    (folder / "more.cedar").unlink()
    assert set(said(folder)) == {"unpriced-model"}


@pytest.mark.parametrize(
    ("quota", "message"),
    [
        ("""scope: 'Team::"idle"'""", 'quota `q`: nobody in Team::"idle" may use any model'),
        ("""scope: 'Key::"batch"'""", 'quota `q`: nobody in Key::"batch" may use any model'),
        ("""scope: 'Org::"acme"', models: [voice]""", "quota `q`: no model that it is about is permitted"),
        ("""scope: 'ModelGroup::"slow"'""", "quota `q`: no model that it is about is permitted"),
    ],
)
def test_quota_never_met(tmp_path: Path, quota: str, message: str) -> None:
    row = f"quotas:\n  - {{id: q, {quota}, what: requests, limit: 5/minute}}\n"
    folder = bundle(tmp_path, quotas=("quotas:\n", row), models=("  fast: {}", "  fast: {}\n  slow: {}"))
    directory = (folder / "directory.yaml").read_text().replace("  app: {}", "  app: {}\n  idle: {}")
    (folder / "directory.yaml").write_text(directory + "  batch: {team: idle}\n")
    (finding,) = [each for each in linted(folder) if each.rule == "quota-never-met"]
    assert finding.message.startswith(message)
    assert (finding.file, finding.line) == (f"{folder}/quotas.yaml", 2)


def test_a_quota_for_whom_a_shadow_permit_lets_in_waits_for_it(tmp_path: Path) -> None:
    row = """quotas:\n  - {id: q, scope: 'ModelGroup::"fast"', what: requests, limit: 5/minute, per: team, models: [m1]}\n"""
    assert said(bundle(tmp_path, quotas=("quotas:\n", row))) == {}
    folder = tmp_path / "bundle"
    row = """  - {id: q, scope: 'Team::"app"', what: requests, limit: 5/minute, per: key, models: [voice]}\n"""
    (folder / "quotas.yaml").write_text(FILES["quotas.yaml"] + row)
    assert set(said(folder)) == {"quota-never-met"}
    (folder / "more.cedar").write_text(f'@id("x") @mode("shadow") permit (principal, {INFER}, resource == Model::"voice");')
    assert said(folder) == {}


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("directory", "  app: {}\n", "  app: {}\n  spare: {}\n", 'Team::"spare": no key and no user is in it'),
        ("directory", "  owner: {}\n", "  owner: {}\n  spare: {}\n", 'Role::"spare": nobody has it'),
        ("models", "  fast: {}\n", "  fast: {}\n  spare: {}\n", 'ModelGroup::"spare": no model is in it'),
        ("directory", "  app: {}\n", "  app: {}\n  lab: {}\n", 'Key::"bench" may do nothing: no permit is about it'),
        ("directory", "users:\n", "users:\n  eve: {teams: [app]}\n", 'User::"eve" may do nothing: no permit is about it'),
        ("directory", "users:\n", "users:\n  eve: {teams: []}\n", 'User::"eve" is in no team, and so can never act'),
    ],
)
def test_unused_entity(tmp_path: Path, file: str, old: str, new: str, message: str) -> None:
    folder = bundle(
        tmp_path, more="", **{file: (old, new)}, cedar=('principal in Team::"app"', 'principal is Key in Team::"app"')
    )
    if "lab" in new:
        (folder / "directory.yaml").write_text((folder / "directory.yaml").read_text() + "  bench: {team: lab}\n")
    (finding,) = linted(folder)
    assert (finding.rule, finding.message, finding.severity) == ("unused-entity", message, Severity.WARNING)
    assert (new.split("\n")[-2] in finding.excerpt) or "bench" in finding.excerpt


@pytest.mark.parametrize(
    ("row", "more"),
    [
        ("bench: {team: lab, disabled: true}", ""),  # it is meant to do nothing
        ("bench: {team: lab}", 'permit (principal, action in Action::"infer", resource) when { principal == Key::"bench" };'),
        ("bench: {team: lab}", 'permit (principal is Key, action == Action::"chat", resource) unless { context.tools };'),
    ],
)
def test_a_key_that_may_do_something_or_is_meant_to_do_nothing(tmp_path: Path, row: str, more: str) -> None:
    folder = bundle(tmp_path, directory=("  app: {}\n", "  app: {}\n  lab: {}\n"), more=more and f'@id("x") {more}')
    (folder / "directory.yaml").write_text((folder / "directory.yaml").read_text() + f"  {row}\n")
    assert said(folder) == {}


def test_a_key_that_only_a_shadow_permit_means_may_do_nothing(tmp_path: Path) -> None:
    more = '@id("x") @mode("shadow") permit (principal in Team::"lab", action, resource);'
    folder = bundle(tmp_path, directory=("  app: {}\n", "  app: {}\n  lab: {}\n"), more=more)
    (folder / "directory.yaml").write_text((folder / "directory.yaml").read_text() + "  bench: {team: lab}\n")
    assert said(folder) == {"unused-entity": 'Key::"bench" may do nothing: no permit is about it'}


def test_a_role_or_group_that_nothing_speaks_of_is_a_note(tmp_path: Path) -> None:
    folder = bundle(tmp_path, directory=("  owner: {}\n", "  owner: {}\n  hero: {}\n"))
    text = (folder / "directory.yaml").read_text()
    (folder / "directory.yaml").write_text(text.replace("roles: [owner]}", "roles: [owner, hero]}"))
    (finding,) = linted(folder)
    assert (finding.severity, finding.line) == (Severity.NOTE, 4)
    assert finding.message == 'Role::"hero": no policy and no quota speaks of it'
    policy = f'@id("x") forbid (principal, {INFER}, resource) when {{ context.tools && principal in Role::"hero" }};'
    (folder / "more.cedar").write_text(policy)
    assert linted(folder) == ()


VALUES = [
    # a condition, and what is told of it; nothing where it is right
    ("context.time.weekday == 0", "unknown-value: `context.time.weekday` is 1 to 7: it is never 0"),
    ("context.stream || 24 <= context.time.hour", "unknown-value: `context.time.hour` is 0 to 23: it is never at least 24"),
    ("!(context.time.minute != 60)", "unknown-value: `context.time.minute` is 0 to 59: it is never 60"),
    ("context.spend.org.percent < 0", "unknown-value: `context.spend.org.percent` is 0 or more: it is never below 0"),
    ('context.service_tier == "flexx"', "unknown-value: `context.service_tier` is never `flexx`, expected one of"),
    ('["flex", "fast"].contains(context.service_tier)', "unknown-value: `context.service_tier` is never `fast`"),
    ('"chat" != context.endpoint', "unknown-value: `context.endpoint` is never `chat`, expected one of"),
    ("context.time.hour > 18 && context.time.hour < 6", "never-matches: its conditions never hold: they leave no"),
    ("context.tools && context.stream && !context.tools", "never-matches: its conditions never hold: they"),
    ("context.spend.key.percent == 80 && !(context.spend.key.percent <= 80)", "never-matches"),
    ("context.time.hour > 18 || context.time.hour < 6", ""),
    ("context.time.hour >= 23 && context.time.weekday >= 7 && context.time.minute == 59", ""),
    ("context.time.hour > 8 && context.time.hour < 10", ""),
    ("!(context.tools && context.stream) && context.tools", ""),
    ('["flex", "performance"].contains(context.service_tier) && context.endpoint == "chat.completions"', ""),
    ("context.spend.org.percent >= 100 || context.window.key.percent > 250", ""),
    ("if context.tools then !context.tools else context.stream", ""),
    ("context.max_output_tokens > 512 && context.input_tokens == 0", ""),
]  # fmt: skip


@pytest.mark.parametrize("kind", ["when", "unless"])
@pytest.mark.parametrize(("condition", "told"), VALUES, ids=[condition for condition, _ in VALUES])
def test_what_the_context_never_is(tmp_path: Path, condition: str, told: str, kind: str) -> None:
    body = f"!({condition})" if kind == "unless" else condition
    more = f'@id("x") forbid (principal in Team::"app", {INFER}, resource in ModelGroup::"fast")\n{kind} {{ {body} }};'
    found = [each for each in linted(bundle(tmp_path, more=more)) if each.severity is Severity.WARNING]
    assert [f"{each.rule}: {each.message}".startswith(told) for each in found] == ([True] if told else [])
    assert all(each.excerpt[each.column - 1 :].startswith("context.") for each in found)


@pytest.mark.parametrize(
    ("annotation", "told"),
    [
        ('@moed("shadow")', '`@moed` means nothing here, expected `@mode("shadow")`'),
        ('@Mode("trial")', '`@Mode` means nothing here, expected `@mode("trial")`'),
        ('@ID("x")', '`@ID` means nothing here, expected `@id("x")`'),
        ('@mode("shadow")', None),
        ('@owner("security") @model("m1") @reviewed("2026-11-29")', None),
    ],
)
def test_an_annotation_with_a_slip(tmp_path: Path, annotation: str, told: str | None) -> None:
    more = f'@id("x") {annotation} forbid (principal in Team::"app", {INFER}, resource) when {{ context.tools }};'
    assert said(bundle(tmp_path, more=more)).get("unknown-annotation") == told


DATED = [
    ("permit", "when { context.time.date <= 20261129 }", True),
    ("permit", "when { context.time.date < 20261130 && context.stream }", True),
    ("permit", "unless { context.time.date > 20261129 }", True),
    ("permit", "when { 20261129 >= context.time.date }", True),
    ("permit", "when { context.time.epoch_s < 1795996800 }", True),
    ("forbid", "when { context.time.date == 20261129 }", True),
    ("permit", "when { context.time.date <= 20261130 }", False),
    ("permit", "when { context.time.date <= 20261129 || context.stream }", False),
    ("permit", "when { context.time.epoch_s <= 1795996800 }", False),
    ("permit", "unless { context.time.date < 20261129 }", False),
    ("permit", "unless { context.time.date > 20261130 }", False),
    ("forbid", "when { context.time.date > 20251231 }", False),
    ("permit", "when { context.time.hour < 1 }", False),
]


@pytest.mark.parametrize(("effect", "condition", "over"), DATED)
def test_past_date(tmp_path: Path, effect: str, condition: str, over: bool) -> None:
    more = f'@id("x") {effect} (principal in Team::"app", {INFER}, resource == Model::"voice")\n{condition};'
    found = [each for each in linted(bundle(tmp_path, more=more)) if each.severity is Severity.WARNING]
    assert [finding.rule for finding in found] == (["past-date"] if over else [])
    for finding in found:
        assert finding.excerpt[finding.column - 1 :].startswith("context.time")


def test_whom_only_a_permit_of_the_past_means_may_do_nothing(tmp_path: Path) -> None:
    past = 'resource in ModelGroup::"fast") when { context.time.date < 20260101 };'
    found = said(bundle(tmp_path, cedar=('resource in ModelGroup::"fast");', past)))
    assert found["unused-entity"] == 'Key::"web" may do nothing: no permit is about it'


@pytest.mark.parametrize(("last_day", "over"), [("2026-11-29", True), ("2026-11-30", False)])
def test_a_key_that_has_expired(tmp_path: Path, last_day: str, over: bool) -> None:
    found = said(bundle(tmp_path, directory=("web: {team: app}", f"web: {{team: app, expires: {last_day}}}")))
    assert found.get("past-date") == ('Key::"web" has expired: take it out' if over else None)


def test_what_is_wrong_a_thousand_times_is_shown_a_hundred_times(tmp_path: Path) -> None:
    roles = "".join(f"  r{number}: {{}}\n" for number in range(MAX_SHOWN + 7))
    found = linted(bundle(tmp_path, directory=("  owner: {}\n", f"  owner: {{}}\n{roles}")))
    assert len(found) == MAX_SHOWN + 1
    assert (found[-1].severity, found[-1].message) == (Severity.NOTE, "and 7 more of this rule")
