"""Who asks our own services, proved by a credential of theirs, and what the bundle's policies let them read.

The credential is what a request for inference would carry: `authorization` (`Bearer …`) in the metadata, and of a user in
several teams `openai-project` with it. Whoever cannot be proved may read nothing.
"""

from __future__ import annotations

from typing import Final

import grpc

from authz.administration import READ, of_whom
from authz.api.faults import Fault
from authz.bundle import Bundle
from authz.errors import Refused
from authz.identity.authentication import TEAM_HEADER, Authenticator, Identity
from authz.model import Principal, Request, Uid
from authz.policy import AdminContext

CREDENTIAL: Final = "authorization"
_EXPECTED: Final = "`authorization: Bearer …` of a user or a key of the directory"

Metadata = tuple[tuple[str, str], ...]


class Caller:
    """One who was proved at `now_ns`, and what they may read by this bundle."""

    def __init__(self, bundle: Bundle, identity: Identity, now_ns: int) -> None:
        self._bundle, self._identity, self._now_ns = bundle, identity, now_ns

    def sees(self, key: str, team: str = "") -> bool:
        """Whether they may read what a key, or a user who came with a token, has used and was answered."""
        return self._may(READ, of_whom(self._bundle, key, team))

    def require(self, key: str, team: str = "") -> None:
        """Raises `Fault` where they do not see it."""
        self._require(of_whom(self._bundle, key, team))

    def require_some(self) -> None:
        """Raises `Fault` for one who sees neither the organisation nor their own team nor themselves."""
        own = self._identity.principal
        if not any(self._may(READ, each) for each in (own.organisation, own.team, own.uid)):
            self._require(own.team)

    def _require(self, resource: Uid) -> None:
        if not self._may(READ, resource):
            message = f"{self._identity.principal.uid} may not `{READ}` on {resource}"
            raise Fault(grpc.StatusCode.PERMISSION_DENIED, message, field=CREDENTIAL)

    def _may(self, action: str, resource: Uid) -> bool:
        acting: list[Principal] = [self._identity.principal]
        if self._identity.narrowed is not None:
            acting.append(self._identity.narrowed)
        context = AdminContext(source_ip="", now_ns=self._now_ns)
        verdicts = [self._bundle.policy.decide(each, action, (resource,), context) for each in acting]
        return all(verdict.allowed and not verdict.errors for verdict in verdicts)


def key_of(principal: Uid) -> str:
    """Its name where it is a key; a user is seen by who sees the team."""
    return principal.id if principal.type == "Key" else ""


def credentials(context: grpc.aio.ServicerContext[bytes, bytes]) -> Metadata:
    """As much of an RPC's metadata as proves anything."""
    said = context.invocation_metadata() or ()
    return tuple((key, value) for key, value in said if key in (CREDENTIAL, TEAM_HEADER) and isinstance(value, str))


def identified(said: Metadata, who: Authenticator, bundle: Bundle, now_ns: int) -> Caller:
    """Raises `Fault`."""
    try:
        return Caller(bundle, who.identify(Request("", "", said, None), bundle.directory, now_ns), now_ns)
    except Refused as refused:
        raise Fault(grpc.StatusCode.UNAUTHENTICATED, refused.message, field=CREDENTIAL, expected=_EXPECTED) from None
