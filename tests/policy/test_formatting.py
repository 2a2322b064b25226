"""What the formatter writes is checked before anybody sees it."""

from __future__ import annotations

import pytest

from authz.errors import ConfigError
from authz.policy import CedarText, cedar
from authz.policy.formatting import formatted

SOURCE = CedarText("f.cedar", '// why  \n@id("a") permit (principal, action, resource);')
CHANGED, LOST = SOURCE.text.replace("permit", "forbid"), SOURCE.text.partition("\n")[2]


@pytest.mark.parametrize(
    ("written", "problem"),
    [
        (CHANGED, "the formatter has changed the policies: the file is left as it is"),
        (LOST, "the formatter has lost a comment: the file is left as it is"),
        (SOURCE.text + "// more", "the formatter has lost a comment: the file is left as it is"),
        ("permit", "cannot be formatted: unexpected end of input"),
    ],
)
def test_a_text_that_says_something_else_is_refused(written: str, problem: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cedar, "formatted", lambda *_: written)
    with pytest.raises(ConfigError) as caught:
        formatted(SOURCE)
    assert str(caught.value) == f"f.cedar: {problem}"


def test_empty_lines_in_front_and_blanks_behind_a_comment_are_no_part_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert formatted(SOURCE).startswith('// why\n@id("a")\n')
    monkeypatch.setattr(cedar, "formatted", lambda *_: "\n\n  " + SOURCE.text)
    assert formatted(SOURCE) == "  " + SOURCE.text
