"""Which quotas a request meets, and what it charges to each.

Quotas are found by the entities on the request's own path, so ten thousand other teams cost nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, assert_never

import msgspec

from authz.model import MAX_AMOUNT, Estimate, Meter, Principal, Uid
from authz.quota.definitions import Per, Quota, Reserve
from authz.quota.ledger import Charge
from authz.quota.windows import Kind, Window

MAX_CACHED: Final = 10_000
"""Results kept, by principal and model. Keys are few; a principal from a token is as many as there are users."""


class Applied(msgspec.Struct, frozen=True):
    """A quota that a request meets: the counter it shares, and with whom.

    one  the charge of a request where that is 1 whatever its estimate says, made once; else None
    """

    quota: Quota
    counter: str
    scope: str
    one: Charge | None = None

    def charge(self, amount: int) -> Charge:
        quota = self.quota
        return Charge(
            quota=quota.id,
            scope=self.scope,
            counter=self.counter,
            window=quota.window,
            meter=quota.meter,
            amount=amount,
            limit=quota.limit,
            enforced=quota.enforced,
            alerts_at=quota.alerts_at,
            on_store_error=quota.on_store_error,
        )


class QuotaIndex:
    """Built once for each bundle; safe in threads."""

    def __init__(self, quotas: Iterable[Quota], *, max_cached: int = MAX_CACHED) -> None:
        self.quotas: Final = tuple(quotas)
        self._by_scope: dict[Uid, list[tuple[int, Quota]]] = {}
        for order, quota in enumerate(self.quotas):
            self._by_scope.setdefault(quota.scope[0], []).append((order, quota))
        self._max_cached = max_cached
        self._cached: dict[tuple[Principal, str, tuple[Uid, ...]], tuple[Applied, ...]] = {}

    def applying(self, principal: Principal, model: str, groups: tuple[Uid, ...]) -> tuple[Applied, ...]:
        """The quotas of a request, in the order of the file.

        model   the resolved id of the model that answers
        groups  the model groups it is in
        """
        key = (principal, model, groups)
        found = self._cached.get(key)
        if found is None:
            found = self._look_up(principal, model, groups)
            if len(self._cached) >= self._max_cached:
                self._cached.clear()
            self._cached[key] = found
        return found

    def charges(self, principal: Principal, model: str, groups: tuple[Uid, ...], estimate: Estimate) -> tuple[Charge, ...]:
        """What to reserve. A quota whose meter the request cannot move at all is left out.

        Every request is one request and one under way, unless the estimate says otherwise. Where only the bound is above zero,
        an adaptive quota still reserves 1: what a request may post it must also find room for.
        """
        charges = []
        for applied in self.applying(principal, model, groups):
            if applied.one is not None and estimate.at_most.get(applied.quota.meter, 1) == 1:
                charges.append(applied.one)
            elif (amount := _amount(applied.quota, estimate)) > 0:
                charges.append(applied.charge(amount))
        return tuple(charges)

    def _look_up(self, principal: Principal, model: str, groups: tuple[Uid, ...]) -> tuple[Applied, ...]:
        found = {
            order: quota
            for uid in (*principal.path, *groups)
            for order, quota in self._by_scope.get(uid, ())
            if _meets(quota, model, groups)
        }
        return tuple(_applied(quota, principal) for _, quota in sorted(found.items()))


def counters_of(quota: Quota, principals: Iterable[Principal]) -> tuple[Applied, ...]:
    """Each counter of a quota that one of these principals can meet, sorted by scope; for reports, not for decisions."""
    if quota.per is None:
        return (applied_to(quota, None),)
    scope = quota.scope[0]
    found = (_member(quota.per, each) for each in principals if scope.type == "ModelGroup" or scope in each.path)
    return tuple(applied_to(quota, member) for member in sorted(set(found)))


def counter_name(meter: Meter, window: Window, scope: tuple[Uid, ...], models: tuple[str, ...], member: Uid | None) -> str:
    """The canonical name of a counter.

    It holds what is counted and for whom, and nothing of how much is allowed: a quota that is renamed, raised or set to shadow
    goes on with its count. JSON, because ids are arbitrary text and two counters must never share a name.
    """
    match window.kind:
        case Kind.SLIDING:
            span = f"{window.length_s}s"
        case Kind.CALENDAR:
            span = f"{window.period.value} {window.time_zone}"
        case Kind.GAUGE:
            span = ""
        case _:
            assert_never(window.kind)
    who = [[uid.type, uid.id] for uid in scope]
    parts = [meter.value, span, who, models, [member.type, member.id] if member is not None else []]
    return msgspec.json.encode(parts).decode()


def _meets(quota: Quota, model: str, groups: tuple[Uid, ...]) -> bool:
    if len(quota.scope) > 1 and quota.scope[1] not in groups:
        return False
    return not quota.models or model in quota.models or any(group.id in quota.models for group in groups)


def _applied(quota: Quota, principal: Principal) -> Applied:
    return applied_to(quota, _member(quota.per, principal) if quota.per is not None else None)


def applied_to(quota: Quota, member: Uid | None) -> Applied:
    """The quota as it applies to one member below its scope; None where it is not counted by member."""
    shared_by = (member, *quota.scope[1:]) if member is not None else quota.scope
    counter = counter_name(quota.meter, quota.window, quota.scope, quota.models, member)
    applied = Applied(quota, counter, ", ".join(str(uid) for uid in shared_by))
    if quota.meter is Meter.REQUESTS or quota.meter is Meter.IN_FLIGHT:
        return msgspec.structs.replace(applied, one=applied.charge(1))
    return applied


def _member(per: Per, principal: Principal) -> Uid:
    """Whose counter it is. A credential without a user counts for itself: nobody escapes by lacking what a quota splits by."""
    match per:
        case Per.KEY:
            return principal.uid
        case Per.USER:
            return principal.user or principal.uid
        case Per.TEAM:
            return principal.team
        case _:
            assert_never(per)


_WORST_CASE: Final = Reserve.WORST_CASE
_ADAPTIVE: Final = Reserve.ADAPTIVE


def _amount(quota: Quota, estimate: Estimate) -> int:
    meter = quota.meter
    if meter is Meter.REQUESTS or meter is Meter.IN_FLIGHT:
        return estimate.at_most[meter]  # where it says nothing, the charge is `Applied.one`
    at_most = estimate.at_most.get(meter, 0)
    expected = estimate.expected.get(meter, 0)
    if quota.reserve is _WORST_CASE:
        amount = at_most
    elif quota.reserve is _ADAPTIVE:
        amount = expected or (1 if at_most else 0)
    else:
        assert_never(quota.reserve)
    if not 0 <= amount <= MAX_AMOUNT:
        raise ValueError(f"an estimate of {amount} {meter.value}, expected 0 to {MAX_AMOUNT}")
    return amount
