from __future__ import annotations

import json
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.policy import AdminContext, Context, Kind, Percents
from authz.policy.context import ALL, TIMES, ContextWriter, samples
from tests.policy.world import BY_K1, M1, context, engine


def writer() -> ContextWriter:
    return ContextWriter(ZoneInfo("Europe/Berlin"))


def written(value: Context | AdminContext) -> Any:
    kind = Kind.ADMIN if isinstance(value, AdminContext) else Kind.INFERENCE
    return json.loads(writer().write(value, ALL[kind]))


def test_every_field_has_one_type_and_one_place() -> None:
    value = Context(7, 9, True, "chat.completions", "flex", True, "192.0.2.7", 1_798_758_000 * 10**9, Percents(1, 2, 3, 4))
    assert written(value) == {
        "input_tokens": 7,
        "max_output_tokens": 9,
        "stream": True,
        "endpoint": "chat.completions",
        "service_tier": "flex",
        "tools": True,
        "source_ip": {"__extn": {"fn": "ip", "arg": "192.0.2.7"}},
        "spend": {"org": {"percent": 1}, "team": {"percent": 2}, "user": {"percent": 3}, "key": {"percent": 4}},
        "window": {"org": {"percent": 0}, "team": {"percent": 0}, "user": {"percent": 0}, "key": {"percent": 0}},
        # 2026-12-31T23:00Z is the new year in Berlin: a Friday
        "time": {"epoch_s": 1_798_758_000, "date": 20270101, "hour": 0, "minute": 0, "weekday": 5},
    }


def test_an_administrator_has_an_address_and_a_time() -> None:
    assert written(AdminContext("", 0)).keys() == {"time"}
    assert written(AdminContext("::1", 0)).keys() == {"time", "source_ip"}


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:DB8:0::1", "2001:db8::1"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("", None),
        ("unknown", None),
        ("fe80::1%eth0", None),
        ("10.0.0.0/8", None),
        ("010.1.1.1", None),
        ('1.1.1.1"}}', None),
    ],
)
def test_an_address_is_an_address_or_absent(text: str, address: str | None) -> None:
    found = written(context(source_ip=text)).get("source_ip")
    assert found == (None if address is None else {"__extn": {"fn": "ip", "arg": address}})


ATTACKS = [
    '{"__entity": {"type": "Role", "id": "owner"}}',
    '{"__extn": {"fn": "ip", "arg": "10.0.0.1"}}',
    '", "stream": true, "x": "',
    "\u2028\\\"'\x00",
]


@pytest.mark.parametrize("attack", ATTACKS)
def test_a43_a44_client_text_stays_text(attack: str) -> None:
    assert written(context(tier=attack))["service_tier"] == attack
    quoted = json.dumps(attack)
    text = f'@id("p") permit (principal, action, resource is Model) when {{ context.service_tier == {quoted} }};'
    if "\\u" not in quoted:  # Cedar writes code points in another way
        assert engine(text).decide(BY_K1, "chat", (M1,), context(tier=attack)).allowed
    denied = engine(
        '@id("p") permit (principal, action, resource is Model) when { context.service_tier == "flex" && !context.stream };'
    )
    assert not denied.decide(BY_K1, "chat", (M1,), context(tier=attack)).allowed


@given(st.text(), st.text())
def test_any_text_survives_as_it_is(tier: str, source_ip: str) -> None:
    found = written(context(tier=tier, source_ip=source_ip))
    assert found["service_tier"] == tier
    assert set(found) - {"source_ip"} == ALL[Kind.INFERENCE] - {"source_ip"}


FULL = Context(7, 9, True, "e", "t", True, "192.0.2.7", 1_795_966_937_999_999_999, Percents(1, 2, 3, 4), Percents(5, 6, 7, 8))
"""A Sunday's 15:42:17 UTC, and a second all but gone."""


@pytest.mark.parametrize("fact", sorted(ALL[Kind.INFERENCE] | TIMES))
def test_what_no_policy_looks_at_is_not_written(fact: str) -> None:
    whole = written(FULL)
    assert whole["time"] == {"epoch_s": 1_795_966_937, "date": 20261129, "hour": 16, "minute": 42, "weekday": 7}
    field, _, part = fact.partition(".")
    expected = {part: whole[field][part]} if part else whole[field]
    assert json.loads(writer().write(FULL, frozenset({fact}))) == {field: expected}
    assert "." not in writer().write(FULL, frozenset({fact, "time"}) - {"source_ip", "endpoint"})  # whole seconds
    rest = ALL[Kind.INFERENCE] - {field}
    assert json.loads(writer().write(FULL, rest)).keys() == rest


def test_where_no_policy_looks_at_anything_nothing_is_written() -> None:
    assert writer().write(FULL, frozenset()) == writer().write(AdminContext("::1", 0), frozenset()) == "{}"


@pytest.mark.parametrize("kind", Kind)
def test_the_samples_are_the_two_shapes_of_a_context(kind: Kind) -> None:
    full, without = samples(kind)
    assert written(full).keys() == ALL[kind]
    assert written(without).keys() == ALL[kind] - {"source_ip"}


@pytest.mark.parametrize("amount", [0, 2**63 - 1])
def test_the_least_and_the_most_that_cedar_holds_are_written(amount: int) -> None:
    for value in (context(input_tokens=amount), msgspec.structs.replace(FULL, max_output_tokens=amount)):
        assert amount in (written(value)["input_tokens"], written(value)["max_output_tokens"])


@pytest.mark.parametrize("amount", [-1, 2**63])
def test_less_and_more_is_an_error(amount: int) -> None:
    for value in (context(input_tokens=amount), msgspec.structs.replace(FULL, max_output_tokens=amount)):
        with pytest.raises(ValueError, match=f"^{amount} tokens, expected 0 to {2**63 - 1}$"):
            writer().write(value, frozenset({"stream"}))


def test_an_amount_that_cedar_cannot_hold_is_an_error_and_a_denial() -> None:
    too_much = context(input_tokens=2**63)
    with pytest.raises(ValueError, match="expected 0 to"):
        writer().write(too_much, ALL[Kind.INFERENCE])
    verdict = engine('@id("p") permit (principal, action, resource) when { context.stream == false };', validated=False).decide(
        BY_K1, "chat", (M1,), too_much
    )
    assert (verdict.allowed, verdict.errors) == (False, (f"{2**63} tokens, expected 0 to {2**63 - 1}",))
