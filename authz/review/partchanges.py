"""Quotas, directory, models, and what is beside them, compared as they are written."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from datetime import datetime
from typing import Final
from zoneinfo import ZoneInfo

from msgspec.structs import replace

from authz.answers import usd
from authz.bundle import Bundle
from authz.identity.directory import Member
from authz.identity.issuers import IssuerRow
from authz.inference.pricebook import Decommissioned, ModelSpec
from authz.model import Meter, Uid
from authz.quota.definitions import Quota, Reserve
from authz.quota.ledger import OnStoreError
from authz.quota.windows import Kind
from authz.review.access import Side
from authz.review.changes import (
    LESS,
    MORE,
    NEITHER,
    Change,
    Detail,
    Effects,
    Sort,
    both,
    differing,
    effects_of,
    named,
    switched,
    told,
    turned,
    unified,
)


def quotas(old: Bundle, new: Bundle) -> Iterator[Change]:
    before, after = both(lambda bundle: {quota.id: quota for quota in bundle.quotas.quotas}, old, new)
    for sort, name in differing(before, after, lambda quota: quota):
        one, other = before.get(name), after.get(name)
        if one is not None and other is not None:
            yield told(sort, "quota", name, _quota_details(one, other))
        elif (quota := one or other) is not None:
            effects = NEITHER if not quota.enforced else LESS if other else MORE
            yield Change(sort, "quota", name, (Detail(_quota_words(quota)),), effects)


def directory(old: Bundle, new: Bundle) -> Iterator[Change]:
    one, other = old.directory, new.directory
    if (one.organisation, one.name) != (other.organisation, other.name):
        yield Change(Sort.CHANGED, "organisation", other.organisation.id, (turned("name", one.name, other.name),))
    for kind, before, after in (("team", one.teams, other.teams), ("role", one.roles, other.roles)):
        yield from named(kind, {uid.id for uid in before}, {uid.id for uid in after})
    for name in sorted(one.disabled_teams ^ other.disabled_teams):
        yield told(Sort.CHANGED, "team", name, [switched(name in one.disabled_teams, name in other.disabled_teams)])
    for sort, name in differing(one.issuers, other.issuers, lambda issuer: issuer):
        yield told(sort, "issuer", name, _issuer_details(one.issuers.get(name), other.issuers.get(name)))
    for sort, name in differing(one.users, other.users, lambda user: user):
        yield told(sort, "user", name, _user_details(one.users.get(name, {}), other.users.get(name, {})))
    secrets = [_by_key(bundle) for bundle in (old, new)]
    keys = [
        {name: (member, found.get(name, ())) for name, member in bundle.directory.keys.items()}
        for bundle, found in zip((old, new), secrets, strict=True)
    ]
    for sort, name in differing(keys[0], keys[1], lambda key: key):
        details = _key_details(keys[0].get(name), keys[1].get(name), (old.time_zone, new.time_zone))
        yield told(sort, "key", name, details)


def models(old: Bundle, new: Bundle) -> Iterator[Change]:
    one, other = old.prices, new.prices
    if one.version != other.version:
        yield Change(Sort.CHANGED, "price book", other.version, (turned("version", one.version, other.version),))
    yield from named("model group", {uid.id for uid in one.groups}, {uid.id for uid in other.groups})
    for sort, name in differing(one.models, other.models, lambda model: model):
        before, after = both(lambda model: dict(_model_words(model)), one.models.get(name), other.models.get(name))
        yield told(sort, "model", name, [turned(field, before.get(field), after.get(field)) for field in {**before, **after}])
    aliases = [
        {name: found.id for name, found in book.names.items() if isinstance(found, ModelSpec) and found.id != name}
        for book in (one, other)
    ]
    for sort, name in differing(aliases[0], aliases[1], lambda target: target):
        yield told(sort, "alias", name, [turned("stands for", aliases[0].get(name), aliases[1].get(name))])
    gone = [{name: found for name, found in book.names.items() if isinstance(found, Decommissioned)} for book in (one, other)]
    for sort, name in differing(gone[0], gone[1], lambda found: found):
        replaced = [found[name].replacement if name in found else None for found in gone]
        yield told(sort, "decommissioned model", name, [turned("replacement", replaced[0], replaced[1])])


def beside(old: Side, new: Side) -> Iterator[Change]:
    """Time zone, schema, retired forbids, test cases."""
    zones = both(lambda side: side.bundle.time_zone.key, old, new)
    if zones[0] != zones[1]:
        yield Change(Sort.CHANGED, "time zone", zones[1], (turned("time zone", *zones),))
    if old.schema_text != new.schema_text:
        lines = unified(old.schema_text.splitlines(), new.schema_text.splitlines())
        yield Change(Sort.CHANGED, "schema", "schema.cedarschema", tuple(Detail(line) for line in lines))
    yield from named("retired forbid", set(old.bundle.retired), set(new.bundle.retired))
    before, after = both(lambda side: {case.name: case for case in side.bundle.cases}, old, new)
    for sort, name in differing(before, after, lambda case: replace(case, file="", line=0)):
        yield Change(sort, "test case", name)


def _quota_details(one: Quota, other: Quota) -> Iterator[Detail]:
    if (one.meter, one.limit, one.window) != (other.meter, other.limit, other.window):
        comparable = one.meter is other.meter and one.window.name == other.window.name
        yield turned("limit", _limit(one), _limit(other), effects_of(other.limit - one.limit) if comparable else NEITHER)
    if one.scope != other.scope:
        yield turned("scope", _uids(one.scope), _uids(other.scope))
    if one.enforced != other.enforced:
        yield turned("mode", *both(_mode, one, other), LESS if other.enforced else MORE)
    if one.models != other.models:
        # Fewer names are fewer requests that count; none at all is every request.
        widths = [len(quota.models) or 10**9 for quota in (one, other)]
        nested = (
            not one.models or not other.models or set(one.models) < set(other.models) or set(one.models) > set(other.models)
        )
        yield turned("models", _list(one.models), _list(other.models), effects_of(widths[0] - widths[1]) if nested else NEITHER)
    if one.per != other.per:
        effects = NEITHER if one.per and other.per else MORE if other.per else LESS
        yield turned("one counter for each", one.per, other.per, effects)
    if one.reserve is not other.reserve:
        yield turned("reserve", one.reserve, other.reserve, LESS if other.reserve is Reserve.WORST_CASE else MORE)
    if one.on_store_error is not other.on_store_error:
        strictness = (OnStoreError.DENY, OnStoreError.SHARE, OnStoreError.ALLOW)
        effects = effects_of(strictness.index(other.on_store_error) - strictness.index(one.on_store_error))
        yield turned("on store error", one.on_store_error, other.on_store_error, effects)
    if one.alerts_at != other.alerts_at:
        yield turned("alerts", *both(_alerts, one, other))


def _mode(quota: Quota) -> str:
    return "enforce" if quota.enforced else "shadow"


def _alerts(quota: Quota) -> str:
    return _list(_amount(quota, alert) for alert in quota.alerts_at)


def _quota_words(quota: Quota) -> str:
    of = f" of {', '.join(quota.models)}" if quota.models else ""
    per = f", for each {quota.per}" if quota.per else ""
    return f"{_limit(quota)}{of} for {_uids(quota.scope)}{per}{'' if quota.enforced else ', in shadow'}"


def _limit(quota: Quota) -> str:
    amount = _amount(quota, quota.limit)
    meter = "" if quota.meter is Meter.SPEND else f" {quota.meter}"
    return f"{amount}{meter}" if quota.window.kind is Kind.GAUGE else f"{amount}{meter}/{quota.window.name}"


def _amount(quota: Quota, amount: int) -> str:
    return f"{usd(amount)} USD" if quota.meter is Meter.SPEND else f"{amount:,}"


def _user_details(one: dict[str, Member], other: dict[str, Member]) -> Iterator[Detail]:
    yield turned("teams", _list(sorted(one)), _list(sorted(other)))
    yield turned("roles", *both(lambda teams: _roles(next(iter(teams.values()))) if teams else "", one, other))
    yield switched(*both(lambda teams: any(member.disabled for member in teams.values()), one, other))


def _key_details(
    one: tuple[Member, tuple[str, ...]] | None, other: tuple[Member, tuple[str, ...]] | None, zones: tuple[ZoneInfo, ZoneInfo]
) -> Iterator[Detail]:
    before, after = both(lambda given: given[0] if given else None, one, other)
    for field, said in _KEY_FIELDS.items():
        yield turned(field, said(before) if before else "", said(after) if after else "")
    last = [_last_day(member, zone) if member else "" for member, zone in zip((before, after), zones, strict=True)]
    ends = [member.expires_ns or 2**63 for member in (before, after) if member]
    yield turned("last day", last[0], last[1], effects_of(ends[1] - ends[0]) if len(ends) == 2 else NEITHER)
    yield switched(*both(lambda member: member is not None and member.disabled, before, after))
    for sort, name in differing(dict.fromkeys(one[1] if one else ()), dict.fromkeys(other[1] if other else ()), lambda _: _):
        yield Detail(f"{name} {sort}", MORE if sort is Sort.ADDED else LESS)


_KEY_FIELDS: Final[dict[str, Callable[[Member], str]]] = {
    "team": lambda member: member.principal.team.id,
    "user": lambda member: member.principal.user.id if member.principal.user else "",
    "roles": lambda member: _roles(member),
}


def _roles(member: Member) -> str:
    return _list(uid.id for uid in member.principal.roles)


def _last_day(member: Member, zone: ZoneInfo) -> str:
    return datetime.fromtimestamp(member.expires_ns // 10**9 - 1, zone).date().isoformat() if member.expires_ns else ""


def _by_key(bundle: Bundle) -> dict[str, tuple[str, ...]]:
    """What lets somebody act as a key, by its id: declared secrets and the identities of certificates."""
    found: dict[str, tuple[str, ...]] = {}
    directory = bundle.directory
    secrets = ((f"secret sha256:{digest[:12]}…", key) for digest, key in directory.digests.items())
    certificates = ((f"certificate {identity}", key) for identity, key in directory.peers.items())
    for shown, key in (*secrets, *certificates):
        found[key] = (*found.get(key, ()), shown)
    return found


def _issuer_details(one: IssuerRow | None, other: IssuerRow | None) -> Iterator[Detail]:
    """Who vouches for users, and what its groups give. Another issuer by the same name lets
    some in and keeps others out."""
    before, after = ({} if row is None else dict(_issuer_words(row)) for row in (one, other))
    for field in {**before, **after}:
        yield turned(field, before.get(field), after.get(field), Effects(more=True, less=True))
    groups = [{} if row is None else row.groups for row in (one, other)]
    for sort, name in differing(groups[0], groups[1], lambda row: row):
        effects = MORE if sort is Sort.ADDED else LESS if sort is Sort.REMOVED else Effects(more=True, less=True)
        given = groups[1].get(name) or groups[0][name]
        words = [f"{kind} {_list(names)}" for kind, names in (("teams", given.teams), ("roles", given.roles)) if names]
        gives = f", gives {' and '.join(words)}" if words and sort is not Sort.REMOVED else ""
        yield Detail(f"group {name} {sort}{gives}", effects)


def _issuer_words(row: IssuerRow) -> Iterator[tuple[str, str]]:
    yield "keys from", row.jwks_uri
    yield "audience", _list(row.audience)
    yield "algorithms", _list(row.algorithms)
    yield "user from", row.claims.user
    yield "groups from", _list(row.claims.groups)
    yield "required", _list(f"{name}={text}" for name, text in row.require.items())
    yield "prefix", row.prefix


def _model_words(model: ModelSpec | None) -> Iterator[tuple[str, str]]:
    if model is None:
        return
    price = model.price
    if price is not None:
        yield "input (USD/M tokens)", usd(price.input)
        yield "output (USD/M tokens)", usd(price.output)
        yield "cached input (USD/M tokens)", usd(price.cached_input)
    for name, amount in (("audio (USD/hour)", model.audio_hour), ("speech (USD/M characters)", model.million_characters)):
        if amount is not None:
            yield name, usd(amount)
    yield "actions", _list(sorted(model.actions))
    yield "groups", _list(sorted(uid.id for uid in model.groups))
    for field in ("context_tokens", "max_output_tokens", "prompt_overhead_tokens", "expected_output_tokens"):
        yield field, f"{getattr(model, field):,}"


def _uids(uids: Iterable[Uid]) -> str:
    return " and ".join(map(str, uids))


def _list(names: Iterable[str]) -> str:
    return ", ".join(names)
