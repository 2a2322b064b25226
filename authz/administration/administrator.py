"""Who may administer: the bundle's own policies decide what the command line does, as they decide on requests."""

from __future__ import annotations

from collections.abc import Iterable

from authz.bundle import Bundle
from authz.errors import AuthzError
from authz.model import Principal, Uid
from authz.policy import AdminContext

PUBLISH = "policy.publish"
READ = "usage.read"


class NotPermitted(AuthzError):
    """The bundle's policies do not let this user do that; `str()` says who and what."""


class Administrator:
    """A user, in all the teams in which they act.

    They may do what a policy permits them in one of their teams, unless one forbids it them in any. Raises `NotPermitted` where
    there is no team: a user whom the directory does not have, or has disabled.

    principals  the same user in each team: of the directory, by `user`; or of a token, by `TokenReader.acting`
    narrowed    of a secret with fewer roles than its key: the key with those. Both have to be allowed
    """

    def __init__(
        self,
        bundle: Bundle,
        principals: Iterable[Principal],
        now_ns: int,
        *,
        name: str = "",
        narrowed: Principal | None = None,
    ) -> None:
        self._bundle, self.now_ns = bundle, now_ns
        self._principals, self._narrowed = tuple(principals), narrowed
        if not self._principals:
            raise NotPermitted(f"no user `{name}` in force in the directory, expected one of `users`")
        self.uid = self._principals[0].uid
        self.roles = (narrowed or self._principals[0]).roles
        self.teams = tuple(principal.team for principal in self._principals)

    @classmethod
    def user(cls, bundle: Bundle, name: str, now_ns: int) -> Administrator:
        """One whom `users` of the directory names, for who is trusted to say so."""
        found = (bundle.directory.user(name, team, now_ns) for team in bundle.directory.users.get(name, {}))
        return cls(bundle, (principal for principal in found if principal is not None), now_ns, name=name)

    def may(self, action: str, resource: Uid) -> bool:
        return self._permitted(self._principals, action, resource) and (
            self._narrowed is None or self._permitted((self._narrowed,), action, resource)
        )

    def _permitted(self, principals: Iterable[Principal], action: str, resource: Uid) -> bool:
        context = AdminContext(source_ip="", now_ns=self.now_ns)
        verdicts = [self._bundle.policy.decide(each, action, (resource,), context) for each in principals]
        refused = any(verdict.forbidden or verdict.errors for verdict in verdicts)
        return not refused and any(verdict.allowed for verdict in verdicts)

    def sees(self, key: str, team: str = "") -> bool:
        """Whether they may read what a key, or a user who came with a token, has used."""
        return self.may(READ, of_whom(self._bundle, key, team))

    def require(self, action: str, resource: Uid) -> None:
        """Raises `NotPermitted`."""
        if not self.may(action, resource):
            raise NotPermitted(f"{self.uid} may not `{action}` on {resource}")

    def require_no_more(self, key: Principal, roles: Iterable[str] | None) -> None:
        """A secret never has more than whoever issues it: no role that they do not have, and nobody else's name.

        Who may publish a bundle could give themselves any role, so nothing is more than what they have. Raises `NotPermitted`.
        """
        if self.may(PUBLISH, key.organisation):
            return
        own = {role.id for role in self.roles}
        more = sorted({role.id for role in key.roles} & set(roles if roles is not None else (r.id for r in key.roles)) - own)
        if more:
            raise NotPermitted(f"{self.uid} does not have role `{more[0]}`, expected --role with those to leave to the secret")
        if key.user is not None and key.user != self.uid:
            raise NotPermitted(f"{key.uid} acts for {key.user}, expected a key of a team or of {self.uid}")


def of_whom(bundle: Bundle, key: str, team: str) -> Uid:
    """On what one has to be permitted `usage.read` to read what a key, or a user who came with a token, has used. One that the
    directory does not have is seen by who may see the team, or without one the organisation."""
    if key in bundle.directory.keys:
        return Uid("Key", key)
    named = Uid("Team", team)
    return named if named in bundle.directory.teams else bundle.directory.organisation
