"""A bundle: schema, policies, directory, prices, quotas and tests, loaded and checked as one and named by its digest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct

from authz.bundle import casechecks, checks, files, world
from authz.bundle.cases import Case, read_cases
from authz.bundle.files import Parts
from authz.errors import ConfigError
from authz.identity.directory import Directory, read_directory
from authz.inference.pricebook import PriceBook, read_pricebook
from authz.policy import (
    CedarText,
    Effect,
    Entity,
    EntityError,
    Link,
    LinkError,
    Mode,
    Policy,
    PolicyEngine,
    Schema,
    SchemaMismatch,
    read_policies,
    read_schema,
)
from authz.quota.definitions import DefinitionError, Quota, QuotaFile, parse_quotas
from authz.quota.path import QuotaIndex
from authz.yamlfile import Source, parse_yaml


class Bundle(Struct, frozen=True):
    """Everything that decisions rest on. Never changes: a new one takes its place.

    digest     `sha256:…` over the names and bytes of every file, tests included
    time_zone  the organisation's: budgets, the usage report's days, hours in policies, last days of keys
    retired    ids of forbids that are gone on purpose
    schema     its text
    """

    digest: str
    time_zone: ZoneInfo
    directory: Directory
    prices: PriceBook
    quotas: QuotaIndex
    policy: PolicyEngine
    policies: tuple[Policy, ...]
    cases: tuple[Case, ...]
    retired: frozenset[str]
    schema: str


class LinksFile(Struct, frozen=True, forbid_unknown_fields=True):
    links: tuple[Link, ...] = ()


class RetiredFile(Struct, frozen=True, forbid_unknown_fields=True):
    """forbids  why each forbid is gone, by its id"""

    forbids: dict[str, Annotated[str, Meta(min_length=1)]] = {}


def load_bundle(path: Path) -> Bundle:
    """Reads, checks and cross-checks a folder. Raises `ConfigError` with file, line and caret; then there is no bundle."""
    parts = files.read_parts(path)

    # 1 the parts that stand for themselves
    quota_source, quota_file, quotas = _quotas(parts)
    zone = ZoneInfo(quota_file.time_zone)
    directory = read_directory(_yaml(parts, files.DIRECTORY), zone)
    prices = read_pricebook(_yaml(parts, files.MODELS))
    schema = read_schema(CedarText(parts.shown(files.SCHEMA), parts.texts[files.SCHEMA]))

    # 2 policies, validated against the schema
    sources = [CedarText(parts.shown(name), parts.texts[name]) for name in parts.named("", ".cedar")]
    links = _yaml(parts, files.LINKS) if files.LINKS in parts.texts else None
    policies = _policies(sources, schema, links)

    # 3 the directory and the prices as entities, validated too, and the engine over all of it
    entities = list(world.entities(directory, prices))
    engine = _engine(parts, policies, schema, entities, zone)

    # 4 what one part says of another
    names = checks.Names((entity.uid for entity in entities), directory, prices)
    checks.check_policies(policies, {source.file: source for source in sources}, links, names)
    checks.check_quotas(quota_source, quota_file, quotas, names)
    cases = _cases(parts, policies, quotas, names)

    return Bundle(
        digest=parts.digest,
        time_zone=zone,
        directory=directory,
        prices=prices,
        quotas=QuotaIndex(quotas),
        policy=engine,
        policies=policies,
        cases=cases,
        retired=_retired(parts, policies),
        schema=parts.texts[files.SCHEMA],
    )


def _yaml(parts: Parts, name: str) -> Source:
    return parse_yaml(parts.texts[name], parts.shown(name))


def _quotas(parts: Parts) -> tuple[Source, QuotaFile, tuple[Quota, ...]]:
    source = _yaml(parts, files.QUOTAS)
    file = source.convert(QuotaFile)
    try:
        return source, file, parse_quotas(file)
    except DefinitionError as error:
        raise source.fail(error.path, str(error)) from None


def _policies(sources: Sequence[CedarText], schema: Schema, links: Source | None) -> tuple[Policy, ...]:
    linked = links.convert(LinksFile).links if links is not None else ()
    try:
        return read_policies(sources, schema, linked)
    except LinkError as error:
        assert links is not None  # INVARIANT: without the file there are no links to be wrong
        raise links.fail(("links", error.index), str(error)) from None


def _engine(
    parts: Parts, policies: tuple[Policy, ...], schema: Schema, entities: Sequence[Entity], zone: ZoneInfo
) -> PolicyEngine:
    try:
        return PolicyEngine(policies, schema, entities, zone)
    except (EntityError, SchemaMismatch) as error:
        raise ConfigError(parts.shown(files.SCHEMA), str(error)) from None


def _retired(parts: Parts, policies: Sequence[Policy]) -> frozenset[str]:
    if files.RETIRED not in parts.texts:
        return frozenset()
    source = _yaml(parts, files.RETIRED)
    retired = source.convert(RetiredFile).forbids
    for policy in policies:
        if policy.id in retired and policy.effect is Effect.FORBID and policy.mode is Mode.ENFORCE:
            raise source.fail(("forbids", policy.id), f"`{policy.id}` is not gone: it still forbids")
    return frozenset(retired)


def _cases(parts: Parts, policies: Sequence[Policy], quotas: Sequence[Quota], names: checks.Names) -> tuple[Case, ...]:
    cases = read_cases(_yaml(parts, name) for name in parts.named(f"{files.TESTS}/", ".yaml"))
    policy_ids = frozenset(policy.id for policy in policies)
    casechecks.check_cases(cases, policy_ids, frozenset(quota.id for quota in quotas), names)
    return tuple(placed.case for placed in cases)
