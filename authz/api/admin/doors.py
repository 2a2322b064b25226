"""Who comes in: by an admin secret, a virtual key or a token. What was said is proved again at every request."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from authz.administration import READ, Administrator, NotPermitted
from authz.api.admin.sessions import Prove
from authz.bundle import Bundle
from authz.clock import Clock
from authz.errors import Refused
from authz.identity.authentication import Authenticator
from authz.identity.credentials import invalid
from authz.identity.keys import digest, well_formed
from authz.identity.tokens import TokenReader
from authz.model import Request, Secret, Uid
from authz.settings import AdminSecret

_DIGEST_PREFIX: Final = "sha256:"


class Doors:
    """bundle  the one in force · tokens: those that requests for inference may come with too"""

    def __init__(
        self,
        secrets: tuple[AdminSecret, ...],
        authenticator: Authenticator,
        tokens: TokenReader,
        bundle: Callable[[], Bundle],
        clock: Clock,
    ) -> None:
        self._users = {row.digest.removeprefix(_DIGEST_PREFIX): row.user for row in secrets}
        self._authenticator, self._tokens, self._bundle, self._clock = authenticator, tokens, bundle, clock

    def by(self, credential: str, source_ip: str) -> Prove:
        """Raises `Refused` for what is nobody's, and with other words where a source has tried too often; `NotPermitted` for
        somebody who may not see anything."""
        prove = self._of(credential, source_ip)
        require_some(prove(), self._bundle().directory.organisation)
        return prove

    def _of(self, credential: str, source_ip: str) -> Prove:
        # Kept as long as a session lives, so not as text that a traceback could show.
        said = Secret(credential)
        if well_formed(credential) and (user := self._users.get(digest(credential))) is not None:
            return lambda: Administrator.user(self._bundle(), user, self._clock())
        if self._tokens.acting(credential, self._bundle().directory, self._clock()):
            return lambda: self._of_token(said)
        self._identified(said, source_ip)  # counts a failure, and says it
        return lambda: self._identified(said, "")

    def _of_token(self, said: Secret) -> Administrator:
        bundle, now_ns = self._bundle(), self._clock()
        acting = self._tokens.acting(said.reveal(), bundle.directory, now_ns)
        if not acting:
            raise invalid()
        return Administrator(bundle, acting.values(), now_ns)

    def _identified(self, said: Secret, source_ip: str) -> Administrator:
        bundle, now_ns = self._bundle(), self._clock()
        request = Request("", "", (("authorization", f"Bearer {said.reveal()}"),), None, source_ip=source_ip)
        identity = self._authenticator.identify(request, bundle.directory, now_ns)
        return Administrator(bundle, (identity.principal,), now_ns, narrowed=identity.narrowed)


def require_some(administrator: Administrator, organisation: Uid) -> None:
    """Raises `NotPermitted` for one who sees neither the organisation nor one of their teams nor themselves."""
    if not any(administrator.may(READ, each) for each in (organisation, *administrator.teams, administrator.uid)):
        raise NotPermitted(f"{administrator.uid} may not `{READ}` on {administrator.teams[0]}, nor on anything else")


def proved(prove: Prove) -> Administrator | None:
    """None for one who is nobody any more."""
    try:
        return prove()
    except (Refused, NotPermitted):
        return None
