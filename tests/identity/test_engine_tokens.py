"""Tokens and certificates, through the whole engine: the decision, its record, and what a disabled team means."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import UNSET, structs

from authz.model import Allow, Decision, Deny, Request
from authz.reasons import Reason
from authz.review.recordfile import read_records
from authz.review.replay import run
from tests.identity.issuer import jwk, key_set, private_key, serving, sign
from tests.place import START_NS, Place, lay_out, opened_at

KEY = private_key("k1")
ISSUER = "https://id.example"
SPIFFE = "spiffe://acme.example/ns/prod/sa/chatbot"


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    found = lay_out(tmp_path)
    directory = tmp_path / "policies/directory.yaml"
    with serving(key_set(jwk("k1", KEY))) as server:
        directory.write_text(
            directory.read_text().replace("{team: chatbot, note", f"{{team: chatbot, spiffe: ['{SPIFFE}'], note")
            + f"""
issuers:
  id:
    issuer: {ISSUER}
    jwks_uri: {server.url}
    audience: [authz]
    claims: {{groups: [groups]}}
    prefix: id.
    groups: {{Bots: {{teams: [chatbot]}}, Labs: {{teams: [research]}}}}
"""
        )
        yield found


@pytest.fixture
def place(config: Path) -> Iterator[Place]:
    with opened_at(config) as found:
        found.engine.key_sets.refresh(found.engine.bundle.directory.issuers.values(), found.time())
        yield found


def token(**claims: Any) -> str:
    now_s = START_NS // 10**9
    return sign({"iss": ISSUER, "aud": "authz", "sub": "bo", "exp": now_s + 60, "groups": ["Bots"]} | claims, KEY)


def decided(place: Place, credential: str, *headers: tuple[str, str], peer: str = "") -> Decision:
    asked = place.request(credential)
    kept = asked.headers if credential else tuple(pair for pair in asked.headers if pair[0] != "authorization")
    return place.engine.pdp.decide(structs.replace(asked, headers=(*kept, *headers), peer=peer))


def test_a_token_is_decided_recorded_and_charged_as_its_user(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG):
        allow = decided(place, token())
    assert isinstance(allow, Allow)
    record = allow.record
    assert (record.principal, record.team, record.user) == ('User::"id.bo"', "chatbot", "id.bo")
    assert "org-spend" in {state.quota for state in record.quotas}
    (row,) = place.engine.store.usage("2026-11-30", "2026-11-30")
    assert (row.user, row.team) == ("id.bo", "chatbot")
    signature = token().rsplit(".", 1)[1]
    assert signature not in repr(allow) + caplog.text + (place.folder / "decisions.jsonl").read_text()


def test_a_token_that_does_not_hold_is_answered_as_a_key_that_does_not(place: Place) -> None:
    good, bad = token(), token(exp=1)
    answers = [decided(place, credential) for credential in (bad, good[:-4], "authz_wrong", place.issue("gone"))]
    assert {(answer.reason, answer.status, answer.message) for answer in answers if isinstance(answer, Deny)} == {
        (Reason.INVALID_API_KEY, 401, "Invalid API Key")
    }
    assert all(isinstance(answer, Deny) for answer in answers)


def test_the_team_is_chosen_by_the_sdks_header(place: Place) -> None:
    both = token(groups=["Bots", "Labs"])
    unsaid = decided(place, both)
    assert isinstance(unsaid, Deny)
    assert (unsaid.reason, unsaid.status) == (Reason.INVALID_REQUEST, 400)
    chosen = decided(place, both, ("openai-project", "chatbot"))
    assert isinstance(chosen, Allow)
    assert chosen.record.team == "chatbot"
    assert isinstance(decided(place, both, ("openai-project", "analytics")), Deny)


def test_a_verified_peer_is_its_key(place: Place) -> None:
    allow = decided(place, "", peer=SPIFFE)
    assert isinstance(allow, Allow)
    assert allow.record.principal == 'Key::"chatbot-prod"'
    assert isinstance(decided(place, "", peer="spiffe://evil.example/chatbot"), Deny)
    assert isinstance(decided(place, "authz_wrong", peer=SPIFFE), Deny)


def test_a_disabled_team_is_disabled_in_one_place(config: Path) -> None:
    directory = config.parent / "policies/directory.yaml"
    directory.write_text(directory.read_text().replace("chatbot: {note", "chatbot: {disabled: true, note", 1))
    for case in (config.parent / "policies/tests").glob("*.yaml"):
        case.unlink()
    with opened_at(config) as place:
        place.engine.key_sets.refresh(place.engine.bundle.directory.issuers.values(), place.time())
        assert isinstance(decided(place, token()), Deny)
        assert isinstance(decided(place, place.issue("chatbot-prod")), Deny)
        assert isinstance(decided(place, "", peer=SPIFFE), Deny)
        assert place.engine.bundle.directory.user("dev", "chatbot", place.time()) is None
        assert place.engine.bundle.directory.user("olivia", "research", place.time()) is not None
        labs = Request(
            "POST",
            "/openai/v1/chat/completions",
            (("authorization", f"Bearer {token(groups=['Labs'])}"), ("content-type", "application/json")),
            b'{"model":"llama-3.3-70b-versatile","messages":[{"role":"user","content":"x"}],"max_tokens":5}',
        )
        assert isinstance(place.engine.pdp.decide(labs), Allow)


def test_recorded_tokens_and_narrowed_secrets_are_decided_again_alike(config: Path) -> None:
    """Roles that the directory alone does not say are in the record."""
    directory = config.parent / "policies/directory.yaml"
    directory.write_text(
        directory.read_text()
        .replace("keys:\n", "keys:\n  narrow: {team: chatbot, roles: [owner, reader]}\n", 1)
        .replace("Labs: {teams: [research]", "Labs: {teams: [research], roles: [owner]")
    )
    large = "openai/gpt-oss-120b"
    (config.parent / "policies/more.cedar").write_text(
        f'@id("owners-large") permit (principal in Role::"owner", action in Action::"infer", resource == Model::"{large}");\n'
    )
    with opened_at(config) as place:
        place.engine.key_sets.refresh(place.engine.bundle.directory.issuers.values(), place.time())
        secrets = [place.issue("narrow", roles=roles) for roles in (("reader",), ("owner",), None)]
        found = [
            place.engine.pdp.decide(place.request(credential, large))
            for credential in (*secrets, token(), token(groups=["Labs"]), token(groups=["Bots"]))
        ]
        bundle = place.engine.bundle
    assert [isinstance(each, Allow) for each in found] == [False, True, True, False, True, False]
    assert [each.record.roles for each in found] == [("reader",), ("owner",), UNSET, (), ("owner",), ()]
    outcomes = run(bundle, read_records([config.parent / "decisions.jsonl"]))
    assert (outcomes.judged, outcomes.changed) == (6, Counter())
