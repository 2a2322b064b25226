"""What Cedar has said is remembered, and nobody can tell: an engine that remembers answers as one that asks each time."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.model import Principal, Uid
from authz.policy import CedarText, Context, Kind, Percents, PolicyEngine, Verdict
from authz.policy.context import ALL, ContextWriter
from authz.policy.engine import MAX_ANSWERS
from authz.policy.policies import parse_policies
from tests.policy import world

CONDITIONS = [
    "true",
    "context.stream",
    "context.time.hour < 1",
    "context.time.epoch_s < 3000",
    "context.time.weekday == 4 && context.time.minute < 30",
    "context.time == context.time",
    "context has time.date && context.time.date > 19700101",
    "context.spend.org.percent >= 80",
    'context has source_ip && context.source_ip.isInRange(ip("10.0.0.0/8"))',
    "context.input_tokens > 20",
    "context.max_output_tokens > 20",
    'context.service_tier == "flex"',
    "context.input_tokens + 9223372036854775807 > 0",  # errs
    "resource.output_price < 50",  # errs on a model without
    "context == context",
    'principal in Role::"r1"',
]
HEADS = ["permit", "permit", "forbid", '@mode("shadow") permit', '@mode("shadow") forbid']

texts = st.lists(st.tuples(st.sampled_from(HEADS), st.sampled_from(CONDITIONS)), min_size=1, max_size=5).map(
    lambda rules: "\n".join(
        f'@id("rule {number}") {head} (principal, action, resource) when {{ {condition} }};'
        for number, (head, condition) in enumerate(rules)
    )
)
contexts = st.builds(
    Context,
    input_tokens=st.sampled_from([10, 30, -1]),
    max_output_tokens=st.sampled_from([10, 30]),
    stream=st.booleans(),
    endpoint=st.just("chat.completions"),
    service_tier=st.sampled_from(["flex", "on_demand"]),
    tools=st.just(False),
    source_ip=st.sampled_from(["", "10.0.0.1", "192.0.2.1"]),
    now_ns=st.sampled_from([0, 1, 3_000, 3_600, 90_000]).map(lambda second: second * 10**9),
    spend=st.sampled_from([Percents(), Percents(org=80)]),
)
principals = st.sampled_from([world.BY_K1, world.BY_K2, world.BY_U2])
models = st.sampled_from([(world.M1,), (world.M2, world.M1), (world.M3,)])


def engine(text: str, **options: int) -> PolicyEngine:
    parsed = parse_policies([CedarText("rules.cedar", text)], ())
    return PolicyEngine(parsed, world.schema(), world.ENTITIES, world.UTC, **options)


@settings(max_examples=80, deadline=None)
@given(texts, st.lists(st.tuples(principals, models, contexts), min_size=2, max_size=12))
def test_an_engine_that_remembers_answers_as_one_that_asks(
    text: str, asked: list[tuple[Principal, tuple[Uid, ...], Context]]
) -> None:
    remembers, asks = engine(text), engine(text, max_plans=0)  # a plan that is not kept has no memory
    for principal, resources, context in asked:
        assert remembers.decide(principal, "chat", resources, context) == asks.decide(principal, "chat", resources, context)


@dataclass
class Asker:
    """Counts what an engine remembered and what it asked."""

    engine: PolicyEngine
    remembered: list[bool] = field(default_factory=list)

    def __call__(self, context: Context, principal: Principal = world.BY_K1) -> Verdict:
        return self.engine.decide(principal, "chat", (world.M1,), context, self.remembered.append)


def asker(condition: str) -> Asker:
    return Asker(engine(f'@id("p") permit (principal, action, resource) when {{ {condition} }};'))


def test_what_no_policy_looks_at_makes_no_new_question() -> None:
    ask = asker("context.stream")
    for tokens, second in ((10, 0), (30, 7_200), (50, 90_000)):
        ask(world.context(input_tokens=tokens, now_s=second, stream=True))
    ask(world.context(stream=False))
    ask(world.context(stream=True), world.BY_K2)
    assert ask.remembered == [False, True, True, False, False]


def test_an_hour_is_remembered_for_its_hour_and_not_a_second_longer() -> None:
    ask = asker("context.time.hour < 1")
    assert [ask(world.context(now_s=second)).allowed for second in (0, 1, 3_599, 3_600, 3_601)] == [True] * 3 + [False] * 2
    assert ask.remembered == [False, True, True, False, True]


def test_a_second_is_remembered_for_that_second() -> None:
    ask = asker("context.time.epoch_s < 100")
    assert [ask(world.context(now_s=second)).allowed for second in (99, 99, 100)] == [True, True, False]
    assert ask.remembered == [False, True, False]


def test_how_full_the_quotas_are_is_never_remembered() -> None:
    ask = asker("context.spend.org.percent < 80")
    assert [ask(world.context(spend=percent)).allowed for percent in (79, 79, 80, 79)] == [True, True, False, True]
    assert ask.remembered == [False, True, False, True]


def test_where_a_policy_looks_at_the_tokens_cedar_is_asked_each_time() -> None:
    ask = asker("context.input_tokens < 20")
    assert [ask(world.context(input_tokens=tokens)).allowed for tokens in (10, 10, 30)] == [True, True, False]
    assert ask.remembered == [False] * 3


def test_a_plan_that_is_not_kept_remembers_nothing() -> None:
    ask = Asker(engine('@id("p") permit (principal, action, resource);', max_plans=1))
    for principal in (world.BY_K1, world.BY_K1, world.BY_K2, world.BY_K1):
        ask(world.context(), principal)
    assert ask.remembered == [False, True, False, False]


def test_what_is_remembered_is_bounded() -> None:
    ask = asker('context has source_ip && context.source_ip.isInRange(ip("10.0.0.0/8"))')
    addresses = [f"10.0.0.{number}" for number in range(3 * MAX_ANSWERS)]
    for address in addresses:
        ask(world.context(source_ip=address))
    plan = ask.engine._plan(world.BY_K1, "chat", world.M1)
    assert not isinstance(plan, str)
    assert plan.answers is not None
    assert 0 < len(plan.answers) <= MAX_ANSWERS
    for _ in range(2):
        for address in addresses[:MAX_ANSWERS]:
            ask(world.context(source_ip=address))
    assert ask.remembered[-MAX_ANSWERS:] == [True] * MAX_ANSWERS, "as many as it may"


@pytest.mark.parametrize("facts", [{"time.hour"}, {"time.hour", "time.date"}, {"time", "time.hour"}])
def test_of_the_time_cedar_is_given_what_is_looked_at(facts: set[str]) -> None:
    whole = json.loads(ContextWriter(world.UTC).write(world.context(now_s=5_000), ALL[Kind.INFERENCE]))["time"]
    given_ = json.loads(ContextWriter(world.UTC).write(world.context(now_s=5_000), frozenset(facts)))["time"]
    names = set(whole) if "time" in facts else {fact.partition(".")[2] for fact in facts}
    assert given_ == {name: whole[name] for name in names}
