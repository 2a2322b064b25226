"""Everything that is wrong with a bundle, for one look at a pull request: errors, failed cases, and what the rules find."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from msgspec import Struct

from authz.bundle import Bundle
from authz.bundle.files import Parts, read_parts
from authz.errors import ConfigError
from authz.review import gate, suite
from authz.review.findings import Finding, Severity, of_error
from authz.review.lint import lint
from authz.review.lint.places import Hit, InPolicy, Places
from authz.review.suite import Report, Result

INVALID: Final = "invalid-bundle"
FAILED: Final = "case-failed"
UNDECIDED: Final = "undecided"
MAX_ERRORS: Final = 100


class Checked(Struct, frozen=True):
    """What `authz check` says.

    bundle    the digest; empty where there is no bundle, for which the findings give the reasons
    cases     how many the bundle has · failed  how many of them
    findings  in the order of files and lines
    """

    bundle: str
    policies: int
    cases: int
    failed: int
    findings: tuple[Finding, ...]

    def count(self, severity: Severity) -> int:
        return Counter(finding.severity for finding in self.findings)[severity]

    @property
    def clean(self) -> bool:
        """Notes are no reason to stop."""
        return not self.count(Severity.ERROR) and not self.count(Severity.WARNING)


def check(folder: Path, now_ns: int) -> Checked:
    """Raises `ConfigError` where there is no such folder; whatever is wrong inside of it is a finding."""
    if not folder.is_dir():
        raise ConfigError(str(folder), "no such folder, expected that of a bundle")
    try:
        bundle, parts = _read(folder)
    except ConfigError as error:
        errors = gate.wrong(folder) or (error,)
        return Checked("", 0, 0, 0, tuple(of_error(each, INVALID) for each in errors[:MAX_ERRORS]))
    report = suite.run(bundle)
    findings = (*lint(bundle, parts, now_ns), *_failures(report, parts), *_undecided(bundle, report, parts))
    return Checked(
        bundle=bundle.digest,
        policies=len(bundle.policies),
        cases=len(report.results),
        failed=len(report.failed),
        findings=tuple(sorted(findings, key=_order)),
    )


def _read(folder: Path) -> tuple[Bundle, Parts]:
    """The bundle, parsed where a crash hurts nobody first, and the files that it came from."""
    bundle = gate.load(folder)
    parts = read_parts(folder)
    if parts.digest != bundle.digest:
        raise ConfigError(str(folder), "changed while it was read: run it again")
    return bundle, parts


def _failures(report: Report, parts: Parts) -> Iterator[Finding]:
    for result in report.failed:
        message = f"case `{result.case.name}`: {'; '.join(result.problems)}"
        column, excerpt = _line(result, parts)
        yield Finding(Severity.ERROR, FAILED, message, result.case.file, result.case.line, column, excerpt)


def _line(result: Result, parts: Parts) -> tuple[int, str]:
    """Column and text of the line on which a case begins."""
    lines = parts.texts[result.case.file.removeprefix(parts.shown(""))].splitlines()
    excerpt = lines[result.case.line - 1] if 0 < result.case.line <= len(lines) else ""
    return len(excerpt) - len(excerpt.lstrip(" -")) + 1, excerpt


def _undecided(bundle: Bundle, report: Report, parts: Parts) -> Iterator[Finding]:
    if not report.results:
        yield Finding(Severity.NOTE, UNDECIDED, "no case shows what these policies decide, expected `tests/*.yaml`", parts.root)
        return
    places, policies = Places(parts), {policy.id: policy for policy in bundle.policies}
    for name in report.undecided:
        error = places.error(Hit(InPolicy(policies[name]), f"no case shows what `{name}` decides"))
        yield Finding(Severity.NOTE, UNDECIDED, error.problem, error.file, error.line, error.column, error.excerpt)


def _order(finding: Finding) -> tuple[str, int, int, str]:
    return finding.file, finding.line, finding.column, finding.rule
