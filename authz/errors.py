"""What can go wrong, and whose fault it is.

AuthzError
├── ConfigError        a file of the operator's is wrong: names the file, the place and what was expected
├── Refused            this request cannot be allowed: carries the `Reason` and what the caller is told
├── Denied             what `Authorizer.reserve` raises for a denial: carries the `Deny`
├── NotOpen            an `Authorizer` was closed, or opened before a fork: the program has to open another
└── StoreUnavailable   the ledger did not answer in time or refused: nothing is known to be charged
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from authz.reasons import Reason

if TYPE_CHECKING:
    from authz.model import Deny

_SECRET: Final = re.compile(r"(authz_|gsk_)[0-9A-Za-z_-]{20,}|(eyJ[0-9A-Za-z_-]{10,}\.)[0-9A-Za-z_.-]*")


def redacted(text: str) -> str:
    """The text without what looks like a key of ours or of Groq's, or like a token.

    For what quotes a file or an error in its own words: somebody will write a key where its digest or its variable's name
    belongs. It is no leave to put secrets into texts.
    """
    if "authz_" not in text and "gsk_" not in text and "eyJ" not in text:  # nearly always, at a tenth of the cost
        return text
    return _SECRET.sub(lambda found: f"{found[1] or found[2]}…", text)


class AuthzError(Exception):
    """The root: catch this to catch everything that authz raises on purpose."""


class ConfigError(AuthzError):
    """A file is wrong.

    file     as the operator named it
    problem  lower case, no full stop: what was found and what was expected
    line, column  1-based, 0 where the file as a whole is meant
    excerpt  the line itself, for the caret
    """

    def __init__(self, file: str, problem: str, *, line: int = 0, column: int = 0, excerpt: str = "") -> None:
        self.file, self.problem, self.line, self.column = file, redacted(problem), line, column
        self.excerpt = redacted(excerpt)
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        caret = f"\n  {self.excerpt}\n  {' ' * max(0, self.column - 1)}^" if self.excerpt else ""
        return f"{where}: {self.problem}{caret}"


class Refused(AuthzError):
    """Raised inside a phase when the request cannot go on; the PDP turns it into a `Deny`.

    kind           the answer's `type`, where it is not the reason's own
    retry_after_s  0 where trying again changes nothing
    private        the caller's own text that `message` quotes: the caller is told it again, and no record keeps it
    """

    def __init__(
        self,
        reason: Reason,
        message: str,
        *,
        param: str | None = None,
        kind: str = "",
        retry_after_s: int = 0,
        private: str = "",
    ) -> None:
        self.reason, self.message, self.param = reason, message, param
        self.kind, self.retry_after_s, self.private = kind, retry_after_s, private
        super().__init__(f"{reason.value}: {message}")


class Denied(AuthzError):
    """The request was denied; `deny` says why, and what to answer."""

    def __init__(self, deny: Deny) -> None:
        self.deny = deny
        super().__init__(f"{deny.reason.value}: {deny.message}")


class NotOpen(AuthzError):
    """There is nothing open to decide with; `str()` says why."""


class StoreUnavailable(AuthzError):
    """The store could not do it; `str()` says why in the store's words, without a secret."""
