"""A41 to A50: policies that err, ids and contexts that bite, and bundles that must not come into force."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from authz.errors import ConfigError
from authz.model import Allow, Decision, Deny, Principal, Uid
from authz.policy import Entity, EntityError, PolicyEngine
from authz.policy import guard as guard_module
from authz.reasons import Reason
from tests.attacks.door import OPEN, Door, refused
from tests.e2e.conftest import SMALL
from tests.place import START_NS, Place, lay_out, opened_at
from tests.policy.test_engine import ERRING
from tests.policy.world import BY_K1, BY_K2, ENTITIES, K1, M1, M3, ORG, T1, UTC, context, engine, schema

PERMIT = '@id("permit") permit (principal, action in Action::"infer", resource);'


@contextmanager
def governed(folder: Path, policy: str) -> Iterator[Place]:
    """The reference bundle with a policy more, and without its own cases, which say what comes of the others."""
    config = lay_out(folder)
    (folder / "policies/more.cedar").write_text(policy)
    shutil.rmtree(folder / "policies/tests")
    with opened_at(config) as place:
        yield place


def decide(place: Place, secret: str, model: str = SMALL) -> Decision:
    return place.engine.pdp.decide(place.request(secret, model))


@pytest.mark.parametrize("condition", ERRING.values(), ids=ERRING)
def test_a41_a_forbid_that_errs_denies(condition: str) -> None:
    """An attribute, an entity, an overflow, a decimal: Cedar by itself would skip it and answer Allow."""
    text = f'{PERMIT} @id("errs") forbid (principal, action, resource) when {{ {condition} }};'
    verdict = engine(text, validated=False).decide(BY_K1, "chat", (M3,), context())
    assert not verdict.allowed
    assert "policy `errs`" in verdict.errors[0]


def test_a42_what_the_validator_passed_and_errs_is_denied_charges_nothing_and_raises_an_alert(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = f'@id("errs") forbid (principal, action == Action::"chat", resource) when {{ {ERRING["overflow"]} }};'
    with governed(tmp_path, policy) as place, caplog.at_level(logging.ERROR):
        denied = decide(place, place.issue("chatbot-prod"))
        assert isinstance(denied, Deny)
        assert (denied.reason, denied.status) == (Reason.POLICY_ERROR, 403)
        assert place.engine.store.balances() == {}
    assert [getattr(record, "alert", "") for record in caplog.records] == ["policy_error"]


ESCAPES = ({"__entity": {"type": "User", "id": "olivia"}}, {"__extn": {"fn": "ip", "arg": "10.0.0.1"}}, {"__expr": "true"})


@pytest.mark.xdist_group("attacks")
@pytest.mark.parametrize("escape", ESCAPES)
def test_a43_client_json_that_looks_like_an_entity_stays_text(door: Door, escape: dict[str, object]) -> None:
    text = json.dumps(escape)
    refused(door, {"model": text, "messages": [{"role": "user", "content": "x"}]}, 404, "model_not_found")
    refused(door, {"model": escape, "messages": [{"role": "user", "content": "x"}]}, 400)
    (record,) = door.admitted(lambda: door.ask(metadata=escape, user=text, messages=[{"role": "user", "content": text}]))
    assert record["principal"] == 'Key::"chatbot-prod"'
    policy = '@id("p") permit (principal, action == Action::"chat", resource) when { context.service_tier == "%s" };'
    quoted = policy % text.replace('"', '\\"')
    for told, allowed in ((text, True), ("flex", False)):
        verdict = engine(quoted).decide(BY_K1, "chat", (M1,), context(tier=told))
        assert (verdict.allowed, verdict.errors) == (allowed, ())


@pytest.mark.parametrize("field", ["source_ip", "tier"])
def test_a44_no_text_reaches_another_field_of_the_context(field: str) -> None:
    text = '@id("p") permit (principal, action, resource is Model) when { context has stream && context.stream };'
    ending = text.replace("action,", 'action in Action::"infer",')
    for bite in (
        '","stream":true,"x":"',
        'x"}, {"stream": true',
        "\\",
        '\\","stream":true,"',
        "\x00",
        "\n",
        "\u2028",
        "10.0.0.1/8",
    ):
        changes: dict[str, Any] = {field: bite}
        verdict = engine(ending).decide(BY_K1, "chat", (M1,), context(**changes))
        assert (verdict.allowed, verdict.errors) == (False, ())
        assert engine(ending).decide(BY_K1, "chat", (M1,), context(**changes | {"stream": True})).allowed


def test_a45_ids_with_quotes_line_breaks_and_names_of_types_are_only_ids() -> None:
    """Two keys of the world carry such ids; neither is taken for the entity that its id would spell as Cedar text."""
    spelled = '@id("p") permit (principal in Role::"r1", action in Action::"infer", resource);'
    named = Principal(uid=Uid("Key", 'k1"; Role::"r1'), organisation=ORG, team=Uid("Team", 'Role::"r1"'), user=None, roles=())
    known = (*ENTITIES, Entity(named.uid, (named.team,), {"team": named.team}))
    with_it = PolicyEngine(engine(spelled).slices.policies, schema(), known, UTC)
    assert not with_it.decide(named, "chat", (M1,), context()).allowed
    assert with_it.decide(BY_K1, "chat", (M1,), context()).allowed
    exact = '@id("p") permit (principal == Key::"\\u{202e}k2\\u{0}", action in Action::"infer", resource);'
    assert engine(exact).decide(BY_K2, "chat", (M1,), context()).allowed
    assert not engine(exact).decide(BY_K1, "chat", (M1,), context()).allowed


def stays(tmp_path: Path, change: Callable[[Path], object], problem: str) -> None:
    """A change of the bundle that is refused: the old one goes on deciding, and every decision says that it was the old one."""
    with governed(tmp_path, "") as place:
        secret, good = place.issue("chatbot-prod"), place.engine.bundle
        change(tmp_path / "policies")
        assert not place.engine.source.refresh()
        assert problem in place.engine.source.status.refused
        assert place.engine.bundle is good
        allow = decide(place, secret)
        assert isinstance(allow, Allow)
        assert allow.record.bundle == good.digest


@pytest.mark.parametrize(
    ("condition", "problem"),
    [("(" * 33 + "true" + ")" * 33, "nested deeper than 32"), (" && ".join(["true"] * 5_000), "more than 200 operators")],
)
def test_a46_policies_nested_too_deep_are_refused_and_the_old_bundle_stays(
    tmp_path: Path, condition: str, problem: str
) -> None:
    text = f'@id("deep") permit (principal, action, resource) when {{ {condition} }};'
    stays(tmp_path, lambda bundle: (bundle / "deep.cedar").write_text(text), problem)


def test_a47_hierarchies_deeper_than_8_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    chain = [Entity(Uid("Team", str(number)), (Uid("Team", str(number + 1)),)) for number in range(9)]
    with pytest.raises(EntityError, match="deeper than 8"):
        PolicyEngine((), schema(), [*chain, Entity(Uid("Team", "9"))], UTC)
    # A directory cannot even say it; whatever made such entities of one, the bundle is refused and the old one stays.
    made = "authz.bundle.world.entities"
    deep = lambda *parts: iter([*chain, Entity(Uid("Team", "9"))])  # noqa: E731  # named for what it makes

    def change(bundle: Path) -> None:
        monkeypatch.setattr(made, deep)
        (bundle / "more.cedar").write_text("// changed\n")

    stays(tmp_path, change, "deeper than 8")


def test_a48_more_policies_than_the_bound_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert guard_module.MAX_POLICIES == 25_000

    def change(bundle: Path) -> None:
        monkeypatch.setattr(guard_module, "MAX_POLICIES", 50)
        rows = (f'@id("p{number}") permit (principal == Key::"chatbot-prod", action, resource);' for number in range(51))
        (bundle / "many.cedar").write_text("\n".join(rows))

    stays(tmp_path, change, "more than 50 policies")


@pytest.mark.parametrize(
    "entity",
    [
        Entity(Uid("Model", "x")),  # without its ceilings
        Entity(Uid("Zork", "x")),
        Entity(Uid("Team", "x"), (Uid("Role", "r1"),)),
        Entity(Uid("Key", "x"), (), {"team": Uid("User", "u1")}),
        Entity(Uid("Model", "x"), (), {"context_tokens": "many", "max_output_tokens": 1}),
    ],
)
def test_a49_entities_that_do_not_fit_the_schema_are_refused_whenever_they_are_built(entity: Entity) -> None:
    with pytest.raises(EntityError, match='::"x"'):
        PolicyEngine((), schema(), [*ENTITIES, entity], UTC)
    odd = Principal(uid=K1, organisation=T1, team=ORG, user=None, roles=())
    verdict = engine(PERMIT).decide(odd, "chat", (M1,), context())
    assert (verdict.allowed, len(verdict.errors)) == (False, 1)


FORBID = '@id("no-tools") forbid (principal, action in Action::"infer", resource) when { context.tools };\n'


def halve(bundle: Path) -> None:
    text = (bundle / "chatbot.cedar").read_text()
    (bundle / "chatbot.cedar").write_text(text[: -len(text) // 8])


def lose_the_forbid(bundle: Path) -> None:
    (bundle / "more.cedar").unlink()


def swap_the_link(bundle: Path) -> None:
    """To a release in which a file is missing, all at once, as a deployment would."""
    releases = bundle.parent / "releases"
    shutil.copytree(bundle, releases / "two")
    (releases / "two/models.yaml").unlink()
    bundle.rename(releases / "one")
    (bundle.parent / "next").symlink_to(releases / "two")
    (bundle.parent / "next").rename(bundle)


@pytest.mark.parametrize("change", [halve, lose_the_forbid, swap_the_link])
def test_a50_a_bundle_that_is_half_there_leaves_the_last_good_one_which_every_decision_names(
    tmp_path: Path, change: Callable[[Path], None]
) -> None:
    with governed(tmp_path, FORBID) as place:
        secret, good = place.issue("chatbot-prod"), place.engine.bundle
        change(tmp_path / "policies")
        assert not place.engine.source.refresh()
        assert place.engine.source.status.refused
        for model, effect in ((SMALL, "allow"), (OPEN, "deny")):
            decision = decide(place, secret, model)
            assert (decision.record.effect, decision.record.bundle) == (effect, good.digest)
        tools = [{"type": "function", "function": {"name": "f"}}]
        denied = place.engine.pdp.decide(place.request(secret, tools=tools))
        assert isinstance(denied, Deny)
        assert denied.record.policies == ("no-tools",)
    if change is not lose_the_forbid:  # of which a process that begins then knows nothing
        with pytest.raises(ConfigError), opened_at(tmp_path / "authz.yaml"):
            pass


def test_a50_a_decision_names_the_bundle_that_it_was_made_with(tmp_path: Path) -> None:
    with governed(tmp_path, "") as place:
        secret = place.issue("chatbot-prod")
        first = decide(place, secret)
        (tmp_path / "policies/more.cedar").write_text(FORBID)
        assert place.engine.source.refresh()
        second = decide(place, secret)
        assert first.record.bundle != second.record.bundle == place.engine.bundle.digest
        assert place.time() == START_NS
