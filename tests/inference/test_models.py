"""`GET /models` and `/models/{id}`: what the caller may use now, answered here, reserved nowhere; and names, to the byte."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from authz.model import Allow, Decision, Deny, Reply, Request
from authz.reasons import Reason
from tests.place import Place, lay_out, opened_at

SMALL = "llama-3.1-8b-instant"
LARGE = "llama-3.3-70b-versatile"

Open = Callable[..., Place]


@pytest.fixture
def open_with(tmp_path: Path) -> Iterator[Open]:
    """An engine on the reference bundle and one more file of policies."""
    entered: list[Any] = []

    def make(policies: str = "") -> Place:
        config = lay_out(tmp_path)
        (tmp_path / "policies" / "more.cedar").write_text(policies)
        entered.append(opened_at(config))
        place: Place = entered[-1].__enter__()
        return place

    yield make
    for one in entered:
        one.__exit__(None, None, None)


def get(place: Place, secret: str, path: str = "/models", **changes: Any) -> Decision:
    fields: dict[str, Any] = {"headers": (("authorization", f"Bearer {secret}"),), "body": b""} | changes
    return place.engine.pdp.decide(Request("GET", f"/openai/v1{path}", **fields))


def listed(place: Place, secret: str) -> set[str]:
    decision = get(place, secret)
    assert isinstance(decision, Reply), decision
    return {model["id"] for model in json.loads(decision.body)["data"]}


def test_each_sees_what_it_may_use(open_with: Open) -> None:
    place = open_with()
    assert listed(place, place.issue("chatbot-prod")) == {SMALL, LARGE}
    assert listed(place, place.issue("batch-processor")) == {SMALL}
    assert SMALL not in listed(place, place.issue("research-lab"))


def test_the_reply_is_recorded_and_nothing_is_reserved(open_with: Open) -> None:
    place = open_with()
    reply = get(place, place.issue("chatbot-prod"))
    assert isinstance(reply, Reply)
    record = reply.record
    assert (record.effect, record.status, record.action, record.endpoint) == ("allow", 200, "list_models", "models.list")
    assert (record.reservation_id, record.quotas, record.estimate) == ("", (), None)
    assert place.engine.store.balances() == {}


def test_a_forbid_of_listing_hides_and_a_permit_of_listing_alone_shows_nothing(open_with: Open) -> None:
    place = open_with(
        f'@id("hide") forbid (principal, action == Action::"list_models", resource == Model::"{LARGE}");\n'
        '@id("show") permit (principal, action == Action::"list_models", resource);\n'
    )
    assert listed(place, place.issue("chatbot-prod")) == {SMALL}
    assert listed(place, place.issue("batch-processor")) == {SMALL}


def test_what_a_full_budget_forbids_is_not_listed(open_with: Open) -> None:
    place = open_with(
        '@id("full") forbid (principal, action in Action::"infer", resource) when { context.window.key.percent >= 1 };\n'
    )
    secret = place.issue("chatbot-prod")
    assert listed(place, secret) == {SMALL, LARGE}
    for _ in range(5):  # of 500 a minute
        place.engine.pdp.decide(place.request(secret))
    assert listed(place, secret) == set()


def test_a41_a_policy_that_errs_hides_and_is_told(open_with: Open) -> None:
    place = open_with(
        f'@id("errs") forbid (principal, action in Action::"infer", resource == Model::"{LARGE}")\n'
        "when { context.max_output_tokens + 9223372036854775807 > 0 };\n"
    )
    reply = get(place, place.issue("chatbot-prod"))
    assert isinstance(reply, Reply)
    assert LARGE not in reply.body.decode()
    assert reply.record.policy_errors


def test_one_model_is_there_is_refused_or_is_not_there(open_with: Open) -> None:
    place = open_with()
    secret = place.issue("chatbot-prod")
    found = get(place, secret, f"/models/{SMALL}")
    assert isinstance(found, Reply)
    assert json.loads(found.body)["id"] == SMALL
    for path, reason in (
        ("/models/openai/gpt-oss-20b", Reason.MODEL_NOT_AVAILABLE),
        ("/models/gemma2-9b-it", Reason.MODEL_DECOMMISSIONED),
        ("/models/nothing", Reason.MODEL_NOT_FOUND),
        (f"/models/{SMALL}/", Reason.MODEL_NOT_FOUND),
        (f"/models/{SMALL}?x=1", Reason.UNKNOWN_URL),
        ("/models/", Reason.MODEL_NOT_FOUND),
        ("/models?x=1", Reason.UNKNOWN_URL),
    ):
        refused = get(place, secret, path)
        assert isinstance(refused, Deny)
        assert refused.reason is reason, path


def test_without_a_key_or_with_a_body_there_is_no_list(open_with: Open) -> None:
    place = open_with()
    unknown = get(place, "authz_" + "0" * 40)
    assert isinstance(unknown, Deny)
    assert unknown.reason is Reason.INVALID_API_KEY
    for body, reason in ((b"{}", Reason.INVALID_REQUEST), (None, Reason.REQUEST_TOO_LARGE)):
        refused = get(place, place.issue("chatbot-prod"), body=body)
        assert isinstance(refused, Deny)
        assert refused.reason is reason


@pytest.mark.parametrize(
    "name",
    [
        f" {SMALL}",
        f"{SMALL} ",
        f"groq/{SMALL}",
        SMALL.upper(),
        SMALL.replace("l", "\u217c"),
        f"{SMALL}\u200b",
        f"{SMALL}\n",
        f"{SMALL}\\",
        f"{SMALL},{LARGE}",
        f"./{SMALL}",
        f'{SMALL}"',
        "{}",
        "*",
    ],
)
def test_a29_a_name_that_is_only_like_a_models_is_no_model(open_with: Open, name: str) -> None:
    place = open_with()
    refused = place.engine.pdp.decide(place.request(place.issue("chatbot-prod"), name))
    assert isinstance(refused, Deny)
    assert (refused.reason, refused.param) == (Reason.MODEL_NOT_FOUND, "model")
    assert refused.message.isprintable()


# ---- aliases


ALIASED = '@id("all") permit (principal, action in Action::"infer", resource in ModelGroup::"cheapest");\n'


@pytest.mark.parametrize(
    ("policies", "by_alias", "by_name"),
    [
        (ALIASED, True, True),
        (ALIASED + '@id("no") forbid (principal, action, resource == Model::"fast");', False, True),
        (ALIASED + f'@id("no") forbid (principal, action, resource == Model::"{SMALL}");', False, False),
        (f'@id("one") permit (principal, action, resource == Model::"{SMALL}");', False, True),
        ('@id("one") permit (principal, action, resource == Model::"fast");', False, False),
        (
            '@id("both") permit (principal, action in Action::"infer", resource)\n'
            f'when {{ resource == Model::"fast" || resource == Model::"{SMALL}" }};',
            True,
            True,
        ),
    ],
)
def test_a29_both_the_name_that_was_asked_for_and_the_one_it_stands_for_are_authorised(
    tmp_path: Path, policies: str, by_alias: bool, by_name: bool
) -> None:
    config = lay_out(tmp_path)
    bundle = tmp_path / "policies"
    for file in (*bundle.glob("*.cedar"), *bundle.glob("tests/*")):
        file.unlink()
    (bundle / "all.cedar").write_text(policies)
    models = bundle / "models.yaml"
    models.write_text(models.read_text() + f"aliases: {{fast: {SMALL}}}\n")
    with opened_at(config) as place:
        secret = place.issue("chatbot-prod")
        for name, allowed in (("fast", by_alias), (SMALL, by_name)):
            decision = place.engine.pdp.decide(place.request(secret, name))
            assert isinstance(decision, Allow if allowed else Deny), name
            assert (decision.record.models, decision.record.model) == ((name,), SMALL)
            assert isinstance(get(place, secret, f"/models/{name}"), Reply if allowed else Deny), name
