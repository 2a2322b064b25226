"""Which quotas a request meets, what it charges, and under which names."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.model import MAX_AMOUNT, Estimate, Meter, Principal, Uid
from authz.quota.definitions import QuotaFile, parse_quotas
from authz.quota.ledger import Charge, OnStoreError
from authz.quota.path import QuotaIndex, counter_name, counters_of
from authz.quota.windows import GAUGE, Period, Window, calendar, sliding

ORG, TEAM, USER, KEY = Uid("Org", "acme"), Uid("Team", "chat"), Uid("User", "ann"), Uid("Key", "prod")
ROLE, LARGE, SMALL = Uid("Role", "batch"), Uid("ModelGroup", "large"), Uid("ModelGroup", "small")
ANN = Principal(uid=KEY, organisation=ORG, team=TEAM, user=USER, roles=(ROLE,))
SERVICE = Principal(uid=Uid("Key", "bot"), organisation=ORG, team=TEAM, user=None, roles=())
ESTIMATE = Estimate(
    at_most={Meter.TOKENS: 5_000, Meter.SPEND: 900, Meter.INPUT_TOKENS: 10},
    expected={Meter.TOKENS: 300, Meter.SPEND: 80, Meter.INPUT_TOKENS: 0},
)


def index(*rows: dict[str, Any], max_cached: int = 100) -> QuotaIndex:
    defaults = {"scope": 'Org::"acme"', "what": "requests", "limit": "5/minute"}
    numbered = [{"id": f"q{number}"} | defaults | row for number, row in enumerate(rows)]
    return QuotaIndex(parse_quotas(msgspec.convert({"quotas": numbered}, QuotaFile)), max_cached=max_cached)


def met(quotas: QuotaIndex, principal: Principal = ANN, model: str = "llama", groups: tuple[Uid, ...] = (LARGE,)) -> list[str]:
    return [applied.quota.id for applied in quotas.applying(principal, model, groups)]


def test_every_scope_on_the_path_counts_and_no_other() -> None:
    scopes = [str(uid) for uid in (KEY, USER, TEAM, ORG, ROLE, LARGE)]
    others = ['Key::"x"', 'User::"x"', 'Team::"x"', 'Org::"x"', 'Role::"x"', 'ModelGroup::"small"', 'Team::"prod"']
    quotas = index(*({"scope": scope} for scope in scopes + others))
    assert met(quotas) == ["q0", "q1", "q2", "q3", "q4", "q5"]
    assert met(quotas, SERVICE) == ["q2", "q3", "q5"]
    assert met(quotas, ANN, "other", ()) == ["q0", "q1", "q2", "q3", "q4"]


def test_a_pair_needs_both() -> None:
    quotas = index({"scope": ['Team::"chat"', 'ModelGroup::"large"']}, {"scope": ['Team::"x"', 'ModelGroup::"large"']})
    assert met(quotas) == ["q0"]
    assert met(quotas, groups=(SMALL,)) == []


def test_models_and_model_groups_share_one_counter() -> None:
    quotas = index({"models": ["llama", "small"]})
    assert met(quotas) == ["q0"]
    assert met(quotas, model="gemma") == []
    assert met(quotas, model="gemma", groups=(SMALL,)) == ["q0"]
    names = {quotas.charges(ANN, model, groups, ESTIMATE)[0].counter for model, groups in (("llama", ()), ("gemma", (SMALL,)))}
    assert len(names) == 1


def test_per_splits_the_counter_and_nobody_escapes() -> None:
    quotas = index({"per": "key"}, {"per": "user"}, {"per": "team"}, {})
    ann, service = (quotas.charges(who, "llama", (LARGE,), ESTIMATE) for who in (ANN, SERVICE))
    assert [charge.scope for charge in ann] == ['Key::"prod"', 'User::"ann"', 'Team::"chat"', 'Org::"acme"']
    assert [charge.scope for charge in service] == ['Key::"bot"', 'Key::"bot"', 'Team::"chat"', 'Org::"acme"']
    assert [one.counter == other.counter for one, other in zip(ann, service, strict=True)] == [False, False, True, True]
    assert len({charge.counter for charge in ann}) == 4


def test_amounts() -> None:
    quotas = index(
        {"what": "requests", "reserve": "worst_case"},
        {"what": "in_flight", "limit": 3},
        {"what": "spend", "limit": "5 USD/month"},
        {"what": "spend", "limit": "5 USD/day", "reserve": "adaptive"},
        {"what": "tokens"},
        {"what": "tokens", "reserve": "worst_case"},
        {"what": "input_tokens"},  # nothing expected, but it may come to 10
        {"what": "audio_seconds"},  # a chat has none
    )
    charges = quotas.charges(ANN, "llama", (), ESTIMATE)
    assert [charge.amount for charge in charges] == [1, 1, 900, 80, 300, 5_000, 1]
    assert [charge.amount for charge in quotas.charges(ANN, "llama", (), Estimate({}, {}))] == [1, 1]


@pytest.mark.parametrize("amount", [-1, MAX_AMOUNT + 1])
def test_an_absurd_estimate_is_refused(amount: int) -> None:
    """A75."""
    quotas = index({"what": "tokens", "reserve": "worst_case"})
    with pytest.raises(ValueError, match="expected 0 to"):
        quotas.charges(ANN, "llama", (), Estimate({Meter.TOKENS: amount}, {}))


def test_the_charge_of_one_is_made_once_for_all_requests() -> None:
    quotas = index({}, {"what": "in_flight", "limit": 3}, {"what": "tokens"})
    first, second = (quotas.charges(ANN, "llama", (), estimate) for estimate in (ESTIMATE, Estimate({Meter.REQUESTS: 1}, {})))
    assert [charge.amount for charge in second] == [1, 1]
    assert (first[0] is second[0], first[1] is second[1]) == (True, True)


def test_the_largest_amount_is_one_too() -> None:
    (charge,) = index({"what": "tokens", "reserve": "worst_case"}).charges(
        ANN, "m", (), Estimate({Meter.TOKENS: MAX_AMOUNT}, {})
    )
    assert charge.amount == MAX_AMOUNT


@pytest.mark.parametrize(("requests", "amounts"), [(0, []), (1, [1]), (2, [2]), (5_000, [5_000])])
def test_a_batch_is_as_many_requests_as_its_estimate_says(requests: int, amounts: list[int]) -> None:
    charges = index({}).charges(ANN, "llama", (), Estimate({Meter.REQUESTS: requests}, {}))
    assert [charge.amount for charge in charges] == amounts


def test_a_charge_carries_all_that_the_quota_says() -> None:
    row = {
        "scope": ['Team::"chat"', 'ModelGroup::"large"'],
        "per": "key",
        "what": "spend",
        "limit": "5 USD/month",
        "alerts": ["1 USD"],
        "mode": "shadow",
        "on_store_error": "allow",
    }
    assert index(row).charges(ANN, "llama", (LARGE,), ESTIMATE) == (
        Charge(
            quota="q0",
            scope='Key::"prod", ModelGroup::"large"',
            counter='["spend","month UTC",[["Team","chat"],["ModelGroup","large"]],[],["Key","prod"]]',
            window=calendar(Period.MONTH),
            meter=Meter.SPEND,
            amount=900,
            limit=5 * 10**9,
            enforced=False,
            alerts_at=(10**9,),
            on_store_error=OnStoreError.ALLOW,
        ),
    )


@pytest.mark.parametrize(
    ("window", "models", "member", "name"),
    [
        (sliding(60), (), None, '["tokens","60s",[["Org","acme"]],[],[]]'),
        (sliding(3_600), ("a", "b"), None, '["tokens","3600s",[["Org","acme"]],["a","b"],[]]'),
        (calendar(Period.DAY, "Europe/Berlin"), (), USER, '["tokens","day Europe/Berlin",[["Org","acme"]],[],["User","ann"]]'),
        (GAUGE, (), KEY, '["tokens","",[["Org","acme"]],[],["Key","prod"]]'),
    ],
)
def test_a_counter_is_called_the_same_in_every_version(
    window: Window, models: tuple[str, ...], member: Uid | None, name: str
) -> None:
    """The names lie in data bases: under another one every count would begin anew."""
    assert counter_name(Meter.TOKENS, window, (ORG,), models, member) == name


def test_the_counter_outlives_the_quotas_name_and_limit() -> None:
    one = index({"id": "a", "limit": "5/minute"}).charges(ANN, "llama", (), ESTIMATE)[0].counter
    other = index({"id": "b", "limit": "9/minute", "mode": "shadow"}).charges(ANN, "llama", (), ESTIMATE)[0].counter
    assert one == other == '["requests","60s",[["Org","acme"]],[],[]]'


NAMES = st.text(max_size=4) | st.sampled_from(['"', '"],["', "\\", ",", "[]", "Org", '","'])
PARTS = st.tuples(
    st.lists(st.builds(Uid, st.sampled_from(["Org", "Team"]), NAMES), min_size=1, max_size=2).map(tuple),
    st.lists(NAMES, max_size=2).map(tuple),
    st.none() | st.builds(Uid, st.just("Key"), NAMES),
)


@given(PARTS, PARTS)
def test_two_counters_never_share_a_name(one: Any, other: Any) -> None:
    names = [counter_name(Meter.TOKENS, sliding(60), *parts) for parts in (one, other)]
    assert (names[0] == names[1]) == (one == other)


def test_results_are_kept_within_bounds() -> None:
    quotas = index({}, max_cached=3)
    for number in range(10):
        assert met(quotas, model=f"m{number}") == met(quotas, model=f"m{number}") == ["q0"]
        assert len(quotas._cached) <= 3
    assert quotas.applying(ANN, "m9", (LARGE,)) is quotas.applying(ANN, "m9", (LARGE,))


def test_ten_thousand_other_teams_cost_nothing() -> None:
    quotas = index(*({"scope": f'Team::"t{number}"'} for number in range(10_000)), {"scope": 'Team::"chat"'})
    looked_at = [quota for uid in (*ANN.path, LARGE) for quota in quotas._by_scope.get(uid, ())]
    assert met(quotas) == ["q10000"]
    assert len(looked_at) == 1


def test_a_charge_carries_what_its_quota_declares() -> None:
    quotas = index({"on_store_error": "share"}, {})
    assert [each.on_store_error for each in quotas.charges(ANN, "llama", (), ESTIMATE)] == [
        OnStoreError.SHARE,
        OnStoreError.DENY,
    ]


def test_the_counters_of_a_quota_are_those_that_requests_meet() -> None:
    """What a report looks at is what a decision charges."""
    quotas = index(
        {},
        {"per": "key"},
        {"per": "user"},
        {"per": "team", "scope": 'ModelGroup::"large"'},
        {"scope": 'Team::"x"', "per": "key"},
    )
    met = {applied.counter for each in (ANN, SERVICE) for applied in quotas.applying(each, "llama", (LARGE,))}
    found = [counters_of(quota, (ANN, SERVICE, ANN)) for quota in quotas.quotas]
    assert [len(each) for each in found] == [1, 2, 2, 1, 0]
    assert {applied.counter for each in found for applied in each} == met
    assert [applied.scope for applied in found[1]] == ['Key::"bot"', 'Key::"prod"']
