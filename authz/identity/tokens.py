"""Tokens that an identity provider has signed: verified by PyJWT, with the issuer's keys that are in memory.

What a token says of how it should be verified counts for nothing: the issuer is one of the directory's, the key is one that was
fetched from that issuer's address, and the algorithm is the one that this key was prepared for. `jku`, `jwk`, `x5u` and `x5c`
are not read; a token that says that an extension has to be understood (`crit`) is refused, for we understand none.
"""

from __future__ import annotations

import hashlib
import threading
from base64 import urlsafe_b64decode
from binascii import Error as Base64Error
from collections import OrderedDict
from typing import Any, Final

import jwt
import msgspec
from jwt.exceptions import PyJWTError
from msgspec import Raw, Struct

from authz.errors import Refused
from authz.identity.directory import Directory, bad_name
from authz.identity.issuers import IssuerRow
from authz.identity.jwks import KeySets
from authz.model import Principal
from authz.reasons import Reason

MAX_BYTES: Final = 16 * 1024
MAX_GROUPS: Final = 1_000
MAX_CACHED: Final = 10_000
LEEWAY_S: Final = 30
"""For clocks that differ; of what is kept, nothing is used beyond `exp` itself."""

_PARTS: Final = 3
_NS: Final = 1_000_000_000
_MAX_S: Final = 2**40
_MAX_NAME: Final = 128


class Verified(Struct, frozen=True):
    """What a token that holds says, before the directory says what it means.

    issuer   with which it was verified, as the directory had it then · version: of that issuer's keys
    user     the user's id here
    ends_ns  the first instant at which it does not hold
    """

    issuer: IssuerRow
    version: int
    user: str
    groups: tuple[str, ...]
    ends_ns: int


class _Header(Struct, frozen=True):
    alg: str
    kid: str
    crit: Raw | None = None


class _Claimed(Struct, frozen=True):
    iss: str


class TokenReader:
    """`Tokens`. Safe in threads; no I/O.

    What was verified is kept by the SHA-256 of the whole token, so that no other token can be taken for it, and used as long as
    its issuer's keys and what the directory says of the issuer are the same.
    """

    def __init__(self, keys: KeySets, *, max_cached: int = MAX_CACHED) -> None:
        self._keys, self._max_cached = keys, max_cached
        self._cache: OrderedDict[bytes, Verified] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._cache)

    def identify(self, token: str, team: tuple[str, ...], directory: Directory, now_ns: int) -> Principal | None:
        """None for a token that does not hold. Raises `Refused` for one that does, of a user who has to say in which team."""
        verified = self._verified(token, directory, now_ns)
        if verified is None or len(team) > 1:
            return None
        acting = directory.acting(verified.user, verified.issuer, verified.groups)
        chosen = team[0] if team else None
        if chosen is None and len(acting) > 1:
            names = ", ".join(f"`{name}`" for name in sorted(acting))
            raise Refused(Reason.INVALID_REQUEST, f"You are in the teams {names}: name one in `OpenAI-Project`.")
        return acting.get(chosen if chosen is not None else next(iter(acting), ""))

    def recognise(self, token: str) -> str:
        """The user of a token that held when it was last seen, as far as that is remembered; empty where it is not."""
        with self._lock:
            found = self._cache.get(hashlib.sha256(token.encode()).digest())
        return f"{found.issuer.issuer} {found.user}" if found is not None else ""

    def acting(self, token: str, directory: Directory, now_ns: int) -> dict[str, Principal]:
        """The user of a token by each team in which they may act, for who shows them all at once; none for one that does not
        hold."""
        verified = self._verified(token, directory, now_ns)
        return directory.acting(verified.user, verified.issuer, verified.groups) if verified is not None else {}

    def _verified(self, token: str, directory: Directory, now_ns: int) -> Verified | None:
        if not directory.issuers or len(token) > MAX_BYTES or token.count(".") != _PARTS - 1:
            return None
        name = hashlib.sha256(token.encode()).digest()
        with self._lock:
            found = self._cache.get(name)
            if found is not None:
                self._cache.move_to_end(name)
        if found is not None:
            if now_ns >= found.ends_ns:
                with self._lock:
                    self._cache.pop(name, None)
                return None
            issuer = directory.issuers.get(found.issuer.issuer)
            if issuer == found.issuer and self._keys.version(issuer) == found.version:
                return found
        found = self._verify(token, directory, now_ns)
        with self._lock:
            if found is None:
                self._cache.pop(name, None)
            else:
                self._cache[name] = found
                if len(self._cache) > self._max_cached:
                    self._cache.popitem(last=False)
        return found

    def _verify(self, token: str, directory: Directory, now_ns: int) -> Verified | None:
        header_part, payload_part, _ = token.split(".")
        try:
            header = msgspec.json.decode(decoded(header_part), type=_Header)
            claimed = msgspec.json.decode(decoded(payload_part), type=_Claimed)
        except (msgspec.MsgspecError, Base64Error, ValueError, RecursionError):
            return None
        issuer = directory.issuers.get(claimed.iss)
        if issuer is None or header.crit is not None:
            return None
        known = self._keys.find(issuer, header.kid, header.alg)
        if known is None:
            return None
        key, version = known
        try:
            claims = jwt.decode(
                token,
                key,
                algorithms=[header.alg],  # INVARIANT: the key was found under this very algorithm
                audience=issuer.audience,
                issuer=issuer.issuer,
                # Of times the library would ask the machine's clock; ours are checked below.
                options={"require": ["exp", "aud", "iss"], "verify_exp": False, "verify_nbf": False, "verify_iat": False},
            )
        except (PyJWTError, ValueError, TypeError, RecursionError):
            return None
        return _read(claims, issuer, version, now_ns)


def decoded(part: str) -> bytes:
    return urlsafe_b64decode(part + "=" * (-len(part) % 4))


def _read(claims: dict[str, Any], issuer: IssuerRow, version: int, now_ns: int) -> Verified | None:
    ends_ns, begins_ns, issued_ns = (_time_ns(claims, name) for name in ("exp", "nbf", "iat"))
    if ends_ns is None or now_ns >= ends_ns:
        return None
    for name, starts_ns in (("nbf", begins_ns), ("iat", issued_ns)):
        if name in claims and (starts_ns is None or starts_ns > now_ns + LEEWAY_S * _NS):
            return None
    if any(claims.get(name) != expected for name, expected in issuer.require.items()):
        return None
    user = claims.get(issuer.claims.user)
    if not isinstance(user, str) or (issuer.claims.user == "email" and claims.get("email_verified") is not True):
        return None
    name = issuer.prefix + user
    if len(name) > _MAX_NAME or bad_name(user) is not None:
        return None
    return Verified(issuer, version, name, _groups(claims, issuer), ends_ns)


def _groups(claims: dict[str, Any], issuer: IssuerRow) -> tuple[str, ...]:
    """Those that mean something here. Where a provider leaves them out because there are too many, there are none."""
    found: list[str] = []
    for claim in issuer.claims.groups:
        said = claims.get(claim)
        values = [said] if isinstance(said, str) else said if isinstance(said, list) else []
        found += [value for value in values[:MAX_GROUPS] if isinstance(value, str) and value in issuer.groups]
    return tuple(dict.fromkeys(found))


def _time_ns(claims: dict[str, Any], name: str) -> int | None:
    """A NumericDate, rounded down to the second; None where it is none."""
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= _MAX_S:
        return None
    return int(value) * _NS
