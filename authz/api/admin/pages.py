"""The page: each view of it as HTML, and the forms that it sends."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import PurePath
from typing import Any, Final, NamedTuple

from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from authz.administration import SecretRow
from authz.administration.desk import duration_ns
from authz.answers import usd
from authz.api.admin import charts
from authz.api.admin.jsonapi import amounts, days_ns
from authz.api.admin.sessions import Notice
from authz.api.admin.visit import Visit
from authz.reporting.usage import By
from authz.review.matrix import Cell, Matrix

VIEWS: Final = (
    ("/", "Overview"),
    ("/decisions", "Decisions"),
    ("/usage", "Usage"),
    ("/budgets", "Budgets"),
    ("/keys", "Keys"),
    ("/access", "Access"),
    ("/bundle", "Bundle"),
)
_SHOWN: Final = 100
_FEW: Final = 12


def environment() -> Environment:
    """Escapes everything; a name that a template gets wrong is an error and not nothing."""
    made = Environment(
        loader=PackageLoader("authz.api.admin"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["moment"] = lambda text: text[:19].replace("T", " ")
    made.filters["short"] = lambda text: text.removeprefix("sha256:")[:12]
    made.filters["wait"] = wait
    made.filters["file"] = lambda path: PurePath(path).name
    made.filters["money"] = money
    return made


def money(text: str) -> str:
    """Dollars for a glance: to the cent where there is one."""
    return f"{float(text):,.2f}" if float(text) >= 1 else text


def wait(seconds: float) -> str:
    """As people say it: `3 d 4 h`, `12 min`, `8 s`."""
    minutes, hours, days = round(seconds / 60), round(seconds / 3_600), int(seconds // 86_400)
    if seconds < 90:
        return f"{round(seconds)} s"
    if minutes < 90:
        return f"{minutes} min"
    return f"{hours} h" if days < 2 else f"{days} d {round(seconds % 86_400 / 3_600)} h"


class Pages:
    """Every method is one answer to one visit."""

    def __init__(self, templates: Environment) -> None:
        self._templates = templates

    def render(self, name: str, status: int = 200, **values: Any) -> Response:
        return HTMLResponse(self._templates.get_template(name).render(**values), status)

    def _view(self, visit: Visit, name: str, status: int = 200, **values: Any) -> Response:
        session = visit.session
        notice = None
        if session is not None:
            notice, session.notice = session.notice, None
        return self.render(
            name,
            status,
            views=VIEWS,
            path=visit.path,
            who=visit.facts.administrator,
            csrf=session.csrf if session is not None else "",
            notice=notice,
            state=visit.facts.bundle_state(),
            **values,
        )

    def problem(self, visit: Visit | None, status: int, title: str, message: str) -> Response:
        if visit is None:
            return self.render("plain.html", status, title=title, message=message)
        return self._view(visit, "problem.html", status, title=title, message=message)

    # What there is to see

    def overview(self, visit: Visit) -> Response:
        facts = visit.facts
        day, today = facts.usage_today()
        report = facts.usage(By.DAY, "", "")
        return self._view(
            visit,
            "overview.html",
            day=day,
            today=today,
            decisions=facts.decisions(at_most=_FEW),
            budgets=facts.budgets(),
            quotas=[row for row in facts.quotas() if row.meter.value == "spend"],
            forecasts={(each.quota, each.scope): each for each in report.budgets},
            chart=charts.by_day(report.lines, report.first_day, report.last_day),
            report=report,
        )

    def decisions(self, visit: Visit) -> Response:
        effect, team = visit.query("effect"), visit.query("team")
        return self._view(
            visit,
            "decisions.html",
            decisions=visit.facts.decisions(effect=effect, team=team, at_most=_SHOWN),
            effect=effect,
            team=team,
            teams=[each.id for each in visit.facts.bundle.directory.teams],
        )

    def decision(self, visit: Visit) -> Response:
        found = visit.facts.explained(visit.part("id"))
        if found is None:
            return self.problem(visit, 404, "No such decision", "It is not among the last ones that this process made.")
        return self._view(visit, "decision.html", found=found)

    def usage(self, visit: Visit) -> Response:
        facts, by = visit.facts, visit.query("by", By.KEY)
        report = facts.usage(by, visit.query("from"), visit.query("to"))
        days = facts.usage(By.DAY, report.first_day, report.last_day)
        return self._view(
            visit,
            "usage.html",
            report=report,
            kinds=tuple(By),
            chart=charts.by_day(days.lines, days.first_day, days.last_day),
            ranked=charts.ranked(report.lines),
        )

    def budgets(self, visit: Visit) -> Response:
        facts = visit.facts
        report = facts.usage(By.DAY, "", "")
        quotas = facts.quotas()
        return self._view(
            visit,
            "budgets.html",
            budgets=facts.budgets(),
            spend={(row.quota, row.scope): row for row in quotas if row.meter.value == "spend"},
            quotas=[row for row in quotas if row.meter.value != "spend"],
            forecasts={(each.quota, each.scope): each for each in report.budgets},
        )

    def keys(self, visit: Visit) -> Response:
        every = visit.query("all") == "1"
        rows = visit.facts.keys(every=every)
        return self._view(visit, "keys.html", rows=sorted(rows, key=_by_key), every=every, creatable=visit.facts.creatable())

    def access(self, visit: Visit) -> Response:
        administration = visit.query("administration") == "1"
        found = visit.facts.matrix(administration=administration)
        return self._view(visit, "access.html", **_table(found), administration=administration)

    def bundle(self, visit: Visit) -> Response:
        return self._view(visit, "bundle.html", policies=visit.facts.bundle.policies if visit.facts.sees_all else ())

    # What there is to do; each ends in a page of its own, so that a reload does nothing twice

    def create_key(self, visit: Visit) -> Response:
        def issue() -> Notice:
            key, days = visit.field("key"), _number(visit.field("days", "0"))
            roles = None if visit.field("roles") != "none" else ()
            issued = visit.facts.with_keys(
                lambda desk: desk.create(
                    key, roles=roles, life_ns=days_ns(days), note=visit.field("note"), why=visit.field("why")
                )
            )
            return Notice(f"A secret for {key}. It is shown this once and never again.", issued.secret)

        return _done(visit, "/keys", issue)

    def rotate_key(self, visit: Visit) -> Response:
        def rotate() -> Notice:
            name, overlap_ns = visit.part("digest"), duration_ns(visit.field("overlap", "24h"))
            rotated = visit.facts.with_keys(lambda desk: desk.rotate(name, overlap_ns=overlap_ns, why=visit.field("why")))
            key = rotated.issued.row.key
            return Notice(f"The new secret of {key}; the old one works until {rotated.ends}.", rotated.issued.secret)

        return _done(visit, "/keys", rotate)

    def revoke_key(self, visit: Visit) -> Response:
        def revoke() -> Notice:
            name = visit.part("digest")
            changed = visit.facts.with_keys(lambda desk: desk.revoke(name, why=visit.field("why")))
            return Notice(f"{name[:12]} is revoked." if changed else f"{name[:12]} was revoked already.")

        return _done(visit, "/keys", revoke)

    def raise_budget(self, visit: Visit) -> Response:
        def change() -> Notice:
            to, by = visit.field("to"), visit.field("by")
            limits = amounts(_dollars(to) if to else None, _dollars(by) if by else None)
            applied, before, after = visit.facts.budget_desk.raise_limit(
                visit.part("quota"), visit.field("scope") or None, to=limits[0], by=limits[1], why=visit.field("why")
            )
            return Notice(f"{applied.quota.id}: {usd(after.limit)} USD this {after.window}, {usd(before.limit)} before.")

        return _done(visit, "/budgets", change)

    def resume_budget(self, visit: Visit) -> Response:
        def change() -> Notice:
            scope = visit.field("scope") or None
            applied, _, after = visit.facts.budget_desk.resume(visit.part("quota"), scope, why=visit.field("why"))
            return Notice(f"{applied.quota.id} has its whole limit again: {usd(after.remaining)} USD are left.")

        return _done(visit, "/budgets", change)


def _done(visit: Visit, back: str, change: Callable[[], Notice]) -> Response:
    """Only a browser that has signed in sends forms: what it is told next is kept in its session until then."""
    if visit.session is None:
        raise ValueError(f"a form, expected a session: with a credential of its own a script goes to /api{back}")
    visit.session.notice = change()
    return RedirectResponse(back, 303)


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 6:
        raise ValueError(f"days: found `{text}`, expected a whole number")
    return int(text)


def _dollars(text: str) -> str:
    return text if text.upper().endswith("USD") else f"{text} USD"


def _by_key(row: SecretRow) -> tuple[str, int]:
    return row.key, -row.generation


class _Column(NamedTuple):
    """uses  actions by resource, for all of which everybody's answer is the same · action, resource: the first of them"""

    uses: list[tuple[str, list[str]]]
    action: str
    resource: str


def _table(found: Matrix) -> Mapping[str, Any]:
    """Columns that say the same of everybody are one, and what nobody may do is none of them."""
    merged: dict[tuple[str, ...], list[tuple[str, str]]] = {}
    for action, resource in found.columns:
        texts = tuple(_words(row.cells.get(action, {}).get(resource)) for row in found.rows)
        merged.setdefault(texts, []).append((action, resource))
    columns, nobody = [], []
    for uses in merged.values():
        by_resource: dict[str, list[str]] = {}
        for action, resource in uses:
            by_resource.setdefault(resource, []).append(action)
        given = (row.cells.get(uses[0][0], {}).get(uses[0][1]) for row in found.rows)
        if all(cell is None or cell.outcome.value == "deny" for cell in given):
            nobody += list(by_resource.items())
        else:
            columns.append(_Column(list(by_resource.items()), *uses[0]))
    rows = []
    for row in found.rows:
        cells = [row.cells.get(column.action, {}).get(column.resource) for column in columns]
        rows.append(
            {
                "shown": row.shown,
                "principals": row.principals,
                "cells": [{"outcome": cell.outcome.value if cell else "none", "note": _words(cell)} for cell in cells],
            }
        )
    return {"columns": columns, "rows": rows, "nobody": nobody, "digest": found.bundle}


def _words(cell: Cell | None) -> str:
    if cell is None:
        return "there is no such thing for these"
    by = ", ".join(cell.allowed_by)
    match cell.outcome.value:
        case "allow":
            return f"allowed by {by}"
        case "conditional":
            turns = "; ".join(str(each) for each in cell.turns) or "it depends on the request"
            denied = f", denied by {', '.join(cell.denied_by)}" if cell.denied_by else ""
            return f"{turns} (allowed by {by}{denied})"
        case _:
            return f"denied by {', '.join(cell.denied_by)}" if cell.denied_by else "no permit"
