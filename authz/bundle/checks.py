"""What no part of a bundle can know of itself: that the names in one part exist in another."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from authz.errors import ConfigError
from authz.identity.directory import Directory
from authz.inference.pricebook import PriceBook
from authz.model import Uid
from authz.policy import CedarText, Policy
from authz.quota.definitions import Quota, QuotaFile
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


def lost_in_policies(
    policies: Iterable[Policy], sources: Mapping[str, CedarText], links: Source | None, names: Names
) -> Iterator[ConfigError]:
    """Every entity that a policy names exists: a permit for a team that does not is a slip, a forbid for one a hole."""
    for policy in policies:
        scopes = (policy.principal.equals, policy.principal.within, policy.resource.equals, policy.resource.within)
        for uid in (*(uid for uid in scopes if uid is not None), *sorted(policy.literals)):
            if not names.has(uid):
                yield _in_policy(policy, uid, sources[policy.file], links)


def _in_policy(policy: Policy, uid: Uid, source: CedarText, links: Source | None) -> ConfigError:
    problem = f"policy `{policy.id}` names {uid}, which does not exist"
    if policy.template is not None and links is not None:
        index = next((index for index, link in enumerate(links.data["links"]) if link["id"] == policy.id), 0)
        return links.fail(("links", index), problem)
    lines = source.text.split("\n")
    start = sum(len(line) + 1 for line in lines[: policy.line - 1])
    at = source.text.find(f'{uid.type}::"{uid.id}"', start)
    return source.fail(at if at >= 0 else start, problem)


def lost_in_quotas(source: Source, file: QuotaFile, quotas: Iterable[Quota], names: Names) -> Iterator[ConfigError]:
    for index, quota in enumerate(quotas):
        at: tuple[str | int, ...] = ("quotas", index)
        for place, uid in enumerate(quota.scope):
            if uid not in names.entities:
                where = (*at, "scope") if isinstance(file.quotas[index].scope, str) else (*at, "scope", place)
                yield source.fail(where, f"quota `{quota.id}`: {uid} does not exist")
        for place, name in enumerate(file.quotas[index].models):
            if name not in names.models and name not in names.groups:
                yield source.fail((*at, "models", place), f"quota `{quota.id}`: `{name}` is no model and no model group")
