"""What can go wrong, and whose fault it is.

AuthzError
├── ConfigError        a file of the operator's is wrong: names the file, the place and what was expected
├── Refused            this request cannot be allowed: carries the `Reason` and what the caller is told
└── StoreUnavailable   the ledger did not answer in time or refused: nothing is known to be charged
"""

from __future__ import annotations

from authz.reasons import Reason


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
        self.file, self.problem, self.line, self.column, self.excerpt = file, problem, line, column, excerpt
        super().__init__(str(self))

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}:{self.column}" if self.line else self.file
        caret = f"\n  {self.excerpt}\n  {' ' * max(0, self.column - 1)}^" if self.excerpt else ""
        return f"{where}: {self.problem}{caret}"


class Refused(AuthzError):
    """Raised inside a phase when the request cannot go on; the PDP turns it into a `Deny`.

    private  the caller's own text that `message` quotes: the caller is told it again, and no record keeps it
    """

    def __init__(self, reason: Reason, message: str, *, param: str | None = None, private: str = "") -> None:
        self.reason, self.message, self.param, self.private = reason, message, param, private
        super().__init__(f"{reason.value}: {message}")


class StoreUnavailable(AuthzError):
    """The store could not do it; `str()` says why in the store's words, without a secret."""
