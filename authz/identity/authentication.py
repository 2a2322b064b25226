"""Who is asking: from a request's credential to the principal it stands for, without any I/O."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Final, Protocol

from msgspec import UNSET, Struct, UnsetType, structs

from authz.errors import Refused
from authz.identity import keys
from authz.identity.credentials import KeyRing, bearer, invalid
from authz.identity.directory import Directory
from authz.identity.failures import Failures
from authz.model import Principal, Request
from authz.reasons import Reason

_log = logging.getLogger(__name__)


class Identity(Struct, frozen=True):
    """Who asks.

    principal   what the request is charged to, seen as and recorded under
    narrowed    the same with fewer roles, for a secret that was issued with fewer than its key has. Both have to be allowed: a
                role may forbid as well as permit, so that leaving one out must not be a way round it
    expires_ns  when the secret stops working, where another has replaced it; 0 where there is nothing to tell
    """

    principal: Principal
    narrowed: Principal | None = None
    expires_ns: int = 0


class Tokens(Protocol):
    """Tokens that somebody else has signed."""

    def identify(self, token: str, team: tuple[str, ...], directory: Directory, now_ns: int) -> Principal | None:
        """The principal of a token that holds in every way; `team` are the values of the header that chooses one."""
        ...

    def recognise(self, token: str) -> str:
        """The user of a token that held when it was last seen, as far as that is remembered; empty where it is not."""
        ...


class NoTokens:
    """For a directory without issuers."""

    def recognise(self, token: str) -> str:
        return ""

    def identify(self, token: str, team: tuple[str, ...], directory: Directory, now_ns: int) -> Principal | None:
        return None


TEAM_HEADER: Final = "openai-project"
"""Of a user in several teams: in which of them the request is made. It chooses among the teams of its token and gives none, so
a client may say it; it is the header that SDKs have for it (`project=`), and it does not go upstream."""


class Authenticator:
    """Identifies. Safe in threads.

    excess  is called for each failure beyond the limit of its source: for the metric
    """

    def __init__(
        self,
        ring: KeyRing,
        tokens: Tokens | None = None,
        failures: Failures | None = None,
        *,
        excess: Callable[[], None] = lambda: None,
    ) -> None:
        self._excess = excess
        self._ring = ring
        self._tokens: Tokens = tokens if tokens is not None else NoTokens()  # an empty cache counts as false
        self._failures = failures if failures is not None else Failures()

    def identify(self, request: Request, directory: Directory, now_ns: int) -> Identity:
        """Raises `Refused`: the same for whatever is wrong, until a source fails too often."""
        try:
            return self._identify(request, directory, now_ns)
        except Refused as refused:
            if refused.reason is not Reason.INVALID_API_KEY:
                raise
            above, tell = self._failures.count(request.source_ip, now_ns)
            if tell:
                _log.warning("many invalid credentials", extra={"alert": "invalid_credentials", "source_ip": request.source_ip})
            if above:
                self._excess()
                raise Refused(Reason.RATE_LIMIT_EXCEEDED, "Too many invalid credentials from this address.") from None
            raise

    def recognise(self, request: Request, directory: Directory, now_ns: int) -> str:
        """Whose request this seems to be, cheaply and by what is in memory: a key's team, or the user of a token that was seen
        before; empty for everybody else. For the order in which requests have their turn, and nothing more."""
        values = request.header("authorization")
        if not values:
            principal = directory.principal_of_peer(request.peer, now_ns) if request.peer else None
            return str(principal.team) if principal is not None else ""
        token = values[0].rpartition(" ")[2]
        digest = keys.digest(token)
        issued = self._ring.find(digest, now_ns)
        key = issued.key if issued is not None else directory.key_of_digest(digest)
        if key is None:
            return self._tokens.recognise(token)
        principal = directory.principal(key, now_ns)
        return str(principal.team) if principal is not None else ""

    def _identify(self, request: Request, directory: Directory, now_ns: int) -> Identity:
        if request.peer and not request.header("authorization"):
            return _known(directory.principal_of_peer(request.peer, now_ns))
        token = bearer(request)
        if keys.well_formed(token):
            return self._of_key(keys.digest(token), directory, now_ns)
        return _known(self._tokens.identify(token, request.header(TEAM_HEADER), directory, now_ns))

    def _of_key(self, digest: str, directory: Directory, now_ns: int) -> Identity:
        issued = self._ring.find(digest, now_ns)
        key = issued.key if issued is not None else directory.key_of_digest(digest)
        found = _known(directory.principal(key, now_ns) if key else None)
        self._ring.note(digest, now_ns)
        if issued is None or (issued.roles is None and not issued.replaced):
            return found
        return Identity(found.principal, narrowed(found.principal, issued.roles), issued.expires_ns if issued.replaced else 0)


def _known(principal: Principal | None) -> Identity:
    if principal is None:
        raise invalid()
    return Identity(principal)


def narrowed(principal: Principal, roles: tuple[str, ...] | None) -> Principal | None:
    """The principal with these of its roles; None where that is all of them.

    Only ever fewer than the key has now: a role that it has lost is not brought back by an older secret.
    """
    if roles is None:
        return None
    kept = tuple(role for role in principal.roles if role.id in roles)
    return structs.replace(principal, roles=kept) if kept != principal.roles else None


def told_roles(principal: Principal | None, narrowed: Principal | None) -> tuple[str, ...] | UnsetType:
    """The roles that a record tells: those that the directory alone does not say."""
    told = narrowed or (principal if principal is not None and principal.uid.type == "User" else None)
    return tuple(role.id for role in told.roles) if told is not None else UNSET
