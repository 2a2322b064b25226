"""Probes stand where answers turn, and what they say of a class of values holds for all of it."""

from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from authz.policy import AdminContext
from authz.policy.literals import readings
from authz.review import probes
from authz.review.probes import Ceilings, Probes
from tests.policy import world

BERLIN = ZoneInfo("Europe/Berlin")
_PERMIT = '@id("all") permit (principal, action in Action::"infer", resource);'


def of(condition: str, *, action: str = "chat", zone: ZoneInfo = world.UTC, **given: object) -> Probes:
    text = f'@id("p") forbid (principal, action == Action::"{action}", resource) when {{ {condition} }};'
    return probes.make(readings(world.policies(text)), action, [zone], **given)  # type: ignore[arg-type]


def values(found: Probes, name: str) -> tuple[object, ...]:
    return next(axis.values for axis in found.axes if axis.name == name)


def hours(found: Probes, zone: ZoneInfo) -> set[str]:
    return {datetime.fromtimestamp(int(str(at)), zone).strftime("%H:%M") for at in values(found, "time")}


@pytest.mark.parametrize(
    ("condition", "fact", "expected"),
    [
        ("context.max_output_tokens > 512", "max_output_tokens", (1, 511, 512, 513)),
        ("100 <= context.input_tokens", "input_tokens", (1, 99, 100, 101)),
        ("context.spend.team.percent >= 80", "spend.team.percent", (0, 79, 80, 81)),
        ("[3, 9].contains(context.window.key.percent)", "window.key.percent", (0, 2, 3, 4, 8, 9, 10)),
        ("context.max_output_tokens * 2 - 1 > 7", "max_output_tokens", (1, 3, 4, 5)),
        ("context.max_output_tokens > -(-5)", "max_output_tokens", (1, 4, 5, 6)),
        ("context.stream", "stream", (False, True)),
        ('context.service_tier like "f*"', "service_tier", ("auto", "flex", "on_demand", "performance")),
        ('context.endpoint == "elsewhere"', "endpoint", ("chat.completions",)),
    ],
)
def test_each_constant_and_its_neighbours(condition: str, fact: str, expected: tuple[object, ...]) -> None:
    assert values(of(condition), fact) == expected


@pytest.mark.parametrize(
    "sum_", ["context.time.hour * 60 + context.time.minute", "context.time.minute + 60 * context.time.hour"]
)
def test_two_facts_of_one_sum_are_solved_for_each_other(sum_: str) -> None:
    found = of(f"{sum_} >= 510", zone=BERLIN)
    assert {"08:29", "08:30", "08:31"} <= hours(found, BERLIN)
    assert not found.sampled


def test_a_date_is_tried_with_the_day_after_even_where_there_is_no_such_day() -> None:
    for number in (20261231, 20261299, 20270100):
        found = of(f"context.time.date > {number}")
        days = {datetime.fromtimestamp(int(str(at)), world.UTC).strftime("%Y%m%d") for at in values(found, "time")}
        assert {"20261231", "20270101"} <= days


def test_a_weekday_and_a_date_are_tried_together() -> None:
    found = of("context.time.weekday > 5 && context.time.date >= 20260301")
    seen = {(at.isoweekday() > 5, at.date().isoformat() >= "2026-03-01") for at in _times(found)}
    assert seen == {(True, True), (True, False), (False, True), (False, False)}


def test_an_instant_is_tried_to_the_second() -> None:
    assert {1_800_000_000 + step for step in (-1, 0, 1)} <= set(values(of("context.time.epoch_s < 1800000000"), "time"))


def test_the_ends_of_a_network_from_inside_and_outside_and_no_address() -> None:
    found = of('context has source_ip && context.source_ip.isInRange(ip("10.20.0.0/16"))')
    ends = {"", "10.19.255.255", "10.20.0.0", "10.20.255.255", "10.21.0.0"}
    assert ends <= set(values(found, "source_ip"))


def test_tokens_stay_below_what_the_model_takes() -> None:
    found = of("context.max_output_tokens > 512 || context.input_tokens > 9", ceilings=Ceilings(1000, 512))
    assert values(found, "max_output_tokens") == (1, 511, 512)
    assert values(found, "input_tokens") == (1, 8, 9, 10)


def test_a_resource_s_own_number_is_a_constant_too() -> None:
    found = of("context.input_tokens > resource.context_tokens", attributes=[{"context_tokens": 700}])
    assert values(found, "input_tokens") == (1, 699, 700, 701)


def test_only_what_the_policies_look_at_varies() -> None:
    assert of('principal == Key::"k1"').contexts == of("true").contexts
    assert len(of("true").contexts) == 1
    assert isinstance(of("context.time.hour < 6", action="usage.read").contexts[0], AdminContext)


@pytest.mark.parametrize(
    "condition",
    [
        "context == context",
        "context.spend.org == context.spend.team",
        "context.input_tokens * context.max_output_tokens > 100",
        "context.input_tokens > resource.max_output_tokens",  # whose number is not given
    ],
)
def test_what_cannot_be_read_as_constants_is_told(condition: str) -> None:
    assert of(condition).sampled


def test_too_many_combinations_are_a_sample_of_single_values_and_pairs() -> None:
    many = " && ".join(
        f"context.{kind}.{scope}.percent < 50" for kind in ("spend", "window") for scope in ("org", "team", "user", "key")
    )
    found = of(many)
    assert found.sampled
    assert len(found.contexts) <= probes.MAX_PROBES
    places = {tuple(at for at in index if at) for index in found.indices}
    assert {(), (1,), (2,), (1, 2), (2, 2)} <= places
    assert max(map(len, places)) == 2


def test_the_same_twice() -> None:
    text = "context.time.hour < 6 && context.max_output_tokens > 512 && context.time.date > 20260301"
    assert of(text).contexts == of(text).contexts


_NUMBERS = st.integers(0, 30)
_IN_RANGE = '(context has source_ip && context.source_ip.isInRange(ip("10.0.0.{}/{}")))'
_ATOMS = st.one_of(
    st.builds("context.max_output_tokens {} {}".format, st.sampled_from(["<", "<=", "==", "!=", ">=", ">"]), _NUMBERS),
    st.builds("context.input_tokens + {} < context.max_output_tokens".format, _NUMBERS),
    st.builds("context.input_tokens * 3 - {} == context.max_output_tokens * 2".format, _NUMBERS),
    st.builds("[{}, {}].contains(context.spend.org.percent)".format, _NUMBERS, _NUMBERS),
    st.builds("context.time.hour {} {}".format, st.sampled_from(["<", ">="]), st.integers(0, 23)),
    st.builds("context.time.hour * 60 + context.time.minute >= {}".format, st.integers(0, 1439)),
    st.builds("context.time.weekday {} {}".format, st.sampled_from(["<", "=="]), st.integers(1, 7)),
    st.builds("context.time.date < 202601{:02}".format, st.integers(1, 31)),
    st.builds(
        '(context has source_ip && context.source_ip.isInRange(ip("10.0.0.{}/{}")))'.format, _NUMBERS, st.integers(28, 32)
    ),
    st.sampled_from(["context.stream", "context.tools", "!context.stream", 'context.service_tier == "flex"']),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(_ATOMS, min_size=1, max_size=3), min_size=1, max_size=3), st.data())
def test_always_and_never_are_not_contradicted_by_any_context(clauses: list[list[str]], data: st.DataObject) -> None:
    condition = " || ".join(f"({' && '.join(atoms)})" for atoms in clauses)
    text = f'{_PERMIT} @id("p") forbid (principal, action == Action::"chat", resource) when {{ {condition} }};'
    engine = world.engine(text)
    found = probes.make(readings(world.policies(text)), "chat", [world.UTC])
    if found.sampled:
        return
    probed = {engine.decide(world.BY_K1, "chat", (world.M1,), context).allowed for context in found.contexts}
    anything: dict[str, st.SearchStrategy[probes.Value]] = {
        "input_tokens": st.integers(0, 60),
        "max_output_tokens": st.integers(0, 60),
        "spend.org.percent": st.integers(0, 40),
        "time": st.integers(1_767_200_000, 1_770_100_000),  # from the end of 2025 into February
        "source_ip": st.builds("10.0.0.{}".format, st.integers(0, 40)),
    }
    for _ in range(12):
        drawn = {
            axis.name: data.draw(st.sampled_from(axis.values) | anything.get(axis.name, st.sampled_from(axis.values)))
            for axis in found.axes
        }
        assert engine.decide(world.BY_K1, "chat", (world.M1,), found.context(drawn)).allowed in probed, drawn


def test_edges_are_the_neighbours_between_which_the_answer_turns() -> None:
    found = of("context.max_output_tokens > 512 && context.tools")
    holds = [not (context.max_output_tokens > 512 and context.tools) for context in found.contexts]  # type: ignore[union-attr]
    assert [(edge.fact, edge.holds, edge.not_) for edge in found.edges(holds)] == [
        ("max_output_tokens", 512, 513),
        ("tools", False, True),
    ]


def test_what_turns_every_day_is_told_once_and_another_day_s_own_turn_too() -> None:
    found = of("context.time.hour >= 8 && (context.time.weekday <= 5 || context.time.hour >= 20)")
    holds = [at.hour >= 8 and (at.isoweekday() <= 5 or at.hour >= 20) for at in _times(found)]
    told = [(datetime.fromtimestamp(int(edge.holds), world.UTC), edge) for edge in found.edges(holds)]
    assert {8, 20} == {at.hour for at, _ in told}
    assert [at.isoweekday() > 5 for at, _ in told if at.hour == 20] == [True]
    assert len([at for at, _ in told if at.hour == 8]) == 1


def _times(found: Probes) -> list[datetime]:
    return [datetime.fromtimestamp(context.now_ns // 10**9, world.UTC) for context in found.contexts]
