"""`authz diff`: what a reviewer of a change of policy needs to see, the dangerous first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from authz.cli import options, show

if TYPE_CHECKING:
    from rich.console import Console

    from authz.review.changes import Change, Effects
    from authz.review.diff import Access, Diff
    from authz.review.policychanges import LostForbid, PolicyChange

_MOST: Final = 20
"""Of one kind, what is listed for people; JSON has all of it."""

_NAMES: Final = 5
_FOLDER: Final = click.Path(path_type=Path, file_okay=False)


@click.command()
@click.argument("old", type=_FOLDER)
@click.argument("new", type=_FOLDER)
@options.as_json
def diff(old: Path, new: Path, as_json: bool) -> None:
    """What the bundle in NEW changes about the one in OLD. Exit 0 where they are the same, 1 where they differ.

    Both are asked about every key and user, every use of every model and every administrative action, at the edges of every
    condition. What is allowed only now stands first, then what is no longer, then what is written differently.
    """
    from authz.review import access
    from authz.review.diff import compare

    found = compare(access.load(old), access.load(new))
    if as_json:
        show.as_json(found)
    else:
        print_diff(show.console(), found)
    show.leave(findings=found.differs)


def print_diff(console: Console, found: Diff) -> None:
    if not found.differs:
        console.print("no differences", style="green")
        return
    _lost(console, found.lost_forbids)
    _accesses(console, "MORE PERMISSIVE", "red", "+", found.more_permissive, found.policies)
    _accesses(console, "LESS PERMISSIVE", "green", "-", found.less_permissive, found.policies)
    if not found.more_permissive and not found.less_permissive:
        _title(console, "Nobody may do more or less than before", "bold")
    _policies(console, found.policies)
    for title, changes in (
        ("Quotas", found.quotas),
        ("Directory", found.directory),
        ("Models", found.models),
        ("Also", found.beside),
    ):
        _changes(console, title, changes)
    if found.sampled:
        console.print("\nSome answers hang on more combinations of facts than were tried: they are a sample.", style="yellow")
    console.print()
    _say(console, f"{found.old[:19]}… → {found.new[:19]}…{'' if _told(found) else ': comments or layout only'}", "dim")


def _told(found: Diff) -> bool:
    return any((found.lost_forbids, found.policies, found.quotas, found.directory, found.models, found.beside))


def _lost(console: Console, forbids: Sequence[LostForbid]) -> None:
    if not forbids:
        return
    _title(console, "FORBIDS THAT ARE NO LONGER ENFORCED", "bold red")
    for forbid in forbids:
        _say(console, f"! {forbid.id}  {forbid.how}  ({forbid.file}:{forbid.line})", "red")
        _say(console, f"    forbade: {forbid.scope}")
        if forbid.twin is not None:
            _say(console, f"    the same is forbidden by `{forbid.twin}` now")
        if forbid.retired:
            _say(console, "    retired.yaml names it: it is meant")
        else:
            _say(console, "    retired.yaml does not name it: a running sidecar refuses this bundle", "yellow")


def _accesses(
    console: Console, title: str, style: str, sign: str, accesses: Sequence[Access], policies: Sequence[PolicyChange]
) -> None:
    if not accesses:
        return
    _title(console, title, f"bold {style}")
    shown = _condensed(accesses, {policy.id for policy in policies}) if len(accesses) > _MOST else accesses
    for access in shown[:_MOST]:
        standing = {"new": "new: ", "gone": "gone: "}.get(access.standing, "")
        _say(console, f"{sign} {standing}{_some(access.principals)}", style)
        for uses in access.uses:
            _say(console, f"    {', '.join(uses.actions)}  on  {_some(uses.resources)}")
        _say(console, f"    {_turned(access)}", "dim")
    _more(console, len(shown))


def _condensed(accesses: Sequence[Access], changed: set[str]) -> list[Access]:
    """Where one policy changes something for very many, whose own permits are not the point: told once, with all uses."""
    from msgspec.structs import replace

    found: dict[object, list[Access]] = {}
    for access in accesses:
        why = frozenset(changed.intersection((*access.by, *access.before)))
        found.setdefault((access.standing, access.was, access.now, why or id(access)), []).append(access)
    return [
        replace(
            same[0],
            principals=tuple(dict.fromkeys(name for access in same for name in access.principals)),
            uses=tuple(dict.fromkeys(uses for access in same for uses in access.uses)),
            by=tuple(sorted({name for access in same for name in access.by})),
            before=tuple(sorted({name for access in same for name in access.before})),
            edges=tuple(edge for edge in same[0].edges if all(edge in access.edges for access in same)),
            at=same[0].at if len(same) == 1 else {},
        )
        for same in found.values()
    ]


def _when(access: Access) -> str:
    from authz.review.matrix import shown

    edges = [f"{edge.fact} {shown(edge.changed)} (not at {shown(edge.not_changed)})" for edge in access.edges]
    if edges:
        return f", at {'; '.join(edges)}"
    if access.at:
        return f", for example at {', '.join(f'{fact} {shown(value)}' for fact, value in access.at.items())}"
    return ""


def _turned(access: Access) -> str:
    def by(names: tuple[str, ...]) -> str:
        return f"by {_some(f'`{name}`' for name in names)}" if names else "without a permit"

    match access.standing:
        case "new":
            return f"{access.now.value} {by(access.by)}{_when(access)}"
        case "gone":
            return f"was {access.was.value} {by(access.before)}{_when(access)}"
        case _:
            turn = f"{access.was.value} → {access.now.value}{_when(access)}"
            return f"{turn}\n    now {by(access.by)}, before {by(access.before)}"


def _policies(console: Console, policies: Sequence[PolicyChange]) -> None:
    said = [policy for policy in policies if policy.what != ("layout",)]
    if said:
        _title(console, "Policies", "bold")
    for policy in said[:_MOST]:
        what = f": {', '.join(policy.what)}" if policy.what else ""
        mode = "" if policy.mode.value == "enforce" else ", in shadow"
        _say(console, f"{policy.sort.value} {policy.effect.value} {policy.id}{what}{mode}{_way(policy.effects)}")
        _say(console, f"    {policy.scope}   {policy.file}:{policy.line}", "dim")
        for line in policy.diff if policy.what else ():
            _say(console, f"    {line}", {"-": "red", "+": "green"}.get(line[:1], ""))
    _more(console, len(said))
    layout = [policy.id for policy in policies if policy.what == ("layout",)]
    if layout:
        console.print()
        _say(console, f"Written differently, saying the same: {_some(layout)}", "dim")


def _changes(console: Console, title: str, changes: Sequence[Change]) -> None:
    if not changes:
        return
    _title(console, title, "bold")
    for _, same in groupby(changes, lambda change: (change.kind, change.sort)):
        listed = list(same)
        if len(listed) > 1 and not any(change.details or change.effects.more or change.effects.less for change in listed):
            first = listed[0]
            _say(console, f"{first.sort.value} {len(listed):,} {first.kind}s: {_some(change.name for change in listed)}")
            continue
        for change in listed[:_MOST]:
            _say(console, f"{change.sort.value} {change.kind} {change.name}{_way(change.effects)}")
            if change.sort.value == "added" and change.details:
                _say(console, f"    {', '.join(detail.text for detail in change.details)}")
                continue
            for detail in change.details:
                _say(console, f"    {detail.text}{_way(detail.effects) if len(change.details) > 1 else ''}")
        _more(console, len(listed))


def _way(effects: Effects) -> str:
    words = {(True, False): "more permissive", (False, True): "less permissive", (True, True): "more and less permissive"}
    found = words.get((effects.more, effects.less))
    return f"  ({found})" if found else ""


def _some(names: Iterable[str]) -> str:
    names = list(names)
    more = len(names) - _NAMES
    return f"{', '.join(names[:_NAMES])} and {more:,} more" if more > 1 else ", ".join(names)


def _more(console: Console, count: int) -> None:
    if count > _MOST:
        _say(console, f"  … and {count - _MOST:,} more: --json has all of them", "dim")


def _title(console: Console, text: str, style: str) -> None:
    console.print()
    _say(console, text, style)


def _say(console: Console, text: str, style: str = "") -> None:
    console.print(text, style=style, markup=False, soft_wrap=True)
