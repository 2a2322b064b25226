"""What stands in `Authorization`: an issued key, a token of one of the issuers, or nobody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from authz.errors import Refused
from authz.identity.authentication import Authenticator
from authz.identity.credentials import KeyRing
from authz.model import Request
from authz.reasons import Reason
from authz.store import open_store
from tests.identity.issuer import NOW_NS, NOW_S, forged, sign
from tests.identity.test_tokens import EC_KEY, ENTRA, GOOGLE, KEY, OKTA, Desk

GOOD: Final = (
    *(sign(claims, KEY) for claims in (OKTA, ENTRA, GOOGLE)),
    sign(OKTA, EC_KEY, kid="k2", algorithm="ES256"),
)
_FORGED: Final = (
    forged({"alg": "none", "kid": "k1"}, OKTA),
    forged({"alg": "HS256", "kid": "k1"}, OKTA, b"x" * 32),
    forged({"alg": "RS256", "kid": "k1", "crit": ["b64"], "b64": False}, OKTA, b"x" * 256),
    forged(
        {"alg": "RS256", "kid": "../k1", "jku": "https://evil.example", "jwk": {}}, {"iss": OKTA["iss"], "exp": NOW_S}, b"x"
    ),
    forged({"alg": "RS256", "kid": "k1"}, [1], b"x"),
    forged(b"\xff{", OKTA, b"x"),
)
SEEDS: Final = tuple(
    value.encode()
    for value in (
        *(f"Bearer {token}" for token in (*GOOD, *_FORGED)),
        "Bearer authz_" + "0" * 40,
        "Basic dTpw",
        "Bearer a,Bearer b",
        "bearer  x",
        "",
    )
)


def target() -> Callable[[bytes], str]:
    desk = Desk()
    store = open_store("sqlite:///:memory:")
    who = Authenticator(KeyRing(store), desk.reader)

    def one(data: bytes) -> str:
        """A header's value; after a NUL the value of the header that chooses a team."""
        value, _, team = data.partition(b"\0")
        text = value.decode("utf-8", "replace")
        headers = [("authorization", text)] + ([("openai-project", team.decode("utf-8", "replace"))] if team else [])
        try:
            identity = who.identify(Request("POST", "/", tuple(headers), b"", source_ip=""), desk.directory, NOW_NS)
        except Refused as refused:
            if refused.reason not in (Reason.INVALID_API_KEY, Reason.INVALID_REQUEST):
                raise
            return refused.reason.value
        token = text.split(" ")[-1]
        signed = {".".join(good.split(".")[:2]) for good in GOOD}
        assert ".".join(token.split(".")[:2]) in signed, "somebody got in with what nobody has signed"
        return str(identity.principal.uid.type)

    return one
