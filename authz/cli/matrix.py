"""`authz matrix`: who may use which model with which action."""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from authz.cli import options, show

if TYPE_CHECKING:
    from rich.console import Console

    from authz.review.access import Side, Survey
    from authz.review.diff import Moved
    from authz.review.matrix import Cell, Matrix, Row, Wanted

_GLYPHS: Final = {"allow": "[green]✓[/]", "conditional": "[yellow]◐[/]", "deny": "[dim]·[/]"}


@click.command()
@options.folder
@click.option("--action", "actions", multiple=True, help="Only this action; may be given several times, like all of these.")
@click.option("--model", "models", multiple=True, help="Only this model.")
@click.option("--team", "teams", multiple=True, help="Only this team's keys and users.")
@click.option(
    "--principal", "principals", multiple=True, help='Only this key or user: `chatbot-prod` or `Key::"chatbot-prod"`.'
)
@click.option(
    "--admin", is_flag=True, help="Administrative actions on organisation, teams, users and keys, in place of models."
)
@click.option("--all", "apart", is_flag=True, help="Each principal on a row of its own, also those that no policy tells apart.")
@click.option("--diff", "old", type=click.Path(path_type=Path, file_okay=False), help="Only what changed since this folder.")
@click.option("--csv", "as_csv", is_flag=True, help="CSV instead of a table: a row for each principal or group of them.")
@options.as_json
def matrix(
    folder: Path,
    actions: tuple[str, ...],
    models: tuple[str, ...],
    teams: tuple[str, ...],
    principals: tuple[str, ...],
    admin: bool,
    apart: bool,
    old: Path | None,
    as_csv: bool,
    as_json: bool,
) -> None:
    """Who may use which model with which action, by the bundle in DIR (`policies` by default).

    With --diff OLD: exit 1 where something changed.
    """
    from authz.review import access
    from authz.review.matrix import Wanted, make

    if as_csv and as_json:
        raise click.UsageError("--csv and --json, expected one of them")
    sides = [access.load(path) for path in (old, folder) if path is not None]
    wanted = Wanted(actions, models, teams, principals, admin, apart)
    _check(wanted, sides)
    survey = access.Survey(*sides)
    if old is not None:
        _changed(survey, wanted, as_csv=as_csv, as_json=as_json)
        return
    found = make(survey, wanted)
    if as_json:
        show.as_json(found)
    elif as_csv:
        _csv(found)
    else:
        _print(show.console(), found, admin=admin)


def _check(wanted: Wanted, sides: Sequence[Side]) -> None:
    """A name with a slip in it would be answered with an empty table."""
    from authz.policy import ACTIONS

    directories = [side.bundle.directory for side in sides]
    members = {who[0] for side in sides for who in side.askers}
    known: list[tuple[str, tuple[str, ...], Iterable[str]]] = [
        ("--action", wanted.actions, ACTIONS),
        ("--model", wanted.models, () if wanted.administration else {n for side in sides for n in side.bundle.prices.models}),
        ("--team", wanted.teams, {team.id for directory in directories for team in directory.teams}),
        ("--principal", wanted.principals, {name for uid in members for name in (uid.id, str(uid))}),
    ]
    for option, given, names in known:
        for name in given:
            if name not in names:
                raise click.BadParameter(f"`{name}` is not in the bundle", param_hint=option)


def _csv(found: Matrix) -> None:
    """A row for each row, a column for each use; empty where there is no such resource for these principals."""
    out = csv.writer(sys.stdout, lineterminator="\n")
    out.writerow(["principal", "team", "principals", *(f"{action} {resource}" for action, resource in found.columns)])
    for row in found.rows:
        cells = (_cell(row, action, resource) for action, resource in found.columns)
        words = [cell.outcome.value if cell else "" for cell in cells]
        out.writerow([row.principals[0] if len(row.principals) == 1 else row.shown, row.team, len(row.principals), *words])


def _cell(row: Row, action: str, resource: str) -> Cell | None:
    return row.cells.get(action, {}).get(resource)


def _print(console: Console, found: Matrix, *, admin: bool) -> None:
    notes: dict[tuple[str, ...], int] = {}
    (_print_administration if admin else _print_models)(console, found, notes)
    for note, number in notes.items():
        for at, line in enumerate(note):
            console.print(f"{'' if at else number:>3}  {line}", markup=False, soft_wrap=True)
    console.print("✓ allowed  ◐ depends on the request  · denied", style="dim")
    if any(cell.sampled for row in found.rows for by_name in row.cells.values() for cell in by_name.values()):
        console.print("Some answers hang on more combinations of facts than were tried: they are a sample.", style="yellow")


def _print_models(console: Console, found: Matrix, notes: dict[tuple[str, ...], int]) -> None:
    """Columns that say the same of everybody are one, and what nobody may use is a line below: few columns remain."""
    from rich.markup import escape

    columns: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for action, resource in found.columns:
        texts = tuple(_glyph(_cell(row, action, resource), notes) for row in found.rows)
        columns.setdefault(texts, []).append((action, resource))
    nobody = [use for texts, uses in columns.items() if set(texts) <= {_GLYPHS["deny"]} for use in uses]
    shown = {texts: uses for texts, uses in columns.items() if not set(texts) <= {_GLYPHS["deny"]}}
    table = show.table("", *(escape("\n".join(_uses(uses))) for uses in shown.values()))
    for at, row in enumerate(found.rows):
        table.add_row(escape(row.shown), *(texts[at] for texts in shown))
    console.print(table)
    if nobody:
        console.print(f"nobody: {'; '.join(_uses(nobody))}", style="dim", markup=False, soft_wrap=True)


def _print_administration(console: Console, found: Matrix, notes: dict[tuple[str, ...], int]) -> None:
    """A column for each action; in the cell is on what it is allowed."""
    from rich.markup import escape

    actions = list(dict.fromkeys(action for action, _ in found.columns))
    table = show.table("", *actions, lines=True)
    for row in found.rows:
        texts = []
        for action in actions:
            cells = row.cells.get(action, {})
            glyphs = [(name, _glyph(cell, notes)) for name, cell in cells.items() if cell.outcome.value != "deny"]
            if len(cells) > 1 and len(glyphs) == len(cells) and len({glyph for _, glyph in glyphs}) == 1:
                glyphs = [("everything", glyphs[0][1])]
            texts.append("\n".join(f"{glyph} {escape(name)}" for name, glyph in glyphs) or _GLYPHS["deny"])
        table.add_row(escape(row.shown), *texts)
    console.print(table)


def _glyph(cell: Cell | None, notes: dict[tuple[str, ...], int]) -> str:
    if cell is None:
        return ""
    lines = tuple(_note(cell))
    glyph = _GLYPHS[cell.outcome.value]
    return f"{glyph} {notes.setdefault(lines, len(notes) + 1)}" if lines else glyph


def _note(cell: Cell) -> Iterable[str]:
    """On what it depends."""
    from authz.review.matrix import shown

    if cell.outcome.value == "conditional":
        turns = [str(turn) for turn in cell.turns]
        if not turns:
            turns = [f"for example allowed at {', '.join(f'{name} {shown(value)}' for name, value in cell.allows_at.items())}"]
        denied = f"denied by {', '.join(cell.denied_by)}" if cell.denied_by else "otherwise without a permit"
        yield f"{'; '.join(turns)}  (allowed by {', '.join(cell.allowed_by)}, {denied})"
    for error in cell.errors:
        yield f"denied where a policy cannot be evaluated: {error}"


def _uses(uses: Iterable[tuple[str, str]]) -> list[str]:
    """`chat, respond: a` for each resource of which the same actions are meant."""
    by_resource: dict[str, list[str]] = {}
    for action, resource in uses:
        by_resource.setdefault(resource, []).append(action)
    return [f"{', '.join(actions)}: {resource}" for resource, actions in by_resource.items()]


def _changed(survey: Survey, wanted: Wanted, *, as_csv: bool, as_json: bool) -> None:
    from authz.review.diff import moves

    found = list(moves(survey, wanted))
    if as_json:
        show.as_json([_flat(moved) for moved in found])
    elif as_csv:
        out = csv.writer(sys.stdout, lineterminator="\n")
        out.writerow(["principal", "principals", "action", "resource", "was", "now", "direction", "by", "before"])
        out.writerows(_flat(moved).values() for moved in found)
    else:
        _print_changed(show.console(), found)
    show.leave(findings=bool(found))


def _flat(moved: Moved) -> dict[str, str | int]:
    access = moved.access
    return {
        "principal": moved.group.shown,
        "principals": access.count,
        "action": moved.target.action,
        "resource": moved.target.shown,
        "was": access.was.value,
        "now": access.now.value,
        "direction": "more permissive" if moved.more else "less permissive",
        "by": " ".join(access.by),
        "before": " ".join(access.before),
    }


def _print_changed(console: Console, found: Sequence[Moved]) -> None:
    from rich.markup import escape

    if not found:
        console.print("no cell changed", style="green")
        return
    table = show.table("", "action", "on", "was", "now", "by")
    for moved in found:
        access, style = moved.access, "red" if moved.more else "green"
        by = ", ".join(access.by) or f"no longer {', '.join(access.before)}"
        words = (moved.group.shown, moved.target.action, moved.target.shown, access.was.value, access.now.value, by)
        table.add_row(*(escape(word) for word in words), style=style)
    console.print(table)
    console.print("red: more is allowed than before; green: less", style="dim")
