"""`quotas.yaml`: what it takes, and what it says of the rest."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.model import MAX_AMOUNT, Meter, Uid
from authz.quota import definitions
from authz.quota.definitions import (
    DefinitionError,
    Per,
    Quota,
    QuotaFile,
    Reserve,
    parse_amount,
    parse_quotas,
    parse_uid,
    parse_usd,
)
from authz.quota.ledger import OnStoreError
from authz.quota.windows import GAUGE, Period, calendar, sliding
from authz.yamlfile import parse_yaml

USD = 1_000_000_000


def parse(**fields: Any) -> Quota:
    row = {"id": "q", "scope": 'Org::"acme"', "what": "requests", "limit": "5/minute"} | fields
    return parse_quotas(msgspec.convert({"quotas": [row]}, QuotaFile))[0]


def spend(limit: str, **fields: Any) -> Quota:
    return parse(what="spend", limit=limit, **fields)


def test_a_file_as_the_operator_writes_it() -> None:
    text = """
time_zone: Europe/Berlin
quotas:
  - id: org-spend
    scope: Org::"acme"
    what: spend
    limit: 500 USD/month
    alerts: [400 USD, 100 USD, 50%]
  - {id: chat, scope: 'Key::"chatbot-prod"', what: tokens, limit: 100000/minute, mode: shadow}
  - id: large
    scope: [ModelGroup::"large", Team::"research"]
    what: in_flight
    limit: 20
    per: key
    models: [llama, gpt-oss]
"""
    org, chat, large = parse_quotas(parse_yaml(text, "quotas.yaml").convert(QuotaFile))
    assert org == Quota(
        id="org-spend",
        scope=(Uid("Org", "acme"),),
        meter=Meter.SPEND,
        limit=500 * USD,
        window=calendar(Period.MONTH, "Europe/Berlin"),
        alerts_at=(100 * USD, 250 * USD, 400 * USD),
        models=(),
        per=None,
        enforced=True,
        reserve=Reserve.WORST_CASE,
    )
    assert (chat.limit, chat.window, chat.enforced) == (100_000, sliding(60), False)
    assert chat.reserve is Reserve.ADAPTIVE
    assert (large.limit, large.window, large.per) == (20, GAUGE, Per.KEY)
    assert large.scope == (Uid("Team", "research"), Uid("ModelGroup", "large"))
    assert large.models == ("gpt-oss", "llama")


@pytest.mark.parametrize(
    ("limit", "amount", "length_s"),
    [
        ("500/minute", 500, 60),
        ("500 per minute", 500, 60),
        ("10/second", 10, 1),
        ("10 per 2 hours", 10, 7_200),
        ("7/day", 7, 86_400),
        ("7/week", 7, 604_800),
        ("7 per 2 weeks", 7, 1_209_600),
        ("7/month", 7, 2_592_000),
        ("7 per 4 weeks", 7, 2_419_200),
        ("7 PER WEEK", 7, 604_800),
        ("1/31 days", 1, 31 * 86_400),
        (f"{MAX_AMOUNT}/minute", MAX_AMOUNT, 60),
    ],
)
def test_rates(limit: str, amount: int, length_s: int) -> None:
    quota = parse(limit=limit)
    assert (quota.limit, quota.window) == (amount, sliding(length_s))


@pytest.mark.parametrize(
    ("limit", "nanos", "period"),
    [
        ("500 USD/month", 500 * USD, Period.MONTH),
        ("0.10 USD/day", USD // 10, Period.DAY),
        ("0.000000001 USD per week", 1, Period.WEEK),
        ("5USD/day", 5 * USD, Period.DAY),
        ("9007199.254740991 USD/month", MAX_AMOUNT, Period.MONTH),
        ("1.100000000000 USD/day", 1_100_000_000, Period.DAY),
        ("0.1" + "0" * 37 + " USD/day", 100_000_000, Period.DAY),  # 40 characters
        ("5 USD/Month", 5 * USD, Period.MONTH),
    ],
)
def test_spend_is_exact(limit: str, nanos: int, period: Period) -> None:
    """A81: no float touches money."""
    quota = spend(limit)
    assert (quota.limit, quota.window) == (nanos, calendar(period))


@settings(deadline=None)  # a busy machine is not a defect
@given(st.integers(1, MAX_AMOUNT))
def test_every_nano_dollar_can_be_written(nanos: int) -> None:
    assert spend(f"{nanos // USD}.{nanos % USD:09d} USD/month").limit == nanos


@pytest.mark.parametrize(
    ("fields", "path", "problem"),
    [
        ({"limit": "0/minute"}, "limit", "found 0, expected more than 0"),
        ({"limit": "-5/minute"}, "limit", "found `-5/minute`, expected an amount and a time such as `500/minute`"),
        ({"limit": "5/0 minutes"}, "limit", "found `5/0 minutes`, expected an amount and a time"),
        ({"limit": "5/fortnight"}, "limit", "found `5/fortnight`, expected an amount and a time"),
        ({"limit": "5/minute; 9/hour"}, "limit", "found 2 limits in `5/minute; 9/hour`, expected one"),
        ({"limit": "5/year"}, "limit", "expected a window of at most 31 days"),
        ({"limit": 5}, "limit", "found `5`, expected an amount and a time"),
        ({"limit": "5 USD/month"}, "limit", "found `5 USD/month`, expected an amount and a time"),
        ({"limit": f"{MAX_AMOUNT + 1}/minute"}, "limit", f"expected at most {MAX_AMOUNT}"),
        ({"limit": "9" * 5_000 + "/minute"}, "limit", "expected an amount and a time"),
        ({"what": "spend", "limit": "5/month"}, "limit", "expected an amount and a period such as `500 USD/month`"),
        ({"what": "spend", "limit": "-5 USD/month"}, "limit", "expected an amount and a period"),
        ({"what": "spend", "limit": "1e3 USD/month"}, "limit", "expected an amount and a period"),
        ({"what": "spend", "limit": "0.00 USD/month"}, "limit", "found 0, expected more than 0"),
        ({"what": "spend", "limit": "5 EUR/month"}, "limit", "found the currency `EUR`, expected USD"),
        (
            {"what": "spend", "limit": "5 USD/hour"},
            "limit",
            "found `hour`: spend is counted by the calendar, expected day, week",
        ),
        ({"what": "spend", "limit": "0.0000000001 USD/day"}, "limit", "expected at most nine decimal places"),
        ({"what": "spend", "limit": "9007199.254740992 USD/day"}, "limit", "(for spend: 9007199 USD)"),
        ({"what": "spend", "limit": "9" * 50 + " USD/day"}, "limit", "found a number of 50 characters, expected at most 40"),
        ({"what": "in_flight", "limit": "5/minute"}, "limit", "expected a whole number such as 20: in_flight has no window"),
        ({"what": "in_flight", "limit": 0}, "limit", "found 0, expected more than 0"),
        ({"scope": "acme"}, "scope", "found `acme`, expected an entity such as"),
        ({"scope": 'Org::"a" '}, "scope", "expected an entity such as"),
        ({"scope": 'Org::""'}, "scope", "expected an id of printable characters"),
        ({"scope": 'Org::"a\\u{41}"'}, "scope", "expected an entity such as"),
        ({"scope": 'Org::"a"b"'}, "scope", "expected an entity such as"),
        (
            {"scope": 'Model::"m"'},
            "scope",
            "found an entity of type `Model`, expected Org, Team, User, Key, Role or ModelGroup",
        ),
        ({"scope": ['Team::"x"', 'Org::"a"']}, "scope", 'found Team::"x" and Org::"a", expected one entity, or a pair of'),
        ({"scope": []}, "scope", "found nothing, expected one entity"),
        ({"scope": ['ModelGroup::"x"', 'ModelGroup::"y"']}, "scope", "expected one entity, or a pair of"),
        ({"scope": ['Team::"x"', 'ModelGroup::"x"', 'ModelGroup::"y"']}, "scope", "expected one entity, or a pair of"),
        ({"what": "spend", "limit": "0.1" + "0" * 38 + " USD/day"}, "limit", "found a number of 41 characters"),
        ({"limit": "1/32 days"}, "limit", "expected a window of at most 31 days"),
        ({"models": ["a", " m"]}, "models.1", "expected the plain id of a model or model group"),
        ({"models": [""]}, "models.0", "expected the plain id of a model or model group"),
        ({"models": ["a\nb"]}, "models.0", "expected the plain id of a model or model group"),
        ({"models": ["a::b"]}, "models.0", "expected the plain id of a model or model group"),
        ({"scope": 'Key::"k"', "per": "key"}, "per", 'found `key` in the scope Key::"k", expected something below the scope'),
        ({"scope": 'User::"u"', "per": "team"}, "per", "expected something below the scope"),
        ({"alerts": ["80%"]}, "alerts", "found alerts for requests: only spend has periods to alert in"),
        ({"models": ["m", "m"]}, "models.1", "`m` stands twice"),
        ({"models": ['ModelGroup::"m"']}, "models.0", "expected the plain id of a model or model group"),
        ({"id": ""}, "id", "expected an id of printable characters"),
        ({"id": "a\nb"}, "id", "expected an id of printable characters"),
    ],
)
def test_what_is_wrong_is_said(fields: dict[str, Any], path: str, problem: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse(**fields)
    assert problem in str(caught.value)
    assert str(caught.value).startswith("quota `")
    assert caught.value.path == ("quotas", 0, *(int(step) if step.isdigit() else step for step in path.split(".")))


ENTITIES = ("Org", "Team", "User", "Key", "Role")


@pytest.mark.parametrize(
    ("fields", "whole"),
    [
        ({"id": ""}, "quota ``: expected an id of printable characters"),
        ({"limit": "5"}, "found `5`, expected an amount and a time such as `500/minute` or `10 per 2 hours`"),
        ({"limit": "5/year"}, "found `5/year`, expected a window of at most 31 days"),
        ({"limit": "5/minute; 9/hour"}, "found 2 limits in `5/minute; 9/hour`, expected one: write a quota for each"),
        ({"limit": "0/minute"}, "found 0, expected more than 0: to refuse everything, write a policy"),
        (
            {"limit": f"{MAX_AMOUNT + 1}/minute"},
            f"found a limit of {MAX_AMOUNT + 1}, expected at most {MAX_AMOUNT} (for spend: 9007199 USD)",
        ),
        ({"what": "spend", "limit": "5 EUR/day"}, "found the currency `EUR`, expected USD: prices are in US dollars"),
        (
            {"what": "spend", "limit": "5 USD/hour"},
            "found `hour`: spend is counted by the calendar, expected day, week or month",
        ),
        ({"what": "spend", "limit": "5"}, "found `5`, expected an amount and a period such as `500 USD/month`"),
        ({"what": "in_flight", "limit": "x"}, "found `x`, expected a whole number such as 20: in_flight has no window"),
        (
            {"scope": ['Team::"x"', 'Org::"a"']},
            'found Team::"x" and Org::"a", expected one entity, or a pair of Org, Team, User, Key or Role and a ModelGroup',
        ),
        ({"scope": "x"}, 'found `x`, expected an entity such as `Team::"chatbot"`'),
        (
            {"scope": ['Team::"x"', 'ModelGroup::"g"'], "per": "team"},
            'found `team` in the scope Team::"x", expected something below the scope',
        ),
    ],
)
def test_what_is_wrong_is_said_in_a_whole_sentence(fields: dict[str, Any], whole: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        parse(**fields)
    assert str(caught.value).removeprefix("quota `q`: ") == whole


@pytest.mark.parametrize(("per", "refused"), [("key", {"Key"}), ("user", {"Key", "User"}), ("team", {"Key", "User", "Team"})])
def test_a_counter_is_split_by_what_there_can_be_several_of_below_the_scope(per: str, refused: set[str]) -> None:
    for kind in (*ENTITIES, "ModelGroup"):
        scope = f'{kind}::"x"'
        if kind in refused:
            with pytest.raises(DefinitionError, match="expected something below the scope"):
                parse(scope=scope, per=per)
        else:
            assert parse(scope=scope, per=per).per == per
        assert parse(scope=scope).per is None


def test_a_scope_of_one_may_be_written_as_a_list_and_a_pair_in_any_order() -> None:
    for kind in (*ENTITIES, "ModelGroup"):
        assert parse(scope=[f'{kind}::"x"']).scope == (Uid(kind, "x"),)
    for kind in ENTITIES:
        for pair in ([f'{kind}::"x"', 'ModelGroup::"g"'], ['ModelGroup::"g"', f'{kind}::"x"']):
            assert parse(scope=pair).scope == (Uid(kind, "x"), Uid("ModelGroup", "g"))


def test_the_number_of_quotas_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(definitions, "MAX_QUOTAS", 2)
    rows = [{"id": name, "scope": 'Org::"a"', "what": "requests", "limit": "5/minute"} for name in "abc"]
    assert len(parse_quotas(msgspec.convert({"quotas": rows[:2]}, QuotaFile))) == 2
    with pytest.raises(DefinitionError, match="3 quotas, expected at most 2") as caught:
        parse_quotas(msgspec.convert({"quotas": rows}, QuotaFile))
    assert caught.value.path == ("quotas",)


@pytest.mark.parametrize(
    ("meter", "limit", "written", "amount"),
    [
        ("spend", "500 USD/month", "420 USD", 420 * USD),
        ("spend", "500 USD/month", "0 USD", 0),
        ("spend", "500 USD/month", "80%", 400 * USD),
        ("spend", "500 USD/month", "120.5 %", 602_500_000_000),
        ("spend", "0.000000007 USD/month", "50%", 4),  # rounded up, as a threshold is
        ("requests", "50/minute", "80%", 40),
        ("requests", "7/minute", "12.5%", 1),
        ("requests", "50/minute", 0, 0),
        ("requests", "50/minute", 49, 49),
        ("tokens", "50/minute", MAX_AMOUNT, MAX_AMOUNT),
        ("in_flight", 20, 3, 3),
    ],
)
def test_what_a_quota_has_counted_can_be_written_as_its_limit_is(
    meter: str, limit: str | int, written: str | int, amount: int
) -> None:
    assert parse_amount(written, parse(what=meter, limit=limit)) == amount


@pytest.mark.parametrize(
    ("meter", "limit", "written", "expected"),
    [
        ("spend", "500 USD/month", 420, "an amount such as `420 USD` or a share such as `80%`"),
        ("spend", "500 USD/month", "420", "an amount such as `420 USD` or a share such as `80%`"),
        ("requests", "50/minute", "420 USD", "a whole number of requests or a share such as `80%`"),
        ("tokens", "50/minute", "4", "a whole number of tokens or a share such as `80%`"),
        ("tokens", "50/minute", -1, "a whole number of tokens or a share such as `80%`"),
        ("tokens", "50/minute", MAX_AMOUNT + 1, "a whole number of tokens or a share such as `80%`"),
    ],
)
def test_what_a_quota_cannot_have_counted_is_refused(meter: str, limit: str, written: str | int, expected: str) -> None:
    with pytest.raises(ValueError, match=f"^found `{written}`, expected {expected}$"):
        parse_amount(written, parse(what=meter, limit=limit))


@pytest.mark.parametrize(
    ("alerts", "problem"),
    [
        (["501 USD"], "found `501 USD`, expected no more than the limit"),
        (["101%"], "found `101%`, expected no more than the limit"),
        (["0%"], "found `0%`, expected more than 0"),
        (["0 USD"], "found `0 USD`, expected more than 0"),
        (["5 EUR"], "found the currency `EUR`"),
        ([100], "found `100`, expected an amount such as `100 USD` or a share such as `80%`"),
        (["-1%"], "found `-1%`, expected an amount"),
        (["50%", "250 USD"], "`250 USD` stands twice"),
    ],
)
def test_wrong_alerts(alerts: list[Any], problem: str) -> None:
    with pytest.raises(DefinitionError) as caught:
        spend("500 USD/month", alerts=alerts)
    assert problem in str(caught.value)
    assert caught.value.path == ("quotas", 0, "alerts", len(alerts) - 1)


def test_a_share_is_exact() -> None:
    assert spend("500 USD/month", alerts=["12.5%", "33.3%"]).alerts_at == (62_500_000_000, 166_500_000_000)


def test_a_share_is_rounded_up() -> None:
    assert spend("0.000000007 USD/day", alerts=["50%", "100%", "12.5 %"]).alerts_at == (1, 4, 7)


def test_ids_are_unique_and_the_time_zone_exists() -> None:
    row = {"id": "q", "scope": 'Org::"a"', "what": "requests", "limit": "5/minute"}
    with pytest.raises(DefinitionError, match="quota `q` stands twice") as caught:
        parse_quotas(msgspec.convert({"quotas": [row, row]}, QuotaFile))
    assert caught.value.path == ("quotas", 1, "id")
    with pytest.raises(DefinitionError, match="unknown time zone `Mars`") as caught:
        parse_quotas(QuotaFile(time_zone="Mars"))
    assert caught.value.path == ("time_zone",)


def test_unknown_fields_are_refused() -> None:
    with pytest.raises(msgspec.ValidationError, match="unknown field `limits`"):
        parse(limits="5/minute")


@given(st.sampled_from(["Org", "Team", "User", "Key", "Role", "ModelGroup"]), st.text(min_size=1).filter(str.isprintable))
def test_an_entity_reads_as_it_prints(kind: str, name: str) -> None:
    """A45: quotes, backslashes and type names in an id stay in the id."""
    assert parse_uid(str(Uid(kind, name))) == Uid(kind, name)


def test_a_store_that_is_gone_refuses_unless_the_quota_says_otherwise() -> None:
    assert parse().on_store_error is OnStoreError.DENY
    for declared in OnStoreError:
        assert parse(on_store_error=declared.value).on_store_error is declared
    with pytest.raises(msgspec.ValidationError, match="Invalid enum value 'open'"):
        parse(on_store_error="open")


@pytest.mark.parametrize(
    ("text", "nanos"),
    [("100 USD", 100 * USD), (" 0.5 USD ", USD // 2), ("-3 USD", -3 * USD), ("0 USD", 0), ("-0.000000001 USD", -1)],
)
def test_amounts_of_money(text: str, nanos: int) -> None:
    assert parse_usd(text) == nanos


@pytest.mark.parametrize(
    "text", ["", "100", "USD", "--1 USD", "- 1 EUR", "1e3 USD", "1 USD/month", "0.0000000001 USD", "１ USD", "inf USD"]
)
def test_other_amounts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"^found .*, expected"):
        parse_usd(text)
