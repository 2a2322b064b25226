"""The parts of a bundle: each of the YAML files, and Cedar's text behind the guard that bounds what its parser may see."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Final
from zoneinfo import ZoneInfo

from authz.bundle.cases import read_cases
from authz.errors import ConfigError
from authz.identity.directory import read_directory
from authz.inference.pricebook import read_pricebook
from authz.policy import CedarText, read_policies, read_schema
from authz.quota.definitions import DefinitionError, QuotaFile, parse_quotas
from authz.yamlfile import parse_yaml

_FOLDER: Final = Path(__file__).parents[2] / "policies"
_UTC: Final = ZoneInfo("UTC")
_MOST_BYTES: Final = 4_000


def _read(name: str) -> bytes:
    return (_FOLDER / name).read_bytes()[:_MOST_BYTES]


_CASES: Final = b"""fixtures: {night: {request: {time: 2026-11-24T02:00:00+01:00}}}
cases:
  - name: a
    use: [night]
    matrix: {principal: ['Key::"a"', 'Key::"b"'], request.model: [m, n]}
    used: {org-spend: 420 USD}
    expect: {effect: deny, reason: policy_denied}
    except: [{principal: 'Key::"b"', expect: {effect: allow}}]
"""
_SMALL: Final = {
    0: b"organisation: {id: a}\nroles: {r: {}}\nteams: {t: {}}\nusers: {u: {teams: [t], roles: [r]}}\nkeys: {k: {team: t}}\n",
    1: b'version: "1"\ntiers: {flex: "1"}\nmodels: {m: {actions: [chat], price: {input: "0.05", output: "0.08"}, '
    b"context_tokens: 9, max_output_tokens: 9, prompt_overhead_tokens: 1, expected_output_tokens: 1}}\n",
    2: b'quotas: [{id: q, scope: Key::"k", what: tokens, limit: 500/minute},'
    b' {id: s, scope: Org::"a", what: spend, limit: 5 USD/month}]\n',
    3: _CASES,
    4: b'@id("p") permit (principal in Team::"t", action in Action::"infer", resource) when { context.input_tokens < 9 };',
    5: b"entity Org; entity Team in [Org];"
    b' action "chat" appliesTo { principal: [Team], resource: [Org], context: { a: Long } };',
}
_WHOLE: Final = {
    0: _read("directory.yaml"),
    1: _read("models.yaml"),
    2: _read("quotas.yaml"),
    4: _read("research.cedar"),
    5: _read("schema.cedarschema"),
}
SEEDS: Final = tuple(bytes([kind]) + text for texts in (_SMALL, _WHOLE) for kind, text in texts.items())


def target() -> Callable[[bytes], str]:
    schema = read_schema(CedarText("schema.cedarschema", (_FOLDER / "schema.cedarschema").read_text()))

    def quotas(text: str) -> object:
        try:
            return parse_quotas(parse_yaml(text, "quotas.yaml").convert(QuotaFile))
        except DefinitionError as error:  # the bundle adds the file and the place
            raise ConfigError("quotas.yaml", str(error)) from None

    readers: tuple[Callable[[str], object], ...] = (
        lambda text: read_directory(parse_yaml(text, "directory.yaml"), _UTC),
        lambda text: read_pricebook(parse_yaml(text, "models.yaml")),
        quotas,
        lambda text: read_cases([parse_yaml(text, "tests/a.yaml")]),
        lambda text: read_policies([CedarText("a.cedar", text)], schema, ()),
        lambda text: read_schema(CedarText("schema.cedarschema", text)),
    )

    def one(data: bytes) -> str:
        """The first byte says which part."""
        kind = data[0] % len(readers) if data else 0
        try:
            text = data[1:].decode()
        except UnicodeDecodeError:
            return "not UTF-8"  # `read_text` says so of any file
        try:
            readers[kind](text)
        except ConfigError:
            return f"{kind}: refused"
        return f"{kind}: read"

    return one
