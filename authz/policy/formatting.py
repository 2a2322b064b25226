"""Cedar text as Cedar's own formatter writes it, and proof that it still says the same."""

from __future__ import annotations

import re
from collections import Counter
from typing import Final

from authz.errors import ConfigError
from authz.policy import cedar
from authz.policy.cedar import CedarError
from authz.policy.guard import CedarText, tokens
from authz.policy.policies import parse_policies

LINE_WIDTH: Final = 120
INDENT_WIDTH: Final = 2

_COMMENT: Final = re.compile(r"//[^\r\n]*")


def formatted(source: CedarText) -> str:
    """Raises `ConfigError`: with line and caret where the text does not parse, and where the formatter changes what it says."""
    parse_policies([source])  # within the bounds, and with a place for what is wrong
    try:
        text = cedar.formatted(source.text, LINE_WIDTH, INDENT_WIDTH).lstrip("\n")
        if cedar.syntax(text) != cedar.syntax(source.text):
            raise ConfigError(source.file, "the formatter has changed the policies: the file is left as it is")
    except CedarError as error:
        raise ConfigError(source.file, f"cannot be formatted: {error}") from None
    if Counter(_comments(source)) != Counter(_comments(CedarText(source.file, text))):
        raise ConfigError(source.file, "the formatter has lost a comment: the file is left as it is")
    return text


def _comments(source: CedarText) -> list[str]:
    """What stands between the tokens, beside white space."""
    found: list[str] = []
    end = 0
    for token in tokens(source):
        found += _COMMENT.findall(source.text, end, token.start)
        end = token.end
    found += _COMMENT.findall(source.text, end)
    return [comment.rstrip() for comment in found]
