"""The rules by name, and their run over a bundle."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final

from authz.bundle import Bundle
from authz.bundle.files import Parts
from authz.review.findings import Finding, Severity
from authz.review.lint.dates import past_date
from authz.review.lint.money import quota_never_met, unbounded_permit, unpriced_model
from authz.review.lint.names import unused_entity
from authz.review.lint.places import Hit, Places
from authz.review.lint.scopes import never_matches, open_permit, shadowed
from authz.review.lint.values import unknown_annotation, unknown_value
from authz.review.lint.world import World

RULES: Final[dict[str, Callable[[World], Iterator[Hit]]]] = {
    "shadowed": shadowed,
    "never-matches": never_matches,
    "open-permit": open_permit,
    "unbounded-permit": unbounded_permit,
    "unpriced-model": unpriced_model,
    "quota-never-met": quota_never_met,
    "unused-entity": unused_entity,
    "past-date": past_date,
    "unknown-value": unknown_value,
    "unknown-annotation": unknown_annotation,
}
"""Each rule's docstring says why it matters."""

MAX_SHOWN: Final = 100
"""Of one rule: nobody reads more, and what is wrong a thousand times is wrong once."""


def lint(bundle: Bundle, parts: Parts, now_ns: int) -> tuple[Finding, ...]:
    """Every finding of every rule. `parts` are the files that `bundle` was loaded from."""
    world, places = World(bundle, parts, now_ns), Places(parts)
    return tuple(finding for name in RULES for finding in _findings(name, world, places))


def _findings(name: str, world: World, places: Places) -> Iterator[Finding]:
    hits = RULES[name](world)
    for hit in islice(hits, MAX_SHOWN):
        error = places.error(hit)
        yield Finding(hit.severity, name, hit.message, error.file, error.line, error.column, error.excerpt)
    more = sum(1 for _ in hits)
    if more:
        yield Finding(Severity.NOTE, name, f"and {more} more of this rule", places.root)
