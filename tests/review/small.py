"""The smallest bundle in which nothing is suspicious, with some of its files replaced."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from tests.bundle.folders import REFERENCE

NOW_NS: Final = 1_795_996_800 * 1_000_000_000  # 2026-11-30 00:00:00 UTC

FILES: Final = {
    "schema.cedarschema": (REFERENCE / "schema.cedarschema").read_text(encoding="utf-8"),
    "a.cedar": """@id("app-models")
permit (principal in Team::"app", action in Action::"infer", resource in ModelGroup::"fast");
@id("owner")
permit (principal is User in Role::"owner", action in Action::"administer", resource);
""",
    "directory.yaml": """organisation: {id: acme}
roles:
  owner: {}
teams:
  app: {}
users:
  ada: {teams: [app], roles: [owner]}
keys:
  web: {team: app}
""",
    "models.yaml": """version: "1"
groups:
  fast: {}
models:
  m1: {groups: [fast], actions: [chat], price: {input: 1, output: 1}, context_tokens: 10, max_output_tokens: 10}
  voice: {actions: [speak], price: {million_characters: 1}}
aliases: {one: m1}
decommissioned: {old: {replacement: m1}}
""",
    "quotas.yaml": """quotas:
  - {id: month, scope: 'Org::"acme"', what: spend, limit: 5 USD/month}
""",
    "tests/a.yaml": """cases:
  - name: web
    principal: Key::"web"
    request: {model: m1}
    expect: {effect: allow, policies: [app-models]}
  - name: ada
    principal: User::"ada"
    team: app
    request: {action: policy.publish, resource: 'Org::"acme"'}
    expect: {effect: allow, policies: [owner]}
""",
}

SEARCHED: Final = {"cedar": "a.cedar", "directory": "directory.yaml", "models": "models.yaml", "quotas": "quotas.yaml"}


def bundle(into: Path, *, more: str = "", **replaced: tuple[str, str]) -> Path:
    """A folder with the bundle: `more` policies added; in the file of that name in `SEARCHED`, the first text replaced."""
    folder = into / "bundle"
    (folder / "tests").mkdir(parents=True)
    for name, text in FILES.items():
        (folder / name).write_text(text, encoding="utf-8")
    for file, (old, new) in replaced.items():
        path = folder / SEARCHED[file]
        text = path.read_text(encoding="utf-8")
        assert old in text, f"{old!r} is not in {path.name}"
        path.write_text(text.replace(old, new, 1), encoding="utf-8")
    if more:
        (folder / "more.cedar").write_text(more, encoding="utf-8")
    return folder
