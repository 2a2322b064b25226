"""The admin API as a script uses it: what each user sees, and may change, is what the bundle's policies say."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from authz import audit
from authz.identity.keys import digest, well_formed
from authz.model import Allow, Deny, Outcome, Receipt, Usage
from authz.reasons import Reason
from tests.admin.house import SECRETS, House, json_of, open_house
from tests.telemetry.traffic import receipt

LARGE = "llama-3.3-70b-versatile"


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as found:
        yield found


def used(house: House) -> dict[str, str]:
    """One settled request of each of two teams, and one that is refused; answers the ids of the decisions."""
    place, ids = house.place, {}
    for key in ("chatbot-prod", "batch-processor"):
        decision = place.engine.pdp.decide(place.request(place.issue(key), "llama-3.1-8b-instant"))
        assert isinstance(decision, Allow)
        place.engine.settle(receipt(decision, Usage(20, 8, 4)))
        ids[key] = decision.record.decision_id
    denied = place.engine.pdp.decide(place.request(place.issue("batch-processor"), LARGE))
    assert isinstance(denied, Deny)
    return ids | {"denied": denied.record.decision_id}


def test_usage_in_the_shape_that_was_asked_for(house: House) -> None:
    used(house)
    assert json_of(house.script("olivia").get("/api/usage")) == {
        "day": "2026-11-30",
        "usage_by_key": [
            {"key_name": "batch-processor", "requests_today": 1, "tokens_today": 28, "estimated_cost_usd": "0.000002"},
            {"key_name": "chatbot-prod", "requests_today": 1, "tokens_today": 28, "estimated_cost_usd": "0.000002"},
        ],
    }
    report = json_of(house.script("olivia").get("/api/usage/report?by=team"))
    assert [(line["name"], line["requests"]) for line in report["lines"]] == [("analytics", 1), ("chatbot", 1)]
    assert [each["quota"] for each in report["budgets"]] == ["org-spend"]
    for query in ("by=planet", "from=yesterday", "from=2026-11-09&to=2026-11-01"):
        assert "expected" in json_of(house.script("olivia").get(f"/api/usage/report?{query}"), 400)["error"]["message"]


def test_a_developer_sees_their_own_team_and_nothing_else(house: House) -> None:
    ids = used(house)
    dev = house.script("dev")
    assert [row["key_name"] for row in json_of(dev.get("/api/usage"))["usage_by_key"]] == ["chatbot-prod"]
    assert [line["name"] for line in json_of(dev.get("/api/usage/report?by=team"))["lines"]] == ["chatbot"]
    assert {row["key"] for row in json_of(dev.get("/api/keys"))["keys"]} == {"chatbot-prod"}
    assert json_of(dev.get("/api/budgets"))["budgets"] == []
    assert {row["scope"] for row in json_of(dev.get("/api/quotas"))["quotas"]} == {'Key::"chatbot-prod"'}
    assert {row["team"] for row in json_of(dev.get("/api/decisions"))["decisions"]} == {"chatbot"}
    assert json_of(dev.get(f"/api/decisions/{ids['denied']}"), 404)
    assert json_of(dev.get(f"/api/decisions/{ids['chatbot-prod']}"))["decided"]["team"] == "chatbot"
    assert {row["team"] for row in json_of(dev.get("/api/matrix"))["rows"]} == {"chatbot"}
    everybody = json_of(house.script("olivia").get("/api/matrix"))["rows"]
    assert {row["team"] for row in everybody} == {"chatbot", "analytics", "research"}
    assert json_of(dev.get("/api/me"))["who"] == 'User::"dev"'


def test_a_record_without_a_principal_is_the_organisations(house: House) -> None:
    house.place.engine.pdp.decide(house.place.request("ak_nobody"))
    assert json_of(house.script("dev").get("/api/decisions"))["decisions"] == []
    (row,) = json_of(house.script("olivia").get("/api/decisions"))["decisions"]
    assert (row["reason"], row["principal"]) == ("invalid_api_key", "")


def test_keys_are_made_rotated_and_revoked_as_policies_permit(house: House) -> None:
    dev, place = house.script("dev"), house.place
    made = json_of(dev.post("/api/keys", json={"key": "chatbot-prod", "days": 30, "note": "<b>mine</b>", "why": "new"}), 201)
    assert well_formed(made["secret"])
    assert digest(made["secret"]) == made["digest"]
    place.engine.tick()
    assert isinstance(place.engine.pdp.decide(place.request(made["secret"])), Allow)

    rotated = json_of(dev.post(f"/api/keys/{made['digest']}/rotate", json={"overlap": "1h"}), 201)
    assert (rotated["replaces"], rotated["works_until"]) == (made["digest"], "2026-11-30T01:00:00Z")
    states = {row["digest"]: row["state"] for row in json_of(dev.get("/api/keys?all=1"))["keys"]}
    assert states == {made["digest"]: "replaced", rotated["digest"]: "active"}
    assert json_of(dev.post(f"/api/keys/{made['digest']}/rotate", json={}), 409)["error"]["message"].startswith("secret `")

    assert json_of(dev.post(f"/api/keys/{rotated['digest']}/revoke", json={"why": "leaked"})) == {"revoked": True}
    assert json_of(dev.post(f"/api/keys/{rotated['digest']}/revoke", json={})) == {"revoked": False}
    place.engine.tick()
    refused = place.engine.pdp.decide(place.request(rotated["secret"]))
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.INVALID_API_KEY
    acts = [(entry.what, entry.who, entry.login) for entry in audit.entries(place.engine.store.audit_since(0, 100))]
    assert [act for act in acts if act[1] == 'User::"dev"'] == [
        ("key.create", 'User::"dev"', "admin page"),
        ("key.rotate", 'User::"dev"', "admin page"),
        ("key.revoke", 'User::"dev"', "admin page"),
    ]


def test_what_policies_do_not_permit_is_403_and_changes_nothing(house: House) -> None:
    dev, rhea = house.script("dev"), house.script("rhea")
    theirs = json_of(house.script("ana").post("/api/keys", json={"key": "batch-processor"}), 201)
    before = house.place.engine.store.audit_last()
    for answer in (
        dev.post("/api/keys", json={"key": "batch-processor"}),
        dev.post(f"/api/keys/{theirs['digest']}/rotate", json={}),
        dev.post(f"/api/keys/{theirs['digest']}/revoke", json={}),
        rhea.post("/api/keys", json={"key": "research-lab"}),
        dev.post("/api/budgets/org-spend/raise", json={"to": "600 USD", "why": "more"}),
        dev.post("/api/budgets/org-spend/resume", json={"why": "more"}),
    ):
        assert "may not" in json_of(answer, 403)["error"]["message"]
    assert house.place.engine.store.audit_last() == before


def test_a_budget_is_raised_and_resumed_and_felt_at_the_next_decision(house: House) -> None:
    olivia, place = house.script("olivia"), house.place
    secret = place.issue("chatbot-prod")
    stopped = json_of(olivia.post("/api/budgets/org-spend/raise", json={"to": "0 USD", "why": "stop"}))
    assert (stopped["limit_usd"], stopped["before_usd"], stopped["period"]) == ("0.00", "500.00", "month")
    refused = place.engine.pdp.decide(place.request(secret))
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.SPEND_CAP_REACHED
    (row,) = json_of(olivia.get("/api/budgets"))["budgets"]
    assert (row["reached"], [change["why"] for change in row["changes"]]) == (True, ["stop"])
    assert json_of(olivia.post("/api/budgets/org-spend/resume", json={"why": "go on"}))["limit_usd"] == "500.00"
    assert isinstance(place.engine.pdp.decide(place.request(secret)), Allow)
    entries = list(audit.entries(place.engine.store.audit_since(0, 100)))
    assert [entry.why for entry in entries if entry.what == "budget.change"] == ["stop", "go on"]


@pytest.mark.parametrize(
    ("path", "body", "status"),
    [
        ("/api/budgets/org-spend/raise", {"why": "x"}, 400),
        ("/api/budgets/org-spend/raise", {"why": "x", "to": "1 USD", "by": "1 USD"}, 400),
        ("/api/budgets/org-spend/raise", {"why": " ", "to": "1 USD"}, 400),
        ("/api/budgets/org-spend/raise", {"why": "x", "to": "1 EUR"}, 400),
        ("/api/budgets/org-spend/raise", {"why": "x", "to": "-1 USD"}, 400),
        ("/api/budgets/org-spend/raise", {"why": "x", "to": 5}, 400),
        ("/api/budgets/nothing/raise", {"why": "x", "to": "1 USD"}, 404),
        ("/api/keys", {"key": "nobody"}, 409),
        ("/api/keys", {"key": "chatbot-prod", "days": -1}, 400),
        ("/api/keys", {"key": "chatbot-prod", "planet": 1}, 400),
        ("/api/keys", {}, 400),
        ("/api/keys/abc/rotate", {"overlap": "soon"}, 400),
        ("/api/keys/abc/rotate", {}, 409),
        ("/api/nothing", {}, 404),
    ],
)
def test_what_is_wrong_says_what_was_expected(house: House, path: str, body: dict[str, object], status: int) -> None:
    assert json_of(house.script("olivia").post(path, json=body), status)["error"]["message"]


def test_a_body_that_is_too_large_or_no_json(house: House) -> None:
    olivia = house.script("olivia")
    assert "more than" in json_of(olivia.post("/api/keys", content=b"x" * 70_000), 400)["error"]["message"]
    assert "the body" in json_of(olivia.post("/api/keys", content=b"{"), 400)["error"]["message"]


def test_a_denial_is_explained(house: House) -> None:
    ids = used(house)
    found = json_of(house.script("olivia").get(f"/api/decisions/{ids['denied']}"))
    assert (found["decided"]["effect"], found["decided"]["reason"]) == ("deny", "model_not_available")
    assert found["instead"] == ["the same on `llama-3.1-8b-instant`"]
    allowed = json_of(house.script("olivia").get(f"/api/decisions/{ids['chatbot-prod']}"))
    assert [(policy["id"], policy["effect"]) for policy in allowed["policies"]] == [("chatbot-models", "permit")]
    assert 'principal in Team::"chatbot"' in allowed["policies"][0]["text"]
    assert {row["quota"] for row in allowed["quotas"]} == {"org-spend", "chatbot-prod-requests", "chatbot-prod-tokens"}
    assert (allowed["decided"]["state"], allowed["decided"]["cost_usd"]) == ("settled", "0.000002")
    assert allowed["same_bundle"]


def test_decisions_by_effect_and_team(house: House) -> None:
    used(house)
    olivia = house.script("olivia")
    assert [row["effect"] for row in json_of(olivia.get("/api/decisions?effect=deny"))["decisions"]] == ["deny"]
    assert [row["team"] for row in json_of(olivia.get("/api/decisions?team=chatbot"))["decisions"]] == ["chatbot"]
    assert len(json_of(olivia.get("/api/decisions?limit=2"))["decisions"]) == 2
    assert json_of(olivia.get("/api/decisions?limit=0"), 400)


def test_the_bundle_and_why_a_newer_one_is_refused(house: House) -> None:
    olivia = house.script("olivia")
    before = json_of(olivia.get("/api/bundle"))
    assert before["digest"] == house.place.engine.bundle.digest
    assert before["refused"] == ""
    quotas = house.place.folder / "policies/quotas.yaml"
    quotas.write_text(quotas.read_text().replace("500 USD/month", "500 EUR/month"))
    house.place.engine.source.refresh()
    after = json_of(olivia.get("/api/bundle"))
    assert after["digest"] == before["digest"]
    assert "found the currency `EUR`" in after["refused"]
    assert "EUR" not in json_of(house.script("dev").get("/api/bundle"))["refused"]


def events(answer: httpx.Response) -> Iterator[tuple[str, dict[str, object]]]:
    kind = ""
    for line in answer.iter_lines():
        if line.startswith("event: "):
            kind = line.removeprefix("event: ")
        elif line.startswith("data: "):
            yield kind, json.loads(line.removeprefix("data: "))


def test_decisions_come_as_they_are_made(house: House) -> None:
    place = house.place
    secret, other = place.issue("chatbot-prod"), place.issue("batch-processor")
    place.engine.pdp.decide(place.request(secret, request_id="before"))
    with house.script("dev").stream("GET", "/api/decisions/live") as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        heard = events(answer)
        assert next(heard)[0] == "decision"  # the one that was made before
        place.engine.pdp.decide(place.request(other))  # of another team
        decision = place.engine.pdp.decide(place.request(secret, model='<img src=x onerror="alert(1)">'))
        kind, line = next(heard)
        assert (kind, line["decision_id"], line["effect"]) == ("decision", decision.record.decision_id, "deny")
        allowed = place.engine.pdp.decide(place.request(secret, request_id="another"))
        assert isinstance(allowed, Allow)
        assert next(heard)[1]["state"] == "pending"
        place.engine.settle(Receipt(allowed.reservation_id, "", Outcome.ANSWERED, 200, Usage(20, 8)))
        kind, line = next(heard)
        assert (kind, line["decision_id"], line["state"]) == ("settlement", allowed.record.decision_id, "settled")


def test_a_watch_ends_when_the_user_is_out_of_force(house: House) -> None:
    directory = house.place.folder / "policies/directory.yaml"
    with house.script("dev").stream("GET", "/api/decisions/live") as answer:
        directory.write_text(directory.read_text().replace("dev: {teams: [chatbot]", "dev: {disabled: true, teams: [chatbot]"))
        assert house.place.engine.source.refresh()
        house.place.time.pass_s(2)
        assert [kind for kind, _ in events(answer)] == ["ended"]


def test_the_end_of_the_process_ends_every_watch(tmp_path: Path) -> None:
    heard: list[str] = []
    with httpx.Client(headers={"authorization": f"Bearer {SECRETS['olivia']}"}) as client:
        with open_house(tmp_path) as house:
            answer = client.send(client.build_request("GET", f"{house.url}/api/decisions/live"), stream=True)
            reader = threading.Thread(target=lambda: heard.extend(kind for kind, _ in events(answer)))
            reader.start()
        reader.join(10)
        assert not reader.is_alive()
        answer.close()
    assert heard == []
    assert house.place.engine.watched.watchers == ()


def test_nobody_is_let_in_without_a_credential(house: House) -> None:
    for path in ("/api/usage", "/api/keys", "/api/decisions", "/api/decisions/live", "/api/matrix"):
        assert json_of(httpx.get(house.url + path), 401) == {"error": {"message": "not signed in"}}
    for said in ("Bearer", "Bearer nonsense", "Basic YTpi", f"Bearer {house.secrets['nobody']}"):
        answer = httpx.get(house.url + "/api/keys", headers={"authorization": said})
        assert answer.status_code in (401, 403)
        assert "secret" not in answer.text
