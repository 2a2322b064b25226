"""A small world for tests of policies: two teams, two roles, keys with and without a user, models in groups, ids that bite."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from authz.model import Principal, Uid
from authz.policy import CedarText, Context, Entity, Link, Percents, Policy, PolicyEngine, Schema, read_policies, read_schema
from authz.policy.policies import parse_policies

SCHEMA_FILE: Final = Path(__file__).parents[2] / "policies" / "schema.cedarschema"
UTC: Final = ZoneInfo("UTC")

ORG: Final = Uid("Org", "acme")
T1, T2 = Uid("Team", 'te"am\n1'), Uid("Team", 'Role::"r1"')
R1, R2 = Uid("Role", "r1"), Uid("Role", "rôle\\2")
U1, U2 = Uid("User", "u1"), Uid("User", "u2")
K1, K2 = Uid("Key", "k1"), Uid("Key", "\u202ek2\u0000")
G1, G2 = Uid("ModelGroup", "g1"), Uid("ModelGroup", "g2")
M1, M2, M3 = Uid("Model", "m1"), Uid("Model", "org/m2"), Uid("Model", 'Model::"m1"')

BY_K1: Final = Principal(uid=K1, organisation=ORG, team=T1, user=U1, roles=(R1,))
BY_K2: Final = Principal(uid=K2, organisation=ORG, team=T2, user=None, roles=(R1, R2))
BY_U2: Final = Principal(uid=U2, organisation=ORG, team=T1, user=U2, roles=(R2,))

_CEILINGS: Final[dict[str, bool | int | str | Uid | tuple[str, ...]]] = {"context_tokens": 1000, "max_output_tokens": 100}

ENTITIES: Final = (
    Entity(ORG),
    Entity(T1, (ORG,)),
    Entity(T2, (ORG,)),
    Entity(R1),
    Entity(R2),
    Entity(U1),
    Entity(U2, (T1, R2)),
    Entity(K1, (U1, T1, R1), {"team": T1}),
    Entity(K2, (T2, R1, R2), {"team": T2}),
    Entity(G1),
    Entity(G2),
    Entity(M1, (G1, G2), {**_CEILINGS, "output_price": 10}),
    Entity(M2, (G2,), {**_CEILINGS, "output_price": 99}),
    Entity(M3, (), {**_CEILINGS}),
)


@cache
def schema() -> Schema:
    return read_schema(CedarText("schema.cedarschema", SCHEMA_FILE.read_text(encoding="utf-8")))


def policies(text: str, *links: Link) -> tuple[Policy, ...]:
    return read_policies([CedarText("test.cedar", text)], schema(), links)


def engine(text: str, *links: Link, validated: bool = True) -> PolicyEngine:
    parsed = policies(text, *links) if validated else parse_policies([CedarText("test.cedar", text)], links)
    return PolicyEngine(parsed, schema(), ENTITIES, UTC)


def context(
    *,
    input_tokens: int = 10,
    stream: bool = False,
    source_ip: str = "10.0.0.1",
    spend: int = 0,
    now_s: int = 0,
    tier: str = "flex",
) -> Context:
    return Context(
        input_tokens=input_tokens,
        max_output_tokens=20,
        stream=stream,
        endpoint="chat.completions",
        service_tier=tier,
        tools=False,
        source_ip=source_ip,
        now_ns=now_s * 1_000_000_000,
        spend=Percents(org=spend),
    )
