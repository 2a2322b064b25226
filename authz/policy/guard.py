"""Bounds on Cedar text, held before a parser sees it.

Cedar's parser and evaluator recurse: nesting of some 700 parentheses, or a chain of some thousands of `&&`, `.` or `else if`,
ends the process on a stack of 8 MB. So the text is first cut into tokens, without recursion, and refused where it is too deep,
too long or too much. The tokens follow Cedar's own lexer where it matters: a string may hold anything, and a comment ends at a
carriage return as well as at a line feed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, NamedTuple

from authz.errors import ConfigError

MAX_BYTES: Final = 16 * 1024 * 1024
MAX_POLICIES: Final = 25_000
MAX_STATEMENT_CHARS: Final = 64 * 1024
MAX_NESTING: Final = 32
MAX_CHAIN: Final = 200
"""Operators that deepen the syntax tree, in one policy. Measured: 1,000 are safe on a stack of 8 MB, 10,000 are not."""
MAX_SCHEMA_BYTES: Final = 256 * 1024
MAX_SCHEMA_STATEMENTS: Final = 500

_MAX_EXCERPT: Final = 300
"""A longer line is not shown: its caret would be nowhere near."""

_TOKEN: Final = re.compile(
    r'(?P<skip>\s++|//[^\r\n]*+)|(?P<string>"(?:[^"\\]|\\.)*+(?P<closed>"?))|(?P<word>[A-Za-z_0-9]++)|&&|\|\||::|[=!<>]=|.',
    re.DOTALL,
)
_OPENING: Final = frozenset("([{")
_CLOSING: Final = frozenset(")]}")
_DEEPENING: Final = frozenset({"&&", "||", "+", "-", "*", ".", "[", "if", "then", "else", "when", "unless"})


class Token(NamedTuple):
    """`start` and `end` are offsets into the text."""

    text: str
    start: int
    end: int


class CedarText(NamedTuple):
    """A file of Cedar, or a part of it; `file` is as the operator knows it."""

    file: str
    text: str

    def fail(self, offset: int, problem: str) -> ConfigError:
        """An error at `offset`, with line, column and the line itself."""
        line = self.text.count("\n", 0, offset) + 1
        start = self.text.rfind("\n", 0, offset) + 1
        end = self.text.find("\n", offset)
        excerpt = self.text[start:] if end < 0 else self.text[start:end]
        shown = excerpt.rstrip("\r") if len(excerpt) <= _MAX_EXCERPT else ""
        return ConfigError(self.file, problem, line=line, column=offset - start + 1, excerpt=shown)


class Statement(NamedTuple):
    """One policy or template with its annotations: the tokens up to and with its `;`."""

    source: CedarText
    tokens: tuple[Token, ...]

    @property
    def start(self) -> int:
        return self.tokens[0].start

    @property
    def text(self) -> str:
        return self.source.text[self.tokens[0].start : self.tokens[-1].end]

    @property
    def line(self) -> int:
        return self.source.text.count("\n", 0, self.start) + 1

    def fail(self, problem: str, at: Token | None = None) -> ConfigError:
        return self.source.fail((at or self.tokens[0]).start, problem)


def tokens(source: CedarText) -> Iterator[Token]:
    """Everything but white space and comments. Raises `ConfigError` at a string without an end."""
    for match in _TOKEN.finditer(source.text):
        if match.lastgroup == "skip":
            continue
        if match.group("string") is not None and not match.group("closed"):
            raise source.fail(match.start(), "this string has no end")
        yield Token(match.group(), match.start(), match.end())


def statements(source: CedarText) -> list[Statement]:
    """The policies of a file, bounded. Raises `ConfigError` at what is too deep or too long."""
    size = len(source.text.encode())
    if size > MAX_BYTES:
        raise ConfigError(source.file, f"{size} bytes of policies, expected at most {MAX_BYTES}")
    found: list[Statement] = []
    current: list[Token] = []
    depth = chain = 0
    for token in tokens(source):
        current.append(token)
        depth = _nested(source, token, depth, _OPENING, _CLOSING)
        chain += token.text in _DEEPENING
        if chain > MAX_CHAIN:
            raise source.fail(token.start, f"more than {MAX_CHAIN} operators in one policy: write a set, or several policies")
        if token.end - current[0].start > MAX_STATEMENT_CHARS:
            raise source.fail(current[0].start, f"a policy of more than {MAX_STATEMENT_CHARS} characters")
        if token.text == ";" and depth == 0:
            found.append(Statement(source, tuple(current)))
            current, chain = [], 0
            if len(found) > MAX_POLICIES:
                raise source.fail(token.start, f"more than {MAX_POLICIES} policies")
    if current:  # what it lacks is for Cedar to say
        found.append(Statement(source, tuple(current)))
    return found


def check_schema(source: CedarText) -> None:
    """Raises `ConfigError` where a schema is larger or deeper than is safe to parse."""
    size = len(source.text.encode())
    if size > MAX_SCHEMA_BYTES:
        raise ConfigError(source.file, f"a schema of {size} bytes, expected at most {MAX_SCHEMA_BYTES}")
    depth = count = 0
    for token in tokens(source):
        depth = _nested(source, token, depth, _OPENING | {"<"}, _CLOSING | {">"})
        count += token.text == ";"
        if count > MAX_SCHEMA_STATEMENTS:
            raise source.fail(token.start, f"more than {MAX_SCHEMA_STATEMENTS} declarations")


def _nested(source: CedarText, token: Token, depth: int, opening: frozenset[str], closing: frozenset[str]) -> int:
    """The depth after `token`."""
    if token.text in opening:
        depth += 1
        if depth > MAX_NESTING:
            raise source.fail(token.start, f"nested deeper than {MAX_NESTING}")
    elif token.text in closing:
        depth -= 1
        if depth < 0:
            raise source.fail(token.start, f"`{token.text}` closes nothing")
    return depth
