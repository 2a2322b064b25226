"""Budgets, as a user may see and change them: the policies are asked first, and what changes is on the audit chain before."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Protocol

from authz.administration.administrator import READ, Administrator
from authz.answers import usd
from authz.audit import Act
from authz.bundle import Bundle
from authz.errors import ConfigError
from authz.identity.issuing import record, shown
from authz.identity.keys import KeyStore
from authz.model import Meter, QuotaState
from authz.quota.ledger import Ledger, check_raise
from authz.quota.path import Applied
from authz.reporting.budgets import LONGEST_PERIOD_NS, BudgetRow, budget_rows, counters, resource_of

CHANGE: Final = "budget.change"
_AT_ONCE: Final = 500


class BudgetStore(Ledger, KeyStore, Protocol):
    """The ledger, and the audit chain beside it."""


class BudgetDesk:
    """Made for one command or one request.

    new_id  names a raise, so that one that is sent twice is made once
    login   who is behind it outside the directory
    Every method raises `ConfigError` for a budget that is none, and `StoreUnavailable`.
    """

    def __init__(
        self, bundle: Bundle, store: BudgetStore, administrator: Administrator, *, new_id: Callable[[], str], login: str
    ) -> None:
        self._bundle, self._store, self._administrator = bundle, store, administrator
        self._new_id, self._login, self._now_ns = new_id, login, administrator.now_ns

    def rows(self, quota: str | None = None, *, every: bool = False) -> list[BudgetRow]:
        """Those that the user may see, in the order of the file."""
        if quota is not None:
            self._named(quota)
        stood = self.stood(each for each in counters(self._bundle) if quota in (None, each.quota.id))
        changes = self._store.raises(self._now_ns - LONGEST_PERIOD_NS)
        return list(budget_rows(stood, changes, self._now_ns, self._bundle.time_zone, every=every))

    def stood(self, wanted: Iterator[Applied]) -> Iterator[tuple[Applied, QuotaState]]:
        """How each of these quotas stands, as far as the user may see it."""
        seen = [each for each in wanted if self._administrator.may(READ, resource_of(self._bundle, each))]
        for start in range(0, len(seen), _AT_ONCE):
            some = seen[start : start + _AT_ONCE]
            yield from zip(some, self._store.look(tuple(each.charge(0) for each in some), self._now_ns), strict=True)

    def find(self, quota: str, scope: str | None) -> Applied:
        """The one counter that is meant. A member that nobody knows is a slip of the pen, not a budget."""
        applied = self._named(quota)
        if scope is None and applied and applied[0].quota.per is not None:
            raise ConfigError(
                "quotas.yaml", f"`{quota}` is a budget for each {applied[0].quota.per.value}, expected --scope with one of them"
            )
        found = [each for each in applied if scope is None or scope in (each.scope, each.scope.partition(", ")[0])]
        if len(found) != 1:
            some = ", ".join(f"`{each.scope}`" for each in applied[:5]) + (", …" if len(applied) > 5 else "")
            raise ConfigError("quotas.yaml", f"`{quota}` is no budget of `{scope}`, expected one of {some or 'nobody'}")
        return found[0]

    def raise_limit(
        self, quota: str, scope: str | None, *, to: int | None = None, by: int | None = None, why: str
    ) -> tuple[Applied, QuotaState, QuotaState]:
        """Changes the limit for the rest of the period, in nano-dollars: exactly one of `to` and `by`. Answers how it stood and
        stands. Raises `NotPermitted`, and `ValueError` for an amount that cannot be, or no words for the record."""
        applied = self._changeable(quota, scope, why)
        before = self._state(applied)
        amount = by if by is not None else (to or 0) - before.limit
        return applied, before, self._change(applied, amount, before, why)

    def resume(self, quota: str, scope: str | None, *, why: str) -> tuple[Applied, QuotaState, QuotaState]:
        """Gives the whole limit again for the rest of the period, beside what is used already. Answers and raises likewise."""
        applied = self._changeable(quota, scope, why)
        before = self._state(applied)
        return applied, before, self._change(applied, max(0, applied.quota.limit + before.used - before.limit), before, why)

    def _named(self, name: str) -> list[Applied]:
        budgets = [quota.id for quota in self._bundle.quotas.quotas if quota.meter is Meter.SPEND]
        if name not in budgets:
            known = ", ".join(f"`{each}`" for each in budgets) or "none: no quota of `what: spend` is defined"
            raise ConfigError("quotas.yaml", f"no budget `{name}`, expected one of {known}")
        return [each for each in counters(self._bundle) if each.quota.id == name]

    def _changeable(self, quota: str, scope: str | None, why: str) -> Applied:
        applied = self.find(quota, scope)
        self._administrator.require(CHANGE, resource_of(self._bundle, applied))
        if not why.strip():
            raise ValueError("why: found nothing, expected words for the record")
        return applied

    def _state(self, applied: Applied) -> QuotaState:
        (state,) = self._store.look((applied.charge(0),), self._now_ns)
        return state

    def _change(self, applied: Applied, by: int, before: QuotaState, why: str) -> QuotaState:
        if not by:
            return before
        raise_id, who = self._new_id(), str(self._administrator.uid)
        check_raise(applied.charge(0), by)
        # On record before it is done: a change that failed and is on record does no harm, one that is not on record would.
        act = Act(
            at=shown(self._now_ns),
            who=who,
            login=self._login,
            what=CHANGE,
            subject=applied.scope,
            why=why,
            before={"quota": applied.quota.id, "limit_usd": usd(before.limit)},
            after={"quota": applied.quota.id, "limit_usd": usd(before.limit + by), "raise": raise_id},
        )
        record(self._store, lambda: ((), act))
        return self._store.raise_limit(raise_id, applied.charge(0), by, who, why, self._now_ns)
