"""`authz keys` and `authz audit`, as a user of the directory runs them."""

from __future__ import annotations

import json
import os
import pwd
import random
import sqlite3
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from authz.cli import cli
from authz.errors import AuthzError
from authz.identity.keys import digest, mint, well_formed
from authz.model import Allow, Deny
from tests.place import Place, lay_out, opened, opened_at

ROLED = """
  plain-of-chatbot: {team: chatbot}
  roled: {team: chatbot, roles: [developer, reader]}
  owned: {team: chatbot, roles: [owner]}
  of-olivia: {team: chatbot, user: olivia}
  of-dev: {team: chatbot, user: dev}
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    found = lay_out(tmp_path)
    directory = tmp_path / "policies/directory.yaml"
    directory.write_text(directory.read_text().rstrip() + ROLED)
    return found


def invoke(config: Path, *arguments: str) -> Result:
    return CliRunner().invoke(cli, [*arguments, "--config", str(config)], catch_exceptions=False)


def run(config: Path, *arguments: str, code: int = 0) -> str:
    done = invoke(config, *arguments)
    assert done.exit_code == code, done.output
    return done.stdout


def refused(config: Path, *arguments: str) -> str:
    with pytest.raises(AuthzError) as caught:
        invoke(config, *arguments)
    return str(caught.value)


def rows(config: Path, *arguments: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(config, "keys", *(arguments or ("list",)), "--json"))
    return found


def entries(config: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(run(config, "audit", "list", "--json"))
    return found


def test_create_rotate_revoke_as_they_are_shown(config: Path) -> None:
    first = run(
        config, "keys", "create", "chatbot-prod", "--note", "web", "--days", "30", "--as", "dev", "--why", "new"
    ).strip()
    assert well_formed(first)
    done = invoke(config, "keys", "rotate", "chatbot-prod", "--overlap", "2h", "--why", "quarterly")
    second = done.stdout.strip()
    assert well_formed(second)
    old, new = rows(config, "show", digest(first)[:10])
    assert rows(config, "show", digest(second)[:10]) == [old, new]
    assert f"{old['digest'][:12]} works until {old['expires']}" in done.stderr
    assert (old["state"], old["created_by"], old["replaced_by"]) == ("replaced", 'User::"dev"', new["digest"])
    assert (new["state"], new["created_by"], new["replaces"]) == ("active", 'User::"olivia"', old["digest"])
    assert (new["generation"], new["note"], new["team"], new["key"]) == (2, "web", "chatbot", "chatbot-prod")
    table = run(config, "keys", "list")
    assert "replaced" in table
    assert "active" in table
    assert run(config, "keys", "revoke", digest(first)[:12], "--why", "moved early") == "revoked\n"
    assert run(config, "keys", "revoke", digest(first)) == "was revoked already\n"
    assert "replaced" not in run(config, "keys", "list")
    assert "revoked" in run(config, "keys", "list", "--all")
    assert [row["state"] for row in rows(config)] == ["revoked", "active"]
    said = [(entry["what"], entry["who"], entry["why"]) for entry in entries(config)]
    assert said == [
        ("key.create", 'User::"dev"', "new"),
        ("key.rotate", 'User::"olivia"', "quarterly"),
        ("key.revoke", 'User::"olivia"', "moved early"),
    ]
    assert {entry["login"] for entry in entries(config)} == {pwd.getpwuid(os.getuid()).pw_name}
    for path in config.parent.glob("authz.db*"):
        assert first.encode() not in path.read_bytes()
        assert second.encode() not in path.read_bytes()


def test_a_rotation_under_way_keeps_identity_and_warns_and_the_last_use_is_seen(config: Path) -> None:
    with opened_at(config) as place:
        place.time.now_ns = _now_ns()
        first = run(config, "keys", "create", "chatbot-prod").strip()
        second = run(config, "keys", "rotate", "chatbot-prod", "--overlap", "24h").strip()
        place.engine.tick()
        old, new = (place.engine.pdp.decide(place.request(secret)) for secret in (first, second))
        assert isinstance(old, Allow)
        assert isinstance(new, Allow)
        assert (old.record.principal, old.record.team) == (new.record.principal, new.record.team)
        kept = rows(config, "show", digest(first)[:12])
        assert dict(old.headers)["x-authz-key-expires"] == kept[0]["expires"]
        assert "x-authz-key-expires" not in dict(new.headers)
        used = {state.quota: state.used for state in new.record.quotas}
        assert used["chatbot-prod-requests"] == 1, "one budget: the request with the old one counts"
        assert [row["last_used"] for row in kept] == ["", ""]
        for _ in range(10):
            place.engine.tick()
        assert all(row["last_used"] for row in rows(config, "show", digest(first)[:12]))
        run(config, "keys", "revoke", digest(second)[:12])
        place.engine.tick()
        assert isinstance(place.engine.pdp.decide(place.request(second)), Deny)
        assert isinstance(place.engine.pdp.decide(place.request(first)), Allow)


def test_the_last_use_is_told_when_the_process_ends(tmp_path: Path) -> None:
    with opened(tmp_path) as place:
        secret = place.issue("chatbot-prod")
        place.engine.pdp.decide(place.request(secret))
    with opened_at(tmp_path / "authz.yaml") as again:
        assert again.engine.store.key_uses() == {digest(secret): place.time()}


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("create", "batch-processor", "--as", "dev"), 'User::"dev" may not `key.create` on Team::"analytics"'),
        (("create", "chatbot-prod", "--as", "rhea"), 'User::"rhea" may not `key.create` on Team::"chatbot"'),
        (("create", "chatbot-prod", "--as", "nobody"), "no user `nobody` in force"),
        (("create", "nothing"), "no key `nothing` in force"),
        (("create", "roled", "--role", "owner"), "key `roled` does not have role `owner`"),
        (("create", "roled", "--as", "dev"), 'User::"dev" does not have role `reader`'),
        (("create", "owned", "--as", "dev"), 'User::"dev" does not have role `owner`'),
        (("create", "of-olivia", "--as", "dev"), 'User::"dev" does not have role `owner`'),
        (("create", "of-olivia", "--no-roles", "--as", "dev"), 'Key::"of-olivia" acts for User::"olivia"'),
        (("rotate", "nothing"), "0 secrets whose digest begins with `nothing`, expected one"),
        (("revoke", "nothing"), "0 secrets whose digest begins with `nothing`, expected one"),
    ],
)
def test_what_is_not_permitted_or_not_there_is_refused_and_changes_nothing(
    config: Path, arguments: tuple[str, ...], problem: str
) -> None:
    """A58."""
    assert problem in refused(config, "keys", *arguments)
    assert rows(config) == []
    assert entries(config) == []


def test_a_developer_issues_what_they_have_and_no_more(config: Path) -> None:
    """A58."""
    for arguments in (("roled", "--role", "developer"), ("of-dev",), ("owned", "--no-roles"), ("plain-of-chatbot",)):
        run(config, "keys", "create", *arguments, "--as", "dev")
    run(config, "keys", "create", "owned")  # olivia publishes bundles: she could give herself any role
    assert [row["roles"] for row in rows(config)] == [["developer"], None, [], None, None]


def test_a_rotation_gives_no_more_either(config: Path) -> None:
    """A58."""
    for key in ("owned", "of-olivia"):
        run(config, "keys", "create", key)
        assert 'User::"dev" does not have role `owner`' in refused(config, "keys", "rotate", key, "--as", "dev")
    assert [row["generation"] for row in rows(config)] == [1, 1]
    run(config, "keys", "rotate", "owned")


def test_whoever_may_only_rotate_gives_no_longer_life(config: Path) -> None:
    """A58: an expiry that an owner gave is not rotated away."""
    (config.parent / "policies/more.cedar").write_text(
        '@id("rhea-rotates") permit (principal == User::"rhea", action == Action::"key.rotate", resource is Key);\n'
    )
    run(config, "keys", "create", "chatbot-prod", "--days", "7")
    rotate = ("keys", "rotate", "chatbot-prod", "--as", "rhea")
    assert 'User::"rhea" may not `key.create`' in refused(config, *rotate, "--days", "30")
    run(config, *rotate, "--days", "7")
    assert [row["generation"] for row in rows(config)] == [1, 2]


def test_what_is_forbidden_in_one_team_is_not_had_through_another(config: Path) -> None:
    (config.parent / "policies/more.cedar").write_text(
        '@id("researchers-issue-nothing") forbid (principal in Team::"research", action == Action::"key.create", resource);\n'
    )
    for case in (config.parent / "policies/tests").glob("*.yaml"):
        case.unlink()
    assert 'User::"olivia" may not `key.create`' in refused(config, "keys", "create", "chatbot-prod")
    run(config, "keys", "create", "chatbot-prod", "--as", "dev")


def test_a_developer_sees_and_changes_only_their_teams_keys(config: Path) -> None:
    run(config, "keys", "create", "chatbot-prod")
    run(config, "keys", "create", "batch-processor")
    assert [row["key"] for row in json.loads(run(config, "keys", "list", "--json", "--as", "dev"))] == ["chatbot-prod"]
    assert [row["key"] for row in json.loads(run(config, "keys", "list", "--json", "--as", "ana"))] == ["batch-processor"]
    assert "batch-processor" not in run(config, "keys", "list", "--as", "dev")
    for command in ("rotate", "revoke", "show"):
        assert 'User::"dev" may not' in refused(config, "keys", command, "batch-processor", "--as", "dev")
    assert 'User::"dev" may not `usage.read` on Org::"acme"' in refused(config, "audit", "list", "--as", "dev")
    assert [row["state"] for row in rows(config)] == ["active", "active"]
    run(config, "keys", "rotate", "chatbot-prod", "--as", "dev")
    run(config, "keys", "revoke", rows(config)[0]["digest"], "--as", "dev")


def test_a_secret_of_a_key_that_is_gone_is_an_owners_affair(config: Path) -> None:
    run(config, "keys", "create", "plain-of-chatbot")
    directory = config.parent / "policies/directory.yaml"
    directory.write_text(directory.read_text().replace("  plain-of-chatbot: {team: chatbot}\n", ""))
    (row,) = rows(config)
    assert (row["state"], row["team"]) == ("orphaned", "")
    assert json.loads(run(config, "keys", "list", "--json", "--as", "dev")) == []
    assert "may not `policy.publish`" in refused(config, "keys", "revoke", "plain-of-chatbot", "--as", "dev")
    assert run(config, "keys", "revoke", "plain-of-chatbot") == "revoked\n"


def test_what_the_bundle_declares_is_listed_with_its_last_use_and_changed_in_the_bundle(config: Path) -> None:
    secret = mint(random.Random(3).choice)
    directory = config.parent / "policies/directory.yaml"
    directory.write_text(directory.read_text() + f'  declared: {{team: research, digests: ["sha256:{digest(secret)}"]}}\n')
    with opened_at(config) as place:
        assert isinstance(place.engine.pdp.decide(place.request(secret, "llama-3.3-70b-versatile")), Allow)
    (row,) = rows(config)
    assert (row["key"], row["digest"], row["state"], row["last_used"][:10]) == (
        "declared",
        digest(secret),
        "declared",
        "2026-11-30",
    )
    assert "declared" in run(config, "keys", "list", "declared")
    assert json.loads(run(config, "keys", "list", "--json", "--as", "dev")) == []
    assert "0 secrets" in refused(config, "keys", "revoke", digest(secret))


def test_a_disabled_user_administers_nothing(config: Path) -> None:
    directory = config.parent / "policies/directory.yaml"
    directory.write_text(directory.read_text().replace("roles: [developer]}", "roles: [developer], disabled: true}", 1))
    assert "no user `dev` in force" in refused(config, "keys", "create", "chatbot-prod", "--as", "dev")


def test_without_anybody_who_acts_nothing_is_done(config: Path) -> None:
    config.write_text(config.read_text().replace("operator: olivia\n", ""))
    assert "expected --as USER, or `operator` in the settings" in refused(config, "keys", "create", "chatbot-prod")
    run(config, "keys", "create", "chatbot-prod", "--as", "olivia")


def test_budgets_are_the_owners_and_every_change_is_on_record(config: Path) -> None:
    raised = ("budget", "raise", "org-spend", "--by", "100 USD", "--why", "launch")
    assert 'User::"dev" may not `budget.change` on Org::"acme"' in refused(config, *raised, "--as", "dev")
    assert 'User::"dev" may not `budget.change`' in refused(
        config, "budget", "resume", "org-spend", "--why", "x", "--as", "dev"
    )
    assert entries(config) == []
    run(config, *raised)
    (entry,) = entries(config)
    assert (entry["what"], entry["who"], entry["subject"], entry["why"]) == (
        "budget.change",
        'User::"olivia"',
        'Org::"acme"',
        "launch",
    )
    assert (entry["before"]["limit_usd"], entry["after"]["limit_usd"]) == ("500.00", "600.00")
    run(config, "audit", "verify")
    database = sqlite3.connect(config.parent / "authz.db")
    database.execute("UPDATE raises SET id = 'another'")
    database.commit()
    database.close()
    assert "1 changes of budgets are on no entry" in run(config, "audit", "verify", code=1)


def test_a_developer_sees_the_budgets_and_the_use_of_their_team_only(config: Path) -> None:
    (config.parent / "policies/quotas.yaml").write_text(
        "quotas:\n"
        "  - {id: all, scope: 'Org::\"acme\"', what: spend, limit: 5 USD/month}\n"
        "  - {id: each, scope: 'Org::\"acme\"', what: spend, limit: 5 USD/month, per: team}\n"
    )
    for case in (config.parent / "policies/tests").glob("*.yaml"):
        case.unlink()

    def scopes(user: str) -> set[str]:
        shown = json.loads(run(config, "budget", "show", "--all", "--json", "--as", user))
        return {row["scope"].partition(", ")[0] for row in shown["budgets"]}

    assert 'Org::"acme"' in scopes("olivia")
    assert scopes("dev") == {'Team::"chatbot"'}
    with opened_at(config) as place:
        for key in ("chatbot-prod", "batch-processor"):
            place.engine.pdp.decide(place.request(place.issue(key)))
    arguments = ("usage", "--day", "2026-11-30", "--json", "--as")
    used = {
        user: [row["key_name"] for row in json.loads(run(config, *arguments, user))["usage_by_key"]]
        for user in ("dev", "olivia")
    }
    assert used == {"dev": ["chatbot-prod"], "olivia": ["batch-processor", "chatbot-prod"]}
    assert json.loads(run(config, "usage", "--estimates", "--json", "--as", "dev")) == {"estimates": []}


@pytest.mark.parametrize("overlap", ["24", "h", "-1h", "1.5h", "24 h", "9999999h", ""])
def test_an_overlap_is_a_number_and_a_unit(config: Path, overlap: str) -> None:
    run(config, "keys", "create", "chatbot-prod")
    done = invoke(config, "keys", "rotate", "chatbot-prod", f"--overlap={overlap}")
    assert done.exit_code == 2
    assert "expected a number and one of s, m, h, d" in done.output


def test_a_chain_that_holds_and_one_that_was_tampered_with(config: Path) -> None:
    for name in ("chatbot-prod", "plain-of-chatbot", "of-dev"):
        run(config, "keys", "create", name)
    said = run(config, "audit", "verify")
    assert said.startswith("3 entries hold; head 3:")
    noted = said.split()[-1]
    run(config, "keys", "create", "of-dev")
    assert "4 entries hold" in run(config, "audit", "verify", "--head", noted)

    database = sqlite3.connect(config.parent / "authz.db")
    bodies = [body for (body,) in database.execute("SELECT body FROM audit ORDER BY number")]
    for what, statement, values, problem in (
        ("altered", "UPDATE audit SET body = ? WHERE number = 2", (bodies[1].replace(b"olivia", b"nobody"),), "entry 3"),
        ("altered at the end", "UPDATE audit SET body = ? WHERE number = 4", (b"{}",), "entry 4: not an entry"),
        ("left out", "DELETE FROM audit WHERE number = 2", (), "entry 2: found entry 3"),
        ("put between", "UPDATE audit SET body = ? WHERE number = 3", (bodies[1],), "entry 3: found entry 2"),
    ):
        database.execute("BEGIN")
        database.execute(statement, values)
        database.commit()
        assert problem in run(config, "audit", "verify", code=1), what
        database.executemany("INSERT OR REPLACE INTO audit (number, body) VALUES (?, ?)", enumerate(bodies, start=1))
        database.commit()
    database.execute("DELETE FROM audit WHERE number > 2")
    database.commit()
    database.close()
    assert "2 entries hold" in run(config, "audit", "verify"), "a chain does not know by itself where it ended"
    assert "entry 3 is not the one that was noted" in run(config, "audit", "verify", "--head", noted, code=1)


def test_the_list_shows_what_changed(config: Path) -> None:
    run(config, "keys", "create", "chatbot-prod", "--why", "[bold]launch[/]")
    table = run(config, "audit", "list", "--subject", 'Key::"chatbot-prod"')
    assert "[bold]launch[/]" in table
    assert "generation: – → 1" in table
    assert json.loads(run(config, "audit", "list", "--subject", 'Key::"other"', "--json")) == []


def test_a_secret_with_fewer_roles_is_allowed_only_what_both_are(tmp_path: Path) -> None:
    """A role may forbid: leaving it out of the secret must not be a way round it. And one that permits is gone with it."""
    config = lay_out(tmp_path)
    directory = tmp_path / "policies/directory.yaml"
    directory.write_text(directory.read_text() + "  narrow: {team: chatbot, roles: [owner, reader]}\n")
    (tmp_path / "policies/more.cedar").write_text(
        '@id("owners-large") permit (principal in Role::"owner", action, resource == Model::"openai/gpt-oss-120b");'
        '@id("readers-not-8b") forbid (principal in Role::"reader", action, resource == Model::"llama-3.1-8b-instant");'
    )
    with opened_at(config) as place:
        secrets = {roles: place.issue("narrow", roles=roles) for roles in (None, ("owner",), ("reader",), ())}
        allowed = {
            roles: [
                _allowed(place, secret, model)
                for model in ("llama-3.3-70b-versatile", "openai/gpt-oss-120b", "llama-3.1-8b-instant")
            ]
            for roles, secret in secrets.items()
        }
    assert allowed == {
        None: [True, True, False],
        ("owner",): [True, True, False],
        ("reader",): [True, False, False],
        (): [True, False, False],
    }


def _allowed(place: Place, secret: str, model: str) -> bool:
    return isinstance(place.engine.pdp.decide(place.request(secret, model)), Allow)


def _now_ns() -> int:
    import time

    return time.time_ns()
