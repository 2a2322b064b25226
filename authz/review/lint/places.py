"""Where a complaint stands: in a policy, at a link, or in a row of YAML, which is read again only where it is complained of."""

from __future__ import annotations

from functools import cache
from typing import NamedTuple

from authz.bundle.files import LINKS, Parts
from authz.errors import ConfigError
from authz.model import Uid
from authz.policy import CedarText, Policy
from authz.review.findings import Severity
from authz.yamlfile import Source, parse_yaml


class InPolicy(NamedTuple):
    """The policy, or the first place in it at which it names this; a linked policy stands where it is linked."""

    policy: Policy
    names: Uid | str = ""


class InRow(NamedTuple):
    """A value of a YAML file of the bundle; an empty path is the file as a whole."""

    file: str
    path: tuple[str | int, ...]


class Hit(NamedTuple):
    """What a rule finds. `message` is lower case, without a full stop."""

    at: InPolicy | InRow
    message: str
    severity: Severity = Severity.WARNING


class Places:
    def __init__(self, parts: Parts) -> None:
        self._parts, self.root = parts, parts.root
        self._source = cache(self._read)

    def error(self, hit: Hit) -> ConfigError:
        """The message with its place, as every other error has it."""
        if isinstance(hit.at, InRow):
            if not hit.at.path:
                return ConfigError(self._parts.shown(hit.at.file), hit.message)
            return self._source(hit.at.file).fail(hit.at.path, hit.message)
        policy, names = hit.at
        if policy.template is not None:
            links = self._source(LINKS)
            index = next((index for index, link in enumerate(links.data["links"]) if link["id"] == policy.id), 0)
            return links.fail(("links", index), hit.message)
        text = CedarText(policy.file, self._parts.texts[policy.file.removeprefix(self._parts.shown(""))])
        start = _start_of_line(text.text, policy.line)
        start = max(start, text.text.find(policy.text, start))
        inside = policy.text.find(str(names)) if names else 0
        return text.fail(start + max(0, inside), hit.message)

    def _read(self, name: str) -> Source:
        return parse_yaml(self._parts.texts[name], self._parts.shown(name))


def _start_of_line(text: str, line: int) -> int:
    start = 0
    for _ in range(line - 1):
        start = text.index("\n", start) + 1
    return start
