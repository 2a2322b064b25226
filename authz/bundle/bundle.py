"""A bundle: schema, policies, directory, prices, quotas and tests, loaded and checked as one and named by its digest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar
from zoneinfo import ZoneInfo

from msgspec import Meta, Struct

from authz.bundle import casechecks, checks, files, world
from authz.bundle.cases import Case, PlacedCase, read_cases
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
    policy_problems,
    read_policies,
    read_schema,
)
from authz.quota.definitions import DefinitionError, Quota, QuotaFile, parse_quota, parse_quotas
from authz.quota.path import QuotaIndex
from authz.yamlfile import Source, parse_yaml

T = TypeVar("T")


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
    for error in checks.lost_in_policies(policies, {source.file: source for source in sources}, links, names):
        raise error
    for error in checks.lost_in_quotas(quota_source, quota_file, quotas, names):
        raise error
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


def problems(path: Path) -> tuple[ConfigError, ...]:
    """Everything that is wrong with a folder, in the order of files and lines, for people to mend in one go: what `load_bundle`
    raises, and what it would raise next as far as that can be said beside it. Nothing of a good bundle."""
    try:
        load_bundle(path)
    except ConfigError as error:
        first = error
    else:
        return ()
    try:
        parts = files.read_parts(path)
    except ConfigError:
        return (first,)
    found = {str(error): error for error in (first, *_Survey(parts).errors)}
    return tuple(sorted(found.values(), key=lambda error: (error.file, error.line, error.column)))


class _Survey:
    """Each part by itself; and what one says of another, once all of them stand."""

    def __init__(self, parts: Parts) -> None:
        self.errors: list[ConfigError] = []
        self._parts = parts
        quotas = self._try(lambda: _quotas(parts))
        if quotas is None:
            self._rows()
        zone = ZoneInfo(quotas[1].time_zone) if quotas is not None else ZoneInfo("UTC")
        directory = self._try(lambda: read_directory(_yaml(parts, files.DIRECTORY), zone))
        prices = self._try(lambda: read_pricebook(_yaml(parts, files.MODELS)))
        schema = self._try(lambda: read_schema(CedarText(parts.shown(files.SCHEMA), parts.texts[files.SCHEMA])))
        sources = [CedarText(parts.shown(name), parts.texts[name]) for name in parts.named("", ".cedar")]
        self.errors += policy_problems(sources, schema)
        links = self._try(lambda: _yaml(parts, files.LINKS)) if files.LINKS in parts.texts else None
        tests = [self._try(partial(_placed, parts, name)) for name in parts.named(f"{files.TESTS}/", ".yaml")]
        if self.errors or quotas is None or directory is None or prices is None or schema is None:
            return
        policies = self._try(lambda: _policies(sources, schema, links))
        if policies is None:
            return
        names = checks.Names((entity.uid for entity in world.entities(directory, prices)), directory, prices)
        self.errors += checks.lost_in_policies(policies, {source.file: source for source in sources}, links, names)
        self.errors += checks.lost_in_quotas(*quotas, names)
        known = frozenset(policy.id for policy in policies), frozenset(quota.id for quota in quotas[2])
        for placed in (each for cases in tests for each in cases or ()):
            self._try(partial(casechecks.check_cases, [placed], *known, names))

    def _rows(self) -> None:
        """The quotas one by one."""
        source = self._try(lambda: _yaml(self._parts, files.QUOTAS))
        file = self._try(lambda: source.convert(QuotaFile)) if source is not None else None
        for index, row in enumerate(file.quotas if file is not None else ()):
            try:
                parse_quota(row, file.time_zone if file is not None else "UTC")
            except DefinitionError as error:
                assert source is not None  # INVARIANT: the rows came from it
                self.errors.append(source.fail(("quotas", index, *error.path), f"quota `{row.id}`: {error}"))

    def _try(self, read: Callable[[], T]) -> T | None:
        try:
            return read()
        except ConfigError as error:
            self.errors.append(error)
            return None


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


def _placed(parts: Parts, *names: str) -> tuple[PlacedCase, ...]:
    return read_cases(_yaml(parts, name) for name in names)


def _cases(parts: Parts, policies: Sequence[Policy], quotas: Sequence[Quota], names: checks.Names) -> tuple[Case, ...]:
    cases = _placed(parts, *parts.named(f"{files.TESTS}/", ".yaml"))
    policy_ids = frozenset(policy.id for policy in policies)
    casechecks.check_cases(cases, policy_ids, frozenset(quota.id for quota in quotas), names)
    return tuple(placed.case for placed in cases)
