"""`issuers:` of the directory: whose tokens count, and what their claims mean here.

    issuers:
      okta:
        issuer: https://acme.okta.com/oauth2/default
        jwks_uri: https://acme.okta.com/oauth2/default/v1/keys
        audience: [api://authz]
        algorithms: [RS256]
        claims: {user: sub, groups: [groups]}
        require: {tid: …}
        prefix: okta.
        groups: {LLM-Chatbot: {teams: [chatbot], roles: [developer]}}

What a token says of groups means nothing by itself: only through `groups` does it become a team or a role of the directory. A
user with a row under `users` has that row's teams and roles too, and is out of force where the row is disabled.
"""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Final
from urllib.parse import urlsplit

from msgspec import Meta, Struct

from authz.yamlfile import Source

ALGORITHMS: Final = ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA")
"""Signatures with a public key, and nothing else: a shared secret could be signed with by whoever can verify."""

Claim = Annotated[str, Meta(min_length=1, max_length=200)]
Text = Annotated[str, Meta(min_length=1, max_length=500)]
_PREFIX: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._@+-]{0,31}")


class ClaimNames(Struct, frozen=True, forbid_unknown_fields=True):
    """user: the claim whose text is the user's id here · groups: claims with a list of groups, or one"""

    user: Claim = "sub"
    groups: tuple[Claim, ...] = ()


class GroupRow(Struct, frozen=True, forbid_unknown_fields=True):
    teams: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()


class IssuerRow(Struct, frozen=True, forbid_unknown_fields=True):
    """require  claims that must have exactly this text, such as a tenant or a hosted domain
    prefix   stands before the user's id, so that the users of two issuers are not taken for one another
    """

    issuer: Text
    jwks_uri: Text
    audience: Annotated[tuple[Text, ...], Meta(min_length=1)]
    algorithms: Annotated[tuple[str, ...], Meta(min_length=1)] = ("RS256",)
    claims: ClaimNames = ClaimNames()
    require: dict[Claim, Text] = {}
    prefix: str = ""
    groups: dict[Text, GroupRow] = {}


def check_issuers(source: Source, issuers: dict[str, IssuerRow], teams: frozenset[str], roles: frozenset[str]) -> None:
    """Raises `ConfigError` at the first issuer that is not right."""
    seen: dict[str, str] = {}
    for name, row in issuers.items():
        at = ("issuers", name)
        if row.issuer in seen:
            raise source.fail((*at, "issuer"), f"`{row.issuer}` is issuer `{seen[row.issuer]}` already")
        seen[row.issuer] = name
        if not is_safe(row.jwks_uri):
            raise source.fail((*at, "jwks_uri"), "expected an address that begins with `https://`")
        for index, algorithm in enumerate(row.algorithms):
            if algorithm not in ALGORITHMS:
                known = ", ".join(f"`{each}`" for each in ALGORITHMS)
                raise source.fail((*at, "algorithms", index), f"algorithm `{algorithm}`, expected one of {known}")
        if row.prefix and _PREFIX.fullmatch(row.prefix) is None:
            raise source.fail((*at, "prefix"), f"prefix `{row.prefix}`, expected up to 32 letters, digits and `._@+-`")
        for other, beside in issuers.items():
            if other != name and beside.prefix.startswith(row.prefix):
                problem = f"the users of `{name}` could be taken for those of `{other}`, expected a prefix for each of several"
                raise source.fail((*at, "prefix") if row.prefix else at, problem)
        for group, given in row.groups.items():
            for kind, names, known_names in (("teams", given.teams, teams), ("roles", given.roles, roles)):
                for index, each in enumerate(names):
                    if each not in known_names:
                        problem = f"unknown {kind[:-1]} `{each}`, expected one of `{kind}`"
                        raise source.fail((*at, "groups", group, kind, index), problem)


def is_safe(uri: str) -> bool:
    """https, or this machine itself."""
    if not uri.isascii() or not uri.isprintable() or " " in uri:
        return False
    try:
        parts = urlsplit(uri)
        host, _ = parts.hostname or "", parts.port
    except ValueError:
        return False
    if parts.username is not None or parts.password is not None or parts.fragment or not host:
        return False
    return parts.scheme == "https" or (parts.scheme == "http" and _is_loopback(host))


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
