"""The public keys of the issuers, in memory, fetched beside the path: a decision never waits for another machine.

Whoever can be asked for a key is the one address that the directory names for the issuer. A token can at most make us look
there once more, and not more often than once a minute. Keys that were fetched stay until others are: an issuer that cannot be
reached, or answers nonsense, locks nobody out.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Iterable
from itertools import count
from typing import Any, Final

import httpx
import jwt
import msgspec
from jwt.exceptions import PyJWTError
from msgspec import Struct

from authz.identity.issuers import IssuerRow, is_safe

FETCH_AGAIN_NS: Final = 60_000_000_000
REFRESH_NS: Final = 3_600_000_000_000
TIMEOUT_S: Final = 5.0
MAX_BYTES: Final = 512 * 1024
MAX_KEYS: Final = 100
_MIN_RSA_BITS: Final = 2048

Keys = dict[tuple[str, str], Any]
"""A prepared public key by its id and the one algorithm that it may be used with."""

_log = logging.getLogger(__name__)

for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)  # at INFO httpx writes every address that it calls


class FetchError(Exception):
    """The keys could not be had; `str()` says why."""


class _KeySet(Struct, frozen=True):
    keys: list[dict[str, Any]]


class _Known(Struct):
    """keys: as they were fetched last · version: the number of that fetch · tried_ns, fetched_ns: 0 for never"""

    keys: Keys
    version: int = 0
    tried_ns: int = 0
    fetched_ns: int = 0
    wanted: bool = False


class KeySets:
    """The key sets of all issuers, by address and algorithms. Safe in threads; only `refresh` does any I/O."""

    def __init__(self, fetch: Callable[[str], bytes]) -> None:
        self._fetch = fetch
        self._known: dict[tuple[str, tuple[str, ...]], _Known] = {}
        self._lock = threading.Lock()
        self._versions = count(1)

    def find(self, issuer: IssuerRow, key_id: str, algorithm: str) -> tuple[Any, int] | None:
        """The key and the version of its set. One that is not known is looked for in the background; the answer is None."""
        known = self._known.get((issuer.jwks_uri, issuer.algorithms))
        if known is None:
            return None
        key = known.keys.get((key_id, algorithm))
        if key is None:
            known.wanted = True
            return None
        return key, known.version

    def version(self, issuer: IssuerRow) -> int:
        known = self._known.get((issuer.jwks_uri, issuer.algorithms))
        return known.version if known is not None else 0

    def refresh(self, issuers: Iterable[IssuerRow], now_ns: int) -> None:
        """Fetches what is due. Keys of issuers that are not among these are forgotten."""
        with self._lock:
            named = {(each.jwks_uri, each.algorithms): each for each in issuers}
            self._known = {name: self._known.get(name) or _Known({}) for name in named}
            for (uri, algorithms), known in self._known.items():
                due = known.wanted or not known.fetched_ns or now_ns - known.fetched_ns >= REFRESH_NS
                if due and (not known.tried_ns or now_ns - known.tried_ns >= FETCH_AGAIN_NS):
                    known.wanted, known.tried_ns = False, now_ns
                    self._try(uri, algorithms, known, now_ns)

    def _try(self, uri: str, algorithms: tuple[str, ...], known: _Known, now_ns: int) -> None:
        try:
            keys = read_keys(self._fetch(uri), algorithms)
        except FetchError as error:
            _log.error("an issuer's keys cannot be had", extra={"alert": "jwks", "jwks_uri": uri, "problem": str(error)})
            return
        # INVARIANT: no two fetches have the same version, also of an issuer that was taken out of the directory and put back.
        known.keys, known.fetched_ns, known.version = keys, now_ns, next(self._versions)


def read_keys(body: bytes, algorithms: tuple[str, ...]) -> Keys:
    """The keys of a JWK set that can verify one of `algorithms`. Raises `FetchError` where there is none."""
    try:
        rows = msgspec.json.decode(body, type=_KeySet).keys
    except (msgspec.MsgspecError, RecursionError) as error:
        raise FetchError(f"not a JWK set: {error}") from None
    if len(rows) > MAX_KEYS:
        raise FetchError(f"{len(rows)} keys, expected at most {MAX_KEYS}")
    found: Keys = {}
    for row in rows:
        key_id = row.get("kid")
        if not isinstance(key_id, str) or row.get("use", "sig") != "sig" or row.get("kty") == "oct":
            continue
        said = row.get("alg")
        for algorithm in algorithms if said is None else ([said] if said in algorithms else []):
            key = _prepared(row, algorithm)
            if key is not None:
                found[(key_id, algorithm)] = key
    if not found:
        raise FetchError(f"no key for {', '.join(algorithms)}")
    return found


def _prepared(row: dict[str, Any], algorithm: str) -> Any:
    try:
        key = jwt.PyJWK(row, algorithm=algorithm).key
    except (PyJWTError, ValueError, TypeError, KeyError):
        return None
    return None if algorithm[:2] in ("RS", "PS") and key.key_size < _MIN_RSA_BITS else key


def fetch(uri: str) -> bytes:
    """One request: https (or this machine), no redirect followed, bounded in time and size. Raises `FetchError`."""
    if not is_safe(uri):
        raise FetchError("not an https address")
    body = b""
    try:
        with httpx.stream(
            "GET", uri, timeout=TIMEOUT_S, follow_redirects=False, headers={"accept": "application/json"}
        ) as answer:
            if answer.status_code != httpx.codes.OK:
                raise FetchError(f"status {answer.status_code}")
            for chunk in answer.iter_bytes():
                body += chunk
                if len(body) > MAX_BYTES:
                    raise FetchError(f"more than {MAX_BYTES} bytes")
    except (httpx.HTTPError, httpx.InvalidURL, OSError) as error:
        raise FetchError(type(error).__name__) from None
    return body
