"""What a review finds: one shape for errors, lint and failed cases."""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from authz.errors import ConfigError


class Severity(StrEnum):
    ERROR = "error"  # the bundle cannot be in force
    WARNING = "warning"  # it can, and is probably not what was meant
    NOTE = "note"  # worth knowing


class Finding(Struct, frozen=True):
    """rule  a stable name: `never-matches`, `case-failed`, … · line, column  1-based, 0 where the file as a whole is meant"""

    severity: Severity
    rule: str
    message: str
    file: str
    line: int = 0
    column: int = 0
    excerpt: str = ""


def of_error(error: ConfigError, rule: str) -> Finding:
    return Finding(Severity.ERROR, rule, error.problem, error.file, error.line, error.column, error.excerpt)
