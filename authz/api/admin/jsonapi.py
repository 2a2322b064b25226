"""The admin API: JSON of what the page shows, and the same changes."""

from __future__ import annotations

import msgspec
from msgspec import Struct
from starlette.responses import Response

from authz.administration.desk import duration_ns
from authz.answers import usd
from authz.api.admin.visit import Visit
from authz.model import QuotaState
from authz.quota.definitions import parse_usd
from authz.quota.path import Applied

_DAY_NS = 86_400 * 1_000_000_000
MAX_DAYS = 3_650
MAX_SHOWN = 1_000


class CreateKey(Struct, frozen=True, forbid_unknown_fields=True):
    """roles  of the key; null for all · days: after which the secret expires; 0 for never"""

    key: str
    roles: tuple[str, ...] | None = None
    days: int = 0
    note: str = ""
    why: str = ""


class RotateKey(Struct, frozen=True, forbid_unknown_fields=True):
    """overlap  how long the old one works on · days: of the new one; null for as long a life as the old one was given"""

    overlap: str = "24h"
    days: int | None = None
    why: str = ""


class Why(Struct, frozen=True, forbid_unknown_fields=True):
    why: str = ""


class RaiseBudget(Struct, frozen=True, forbid_unknown_fields=True):
    """Exactly one of `to` and `by`, such as `600 USD`. scope  whose, of a budget by key, user or team"""

    why: str
    to: str | None = None
    by: str | None = None
    scope: str | None = None


class ResumeBudget(Struct, frozen=True, forbid_unknown_fields=True):
    why: str
    scope: str | None = None


def answer(value: object, status: int = 200) -> Response:
    return Response(msgspec.json.encode(value), status, media_type="application/json")


def me(visit: Visit) -> Response:
    administrator = visit.facts.administrator
    csrf = visit.session.csrf if visit.session is not None else None
    teams = [team.id for team in administrator.teams]
    return answer({"who": str(administrator.uid), "teams": teams, "roles": [r.id for r in administrator.roles], "csrf": csrf})


def usage(visit: Visit) -> Response:
    day, rows = visit.facts.usage_today()
    return answer({"day": day, "usage_by_key": rows})


def usage_report(visit: Visit) -> Response:
    return answer(visit.facts.usage(visit.query("by", "key"), visit.query("from"), visit.query("to")))


def quotas(visit: Visit) -> Response:
    return answer({"quotas": visit.facts.quotas()})


def budgets(visit: Visit) -> Response:
    return answer({"budgets": visit.facts.budgets()})


def keys(visit: Visit) -> Response:
    return answer({"keys": visit.facts.keys(every=visit.query("all") in ("1", "true"))})


def create_key(visit: Visit) -> Response:
    asked = visit.json(CreateKey)
    life_ns = days_ns(asked.days)
    issued = visit.facts.with_keys(
        lambda desk: desk.create(asked.key, roles=asked.roles, life_ns=life_ns, note=asked.note, why=asked.why)
    )
    return answer({"secret": issued.secret.reveal(), "digest": issued.row.digest, "key": issued.row.key}, 201)


def rotate_key(visit: Visit) -> Response:
    asked = visit.json(RotateKey)
    overlap_ns, life_ns = duration_ns(asked.overlap), None if asked.days is None else days_ns(asked.days)
    name = visit.part("digest")
    rotated = visit.facts.with_keys(lambda desk: desk.rotate(name, overlap_ns=overlap_ns, life_ns=life_ns, why=asked.why))
    row = rotated.issued.row
    said = {"secret": rotated.issued.secret.reveal(), "digest": row.digest, "key": row.key}
    return answer(said | {"replaces": rotated.old, "works_until": rotated.ends}, 201)


def revoke_key(visit: Visit) -> Response:
    asked = visit.json(Why)
    name = visit.part("digest")
    return answer({"revoked": visit.facts.with_keys(lambda desk: desk.revoke(name, why=asked.why))})


def raise_budget(visit: Visit) -> Response:
    asked = visit.json(RaiseBudget)
    to, by = amounts(asked.to, asked.by)
    return _changed(*visit.facts.budget_desk.raise_limit(visit.part("quota"), asked.scope, to=to, by=by, why=asked.why))


def resume_budget(visit: Visit) -> Response:
    asked = visit.json(ResumeBudget)
    return _changed(*visit.facts.budget_desk.resume(visit.part("quota"), asked.scope, why=asked.why))


def _changed(applied: Applied, before: QuotaState, after: QuotaState) -> Response:
    return answer(
        {
            "quota": applied.quota.id,
            "scope": applied.scope,
            "period": after.window,
            "limit_usd": usd(after.limit),
            "before_usd": usd(before.limit),
            "used_usd": usd(after.used),
            "left_usd": usd(after.remaining),
        }
    )


def matrix(visit: Visit) -> Response:
    return answer(visit.facts.matrix(administration=visit.query("administration") in ("1", "true")))


def bundle(visit: Visit) -> Response:
    return answer(visit.facts.bundle_state())


def decisions(visit: Visit) -> Response:
    wanted = visit.query("limit", "100")
    if not wanted.isdecimal() or not 0 < int(wanted) <= MAX_SHOWN:
        raise ValueError(f"limit: found `{wanted}`, expected 1 to {MAX_SHOWN}")
    found = visit.facts.decisions(effect=visit.query("effect"), team=visit.query("team"), at_most=int(wanted))
    return answer({"decisions": found})


def decision(visit: Visit) -> Response:
    found = visit.facts.explained(visit.part("id"))
    if found is None:
        return answer({"error": {"message": "no such decision among the last ones"}}, 404)
    return answer(found)


def days_ns(days: int) -> int:
    """Raises `ValueError`."""
    if not 0 <= days <= MAX_DAYS:
        raise ValueError(f"days: found {days}, expected 1 to {MAX_DAYS}, or 0 for no end")
    return days * _DAY_NS


def amounts(to: str | None, by: str | None) -> tuple[int | None, int | None]:
    """In nano-dollars, as `BudgetDesk.raise_limit` takes them. Raises `ValueError`."""
    if (to is None) == (by is None):
        raise ValueError("expected exactly one of `to` and `by`")
    if by is not None:
        return None, parse_usd(by)
    amount = parse_usd(to or "")
    if amount < 0:
        raise ValueError(f"to: found `{to}`, expected 0 USD or more")
    return amount, None
