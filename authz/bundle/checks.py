"""What no part of a bundle can know of itself: that the names in one part exist in another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from authz.bundle.cases import Case
from authz.errors import ConfigError
from authz.identity.directory import Directory
from authz.inference.pricebook import PriceBook
from authz.model import Uid
from authz.policy import ACTIONS, CedarText, Policy
from authz.quota.definitions import Quota, QuotaFile, parse_uid
from authz.reasons import Reason
from authz.yamlfile import Source


class Names:
    """Everything that a policy, a quota or a test may name."""

    def __init__(self, entities: Iterable[Uid], directory: Directory, prices: PriceBook) -> None:
        self.entities = frozenset(entities)
        self.directory = directory
        self.models = frozenset(prices.names)
        self.groups = frozenset(group.id for group in prices.groups)

    def has(self, uid: Uid) -> bool:
        """A retired model may be named: a policy keeps saying what was asked for. Actions are the schema's."""
        return uid in self.entities or uid.type == "Action" or (uid.type == "Model" and uid.id in self.models)


def check_policies(policies: Iterable[Policy], sources: Mapping[str, CedarText], links: Source | None, names: Names) -> None:
    """Every entity that a policy names exists: a permit for a team that does not is a slip, a forbid for one a hole."""
    for policy in policies:
        scopes = (policy.principal.equals, policy.principal.within, policy.resource.equals, policy.resource.within)
        for uid in (*(uid for uid in scopes if uid is not None), *sorted(policy.literals)):
            if not names.has(uid):
                raise _in_policy(policy, uid, sources[policy.file], links)


def _in_policy(policy: Policy, uid: Uid, source: CedarText, links: Source | None) -> ConfigError:
    problem = f"policy `{policy.id}` names {uid}, which does not exist"
    if policy.template is not None and links is not None:
        index = next((index for index, link in enumerate(links.data["links"]) if link["id"] == policy.id), 0)
        return links.fail(("links", index), problem)
    lines = source.text.split("\n")
    start = sum(len(line) + 1 for line in lines[: policy.line - 1])
    at = source.text.find(f'{uid.type}::"{uid.id}"', start)
    return source.fail(at if at >= 0 else start, problem)


def check_quotas(source: Source, file: QuotaFile, quotas: Iterable[Quota], names: Names) -> None:
    for index, quota in enumerate(quotas):
        at: tuple[str | int, ...] = ("quotas", index)
        for place, uid in enumerate(quota.scope):
            if uid not in names.entities:
                where = (*at, "scope") if isinstance(file.quotas[index].scope, str) else (*at, "scope", place)
                raise source.fail(where, f"quota `{quota.id}`: {uid} does not exist")
        for place, name in enumerate(file.quotas[index].models):
            if name not in names.models and name not in names.groups:
                raise source.fail((*at, "models", place), f"quota `{quota.id}`: `{name}` is no model and no model group")


def check_cases(source: Source, cases: Iterable[Case], policies: frozenset[str], quotas: frozenset[str], names: Names) -> None:
    """A test that names what does not exist would be green for the wrong reason."""
    for index, case in enumerate(cases):
        at: tuple[str | int, ...] = ("cases", index)
        _check_principal(source, at, case, names)
        _check_request(source, at, case, names)
        for policy in case.expect.policies or ():
            if policy not in policies:
                raise source.fail((*at, "expect", "policies"), f"there is no policy `{policy}`")
        for quota in (*case.used, *((case.expect.quota,) if case.expect.quota else ())):
            if quota not in quotas:
                raise source.fail((*at, "used" if quota in case.used else "expect"), f"there is no quota `{quota}`")
        if case.expect.effect == "allow" and case.expect.reason is not None:
            raise source.fail((*at, "expect", "reason"), "an allow has no reason")


def _check_principal(source: Source, at: tuple[str | int, ...], case: Case, names: Names) -> None:
    principal = _uid(source, (*at, "principal"), case.principal)
    teams = names.directory.users.get(principal.id, {}) if principal.type == "User" else None
    if principal not in names.entities or principal.type not in ("Key", "User"):
        raise source.fail((*at, "principal"), f"{principal} is no key and no user of the directory")
    if teams is not None and case.team not in teams:
        raise source.fail((*at, "team"), f"{principal} acts in one of its teams, expected `team:` with one of {sorted(teams)}")
    if teams is None and case.team is not None:
        raise source.fail((*at, "team"), "a key acts in its own team: leave `team` out")


def _check_request(source: Source, at: tuple[str | int, ...], case: Case, names: Names) -> None:
    request, at = case.request, (*at, "request")
    spec = ACTIONS.get(request.action)
    if spec is None:
        raise source.fail((*at, "action"), f"unknown action `{request.action}`, expected one of {', '.join(ACTIONS)}")
    if (request.model is None) == (request.resource is None) or ((request.model is None) is ("Model" in spec.resources)):
        wanted = "`model` and no `resource`" if "Model" in spec.resources else "`resource` and no `model`"
        raise source.fail(at, f"expected {wanted} for `{request.action}`")
    if request.model is not None and request.model not in names.models and case.expect.reason is not Reason.MODEL_NOT_FOUND:
        raise source.fail((*at, "model"), f"unknown model `{request.model}`: only `model_not_found` can be expected of it")
    if request.resource is not None and _uid(source, (*at, "resource"), request.resource) not in names.entities:
        raise source.fail((*at, "resource"), f"{request.resource} does not exist")
    if request.time is not None and request.time.tzinfo is None:
        raise source.fail((*at, "time"), "expected a time with an offset, like `2026-12-31T23:30:00+01:00`")


def _uid(source: Source, at: tuple[str | int, ...], text: str) -> Uid:
    try:
        return parse_uid(text)
    except ValueError as error:
        raise source.fail(at, str(error)) from None
