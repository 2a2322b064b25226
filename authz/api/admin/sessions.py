"""Sessions: in the memory of this process, of bounded number and life. A cookie is a random name, kept by its digest."""

from __future__ import annotations

import hashlib
import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Final

from msgspec import Struct

from authz.administration import Administrator
from authz.model import Secret

MOST: Final = 1_000
IDLE_NS: Final = 30 * 60 * 1_000_000_000
LIFE_NS: Final = 8 * 3_600 * 1_000_000_000

Prove = Callable[[], Administrator]
"""Says who somebody is, as often as it is asked: by the bundle in force and the time of the call. Raises `Refused` or
`NotPermitted` where they are nobody any more."""


class Notice(Struct, frozen=True):
    """What the next page tells once · secret: one that was just issued, which nobody can be shown again"""

    text: str
    secret: Secret | None = None
    good: bool = True


class Session(Struct):
    """csrf  stands in every form of the session, so that no other site can send one"""

    prove: Prove
    csrf: str
    began_ns: int
    used_ns: int
    notice: Notice | None = None


class Sessions:
    """Safe in threads.

    token  a new random name that nobody can guess
    """

    def __init__(self, token: Callable[[], str], *, most: int = MOST) -> None:
        self._token, self._most = token, most
        self._kept: OrderedDict[bytes, Session] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._kept)

    def open(self, prove: Prove, now_ns: int) -> str:
        """Answers what the cookie holds. Above the bound, who has not come for the longest time is signed out."""
        cookie = self._token()
        with self._lock:
            self._kept[_name(cookie)] = Session(prove, self._token(), now_ns, now_ns)
            while len(self._kept) > self._most:
                self._kept.popitem(last=False)
        return cookie

    def find(self, cookie: str, now_ns: int) -> Session | None:
        name = _name(cookie)
        with self._lock:
            found = self._kept.get(name)
            if found is None:
                return None
            if now_ns - found.used_ns >= IDLE_NS or now_ns - found.began_ns >= LIFE_NS:
                del self._kept[name]
                return None
            found.used_ns = max(found.used_ns, now_ns)
            self._kept.move_to_end(name)
            return found

    def close(self, cookie: str) -> None:
        with self._lock:
            self._kept.pop(_name(cookie), None)


def _name(cookie: str) -> bytes:
    return hashlib.sha256(cookie.encode()).digest()
