"""One look at a bundle: errors, failed cases, suspicions and what no case decides, in the order of the files."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from authz.errors import ConfigError
from authz.review.check import Checked, check
from authz.review.findings import Severity
from tests.bundle.folders import REFERENCE, copy, edit
from tests.review.small import NOW_NS, bundle


def checked(folder: Path) -> Checked:
    return check(folder, NOW_NS)


def test_a_clean_bundle(tmp_path: Path) -> None:
    found = checked(bundle(tmp_path))
    assert (found.policies, found.cases, found.failed, found.findings, found.clean) == (2, 2, 0, (), True)
    assert found.bundle.startswith("sha256:")


def test_the_reference_bundle_passes() -> None:
    found = checked(REFERENCE)
    assert found.clean, found.findings
    assert found.failed == 0


EXAMPLES = sorted(path.parent for path in (REFERENCE.parent / "docs/policies").glob("*/quotas.yaml"))


@pytest.mark.parametrize("folder", EXAMPLES, ids=lambda folder: folder.name)
def test_every_worked_example_passes(folder: Path) -> None:
    found = checked(folder)
    assert found.clean, found.findings
    assert found.cases > 0


def test_an_error_is_one_finding_with_its_place(tmp_path: Path) -> None:
    folder = bundle(tmp_path, cedar=('in Team::"app"', 'in Team::"apps"'))
    found = checked(folder)
    (finding,) = found.findings
    assert (found.bundle, found.clean) == ("", False)
    assert (finding.severity, finding.rule) == (Severity.ERROR, "invalid-bundle")
    assert (finding.file, finding.line) == (f"{folder}/a.cedar", 2)
    assert finding.excerpt[finding.column - 1 :].startswith('Team::"apps"')


def test_a_parser_that_ends_its_process_is_a_finding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The child is replaced by one that dies as from a stack that overflows; this process goes on."""
    dying = tmp_path / "python"
    dying.write_text("#!/bin/sh\nkill -SEGV $$\n")
    dying.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(dying))
    (finding,) = checked(bundle(tmp_path)).findings
    assert (finding.severity, finding.message) == (Severity.ERROR, "reading it ended the process: SIGSEGV")


def test_every_failed_case_is_told_of_and_lint_goes_on(tmp_path: Path) -> None:
    folder = bundle(tmp_path, directory=("  app: {}", "  app: {}\n  spare: {}"))
    text = (folder / "tests/a.yaml").read_text().replace("effect: allow, policies: [app-models]", "effect: deny")
    (folder / "tests/a.yaml").write_text(text.replace("[owner]}", "[app-models]}"))
    found = checked(folder)
    assert [(finding.rule, Path(finding.file).name, finding.line) for finding in found.findings] == [
        ("unused-entity", "directory.yaml", 6),
        ("case-failed", "a.yaml", 2),
        ("case-failed", "a.yaml", 6),
    ]
    assert (found.cases, found.failed, found.clean) == (2, 2, False)
    failed = found.findings[1]
    assert failed.message == "case `web`: expected deny, got allow by `app-models`"
    assert (failed.excerpt, failed.column) == ("  - name: web", 5)


def test_what_no_case_decides_is_a_note(tmp_path: Path) -> None:
    more = '\n@id("x") @mode("shadow") forbid (principal, action in Action::"infer", resource) when { context.tools };'
    folder = bundle(tmp_path, more=more)
    found = checked(folder)
    (note,) = found.findings
    assert (note.severity, note.rule, note.line, found.clean) == (Severity.NOTE, "undecided", 2, True)
    (folder / "tests/a.yaml").unlink()
    (note,) = checked(folder).findings
    assert note.message.startswith("no case shows what these policies decide")


def test_a_folder_that_is_not_there_cannot_be_checked(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such folder"):
        checked(tmp_path / "nowhere")


def test_a_folder_that_cannot_be_read_is_no_crash(tmp_path: Path) -> None:
    folder = bundle(tmp_path)
    os.symlink("nowhere", folder / "b.cedar")
    (finding,) = checked(folder).findings
    assert finding.message == "cannot be read: no such file or directory"


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    """Each part by itself: whoever mends a bundle sees all of it, not one error a run."""
    folder = copy(tmp_path)
    edit(folder, "research.cedar", 'principal in Team::"research"', 'principal in Taem::"research"')
    edit(folder, "analytics.cedar", "context.spend.org.percent", "context.spend.orgs.percent")
    edit(folder, "chatbot.cedar", "permit (", "premit (")
    edit(folder, "directory.yaml", "roles: [reader]", "roles: [raeder]")
    edit(folder, "models.yaml", 'input: "0.60"', 'input: "0.60x"')
    edit(folder, "quotas.yaml", "limit: 500 USD/month", "limit: 500 EUR/month")
    edit(folder, "quotas.yaml", "limit: 60/minute", "limit: 60/fortnight")
    edit(folder, "tests/limits.yaml", "expect:", "expects:")
    found = check(folder, NOW_NS)
    assert (found.bundle, found.clean) == ("", False)
    told = [(finding.file.rpartition("/")[2], finding.message) for finding in found.findings]
    expected = [
        ("analytics.cedar", "attribute `spend.orgs`"),
        ("chatbot.cedar", "invalid policy effect: premit"),
        ("directory.yaml", "unknown role `raeder`"),
        ("models.yaml", "expected an amount in USD"),
        ("quotas.yaml", "quota `org-spend`: found the currency `EUR`"),
        ("quotas.yaml", "quota `batch-processor-requests`: found `60/fortnight`"),
        ("research.cedar", "unrecognized entity type `Taem`"),
        ("limits.yaml", "expects: unknown field, expected "),
    ]
    assert [name for name, _ in told] == [name for name, _ in expected]
    assert all(part in message for (_, message), (_, part) in zip(told, expected, strict=True)), told
    assert all(finding.line and finding.excerpt for finding in found.findings)


def test_every_name_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    edit(folder, "directory.yaml", "  research: {note: compares models}\n", "")
    edit(folder, "directory.yaml", "[chatbot, analytics, research]", "[chatbot, analytics]")
    edit(folder, "directory.yaml", "  rhea: {teams: [research], roles: [reader]}\n", "")
    edit(folder, "directory.yaml", "  research-lab: {team: research, note: experiments}\n", "")
    edit(folder, "quotas.yaml", 'Key::"batch-processor"', 'Key::"batch-procesor"')
    told = [finding.message for finding in check(folder, NOW_NS).findings]
    assert 'policy `research-models` names Team::"research", which does not exist' in told
    assert 'quota `batch-processor-requests`: Key::"batch-procesor" does not exist' in told
    assert sum("is no key and no user of the directory" in message for message in told) > 2
