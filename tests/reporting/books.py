"""Use that is written into a store as requests would have written it."""

from __future__ import annotations

from datetime import UTC, datetime

from authz.bundle import Bundle
from authz.model import Meter, Usage
from authz.quota.ledger import Actual, Hold, Terms
from authz.store import Store

USD = 1_000_000_000


def at(text: str) -> int:
    return int(datetime.fromisoformat(text).astimezone(UTC).timestamp()) * 10**9


class Books:
    """Writes what requests would have written."""

    def __init__(self, bundle: Bundle, store: Store) -> None:
        self._bundle, self._store, self._number = bundle, store, 0

    def use(self, day: str, key: str, model: str, usd: float, *, pending: bool = False, user: str = "") -> None:
        """One request of `usd`, for which twice as much was the bound, with 1,000 tokens in (400 cached) and 100 out."""
        member = self._bundle.directory.keys[key].principal
        amount = round(usd * USD)
        bound = 2 * amount
        terms = Terms(day, "acme", member.team.id, user, key, model, "chat", None, {Meter.SPEND: bound})
        applied = self._bundle.quotas.applying(member, model, ())
        now_ns = at(f"{day}T11:00:00+01:00")
        charges = tuple(each.charge(amount) for each in applied if each.quota.meter is Meter.SPEND)
        self._number += 1
        name = f"r{self._number}"
        self._store.reserve(Hold(name, charges, terms, 10**15), now_ns)
        if not pending:
            self._store.settle(name, Actual({Meter.SPEND: amount}, Usage(1000, 100, 400)), now_ns)
