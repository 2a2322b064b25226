"""A place whose directory has an identity provider: people with roles, for what is shown to some and not to others."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.identity.issuer import jwk, key_set, private_key, serving, sign
from tests.place import START_NS, Place, lay_out, opened_at

_KEY = private_key("k1")
_ISSUER = "https://id.example"
_GROUPS = """
issuers:
  id:
    issuer: {issuer}
    jwks_uri: {uri}
    audience: [authz]
    claims: {{groups: [groups]}}
    prefix: id.
    groups:
      Owners: {{teams: [chatbot], roles: [owner]}}
      Chat: {{teams: [chatbot], roles: [developer]}}
      Labs: {{teams: [research], roles: [reader]}}
      Guests: {{teams: [chatbot]}}
"""


@contextmanager
def peopled(folder: Path) -> Iterator[Place]:
    config = lay_out(folder)
    directory = folder / "policies/directory.yaml"
    with serving(key_set(jwk("k1", _KEY))) as server:
        directory.write_text(directory.read_text() + _GROUPS.format(issuer=_ISSUER, uri=server.url))
        with opened_at(config) as place:
            place.engine.key_sets.refresh(place.engine.bundle.directory.issuers.values(), place.time())
            yield place


def token(group: str, life_s: int = 86_400) -> str:
    """Of a member of the group."""
    now_s = START_NS // 10**9
    claims = {"iss": _ISSUER, "aud": "authz", "sub": group.lower(), "exp": now_s + life_s, "groups": [group]}
    return sign(claims, _KEY)
