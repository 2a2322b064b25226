"""Sign-in at an identity provider: OpenID Connect's authorization-code flow with PKCE.

The browser is sent away with a random `state`, `nonce` and the digest of a random verifier. It comes back with a code, which we
change for an ID token at the provider's own address. The token is verified as every token is (an issuer of the directory, its
keys in memory, its algorithms), except that its audience is our client id and nothing else; and it has to carry our nonce.

A `Strict` cookie would not come along when the provider sends the browser back, so the way back is tied to the browser that
left by a `Lax` one of its own, of five minutes.
"""

from __future__ import annotations

import hashlib
import hmac
import threading
from base64 import urlsafe_b64encode
from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Final
from urllib.parse import urlencode

import httpx
import msgspec
from msgspec import Struct, structs

from authz.administration import Administrator
from authz.api.admin.sessions import Prove
from authz.bundle import Bundle
from authz.clock import Clock
from authz.errors import Refused
from authz.identity.credentials import invalid
from authz.identity.directory import Directory
from authz.identity.jwks import KeySets
from authz.identity.tokens import TokenReader, decoded
from authz.model import Secret
from authz.reasons import Reason
from authz.settings import Oidc

PENDING_NS: Final = 5 * 60 * 1_000_000_000
MOST: Final = 1_000
TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 64 * 1024


class _Pending(Struct, frozen=True):
    browser: bytes
    verifier: str
    nonce: str
    ends_ns: int


class _Answer(Struct, frozen=True):
    id_token: str


class _Claims(Struct, frozen=True):
    nonce: str
    azp: str = ""


class Provider:
    """One identity provider. Safe in threads.

    secret    ours at the provider, empty for a public client
    redirect  where it sends browsers back to
    """

    def __init__(
        self,
        oidc: Oidc,
        keys: KeySets,
        bundle: Callable[[], Bundle],
        clock: Clock,
        *,
        token: Callable[[], str],
        secret: str,
        redirect: str,
    ) -> None:
        self._oidc, self._bundle, self._clock, self._token = oidc, bundle, clock, token
        self._secret, self._redirect = Secret(secret), redirect
        self._tokens = TokenReader(keys)
        self._pending: OrderedDict[str, _Pending] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        return self._oidc.issuer.partition("://")[2].partition("/")[0] or self._oidc.issuer

    def begin(self) -> tuple[str, str]:
        """Where to send the browser, and the cookie that it takes along."""
        state, nonce, verifier, browser = (self._token() for _ in range(4))
        with self._lock:
            self._pending[state] = _Pending(_digest(browser), verifier, nonce, self._clock() + PENDING_NS)
            while len(self._pending) > MOST:
                self._pending.popitem(last=False)
        asked = {
            "response_type": "code",
            "client_id": self._oidc.client_id,
            "redirect_uri": self._redirect,
            "scope": self._oidc.scope,
            "state": state,
            "nonce": nonce,
            "code_challenge": urlsafe_b64encode(_digest(verifier)).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
        }
        return f"{self._oidc.authorize}{'&' if '?' in self._oidc.authorize else '?'}{urlencode(asked)}", browser

    def end(self, said: Mapping[str, str], browser: str) -> Prove:
        """`said` is the query that the browser came back with. Raises `Refused`; a state is good for one attempt."""
        with self._lock:
            pending = self._pending.pop(said.get("state", ""), None)
        if pending is None or self._clock() >= pending.ends_ns or not hmac.compare_digest(pending.browser, _digest(browser)):
            raise Refused(Reason.INVALID_API_KEY, "this sign-in was not begun here, or too long ago: begin again")
        if said.get("iss", self._oidc.issuer) != self._oidc.issuer or not said.get("code"):
            raise Refused(Reason.INVALID_API_KEY, "the identity provider did not sign you in")
        token = Secret(self._exchange(said["code"], pending.verifier))
        self._administrator(token)
        claims = _claims(token)
        if not hmac.compare_digest(claims.nonce.encode(), pending.nonce.encode()):
            raise invalid()
        if claims.azp and claims.azp != self._oidc.client_id:
            raise invalid()
        return lambda: self._administrator(token)

    def _administrator(self, token: Secret) -> Administrator:
        bundle, now_ns = self._bundle(), self._clock()
        acting = self._tokens.acting(token.reveal(), self._for_us(bundle.directory), now_ns)
        if not acting:
            raise invalid()
        return Administrator(bundle, acting.values(), now_ns)

    def _for_us(self, directory: Directory) -> Directory:
        """The directory with this one issuer, whose tokens are for our client id: one for inference signs nobody in here, nor
        the other way round."""
        issuer = directory.issuers.get(self._oidc.issuer)
        if issuer is None:
            raise Refused(Reason.INVALID_API_KEY, "the directory does not have this identity provider among its `issuers`")
        ours = structs.replace(issuer, audience=(self._oidc.client_id,))
        return structs.replace(directory, issuers={ours.issuer: ours})

    def _exchange(self, code: str, verifier: str) -> str:
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": self._redirect,
            "client_id": self._oidc.client_id,
            "code_verifier": verifier,
        }
        secret = self._secret.reveal()
        auth = httpx.BasicAuth(self._oidc.client_id, secret) if secret else None
        failed = Refused(Reason.INVALID_API_KEY, "the identity provider did not change the code for a token")
        body = b""
        try:
            with httpx.stream(
                "POST", self._oidc.token, data=form, auth=auth, timeout=TIMEOUT_S, headers={"accept": "application/json"}
            ) as answer:
                if answer.status_code != httpx.codes.OK:
                    raise failed
                for chunk in answer.iter_bytes():
                    body += chunk
                    if len(body) > MAX_BYTES:
                        raise failed
            return msgspec.json.decode(body, type=_Answer).id_token
        except (httpx.HTTPError, httpx.InvalidURL, msgspec.MsgspecError, RecursionError):
            raise failed from None


def _claims(token: Secret) -> _Claims:
    """Of a token whose signature was verified just before."""
    try:
        return msgspec.json.decode(decoded(token.reveal().split(".")[1]), type=_Claims)
    except msgspec.MsgspecError:
        raise invalid() from None


def _digest(text: str) -> bytes:
    return hashlib.sha256(text.encode()).digest()
