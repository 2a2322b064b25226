"""A bundle asked as the sidecar asks it, on a ledger in memory: for test cases, recorded requests and what-ifs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from types import TracebackType
from typing import Final, Self

from msgspec.structs import replace
from opentelemetry.metrics import NoOpMeterProvider

from authz.bundle import Bundle
from authz.identity.authentication import Authenticator
from authz.identity.credentials import KeyRing
from authz.identity.upstream import UpstreamKey
from authz.inference import estimate
from authz.inference.pricebook import BATCH, ON_DEMAND, ModelSpec
from authz.model import Asked, Decision, Estimate, Meter, Price, Principal, QuotaState, Record, Secret, Uid, Usage
from authz.pdp import Pdp
from authz.policy import Percents
from authz.quota.belongings import Belonging
from authz.quota.definitions import parse_amount
from authz.quota.ledger import Charge, Full, Held, Hold, Ledger, Terms
from authz.store import open_store
from authz.telemetry.metrics import Metrics

_TTL_NS: Final = 3600 * 10**9
_NO_LIMIT: Final = 2**53 - 1
_NO_TERMS: Final = Terms("", "", "", "", "", "", "", None, {})
_SPEND: Final = frozenset({Meter.SPEND})
_RATES: Final = frozenset(Meter) - _SPEND


class Bench:
    """One bundle and one empty ledger. Every decision is made at the time that the request gives."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.records: list[Record] = []
        self.store = open_store("sqlite:///:memory:")
        self._told = _Told(self.store)
        self._numbers = count()
        self.pdp = Pdp(
            self,
            Authenticator(KeyRing(self.store)),
            self._told,
            clock=lambda: 0,
            new_id=lambda: f"r{next(self._numbers)}",
            record=lambda record: None,
            metrics=Metrics(NoOpMeterProvider(), lambda: ("", False)),
            ttl_ns=_TTL_NS,
        )

    def upstream_key(self, team: str, now_ns: int) -> UpstreamKey | None:
        """A review gives no key to anybody; without one nothing would be allowed."""
        return UpstreamKey("-", Secret("-"))

    def decide(self, asked: Asked, *, spend: Percents | None = None, window: Percents | None = None) -> Decision:
        """What the sidecar would answer. `spend` and `window` take the place of what the ledger knows, where they are given."""
        self._told.given = (*_given(asked.principal, spend, Meter.SPEND), *_given(asked.principal, window, Meter.REQUESTS))
        self._told.hidden = (_SPEND if spend else frozenset()) | (_RATES if window else frozenset())
        return self.pdp.judge(asked)

    def charges(self, asked: Asked) -> tuple[Charge, ...]:
        """What the request would reserve; nothing where its model or its estimate is not known."""
        model = self.bundle.prices.find(asked.ask.models[0])
        if not isinstance(model, ModelSpec) or asked.estimate is None:
            return ()
        return self.bundle.quotas.charges(asked.principal, model.id, model.groups, asked.estimate)

    def use(self, asked: Asked, used: Mapping[str, str | int]) -> None:
        """Has quotas on the path of `asked` hold `used` already. Raises `ValueError` for one that is not on it."""
        met = {charge.quota: charge for charge in self.charges(asked)}
        quotas = {quota.id: quota for quota in self.bundle.quotas.quotas}
        for name, written in used.items():
            if name not in met:
                raise ValueError(f"the quota `{name}` does not meet this request")
            self.fill(asked, met[name], parse_amount(written, quotas[name]))

    def fill(self, asked: Asked, charge: Charge, amount: int) -> None:
        """Adds `amount` to what the charge's counter holds."""
        if amount:
            full = replace(charge, amount=amount, limit=_NO_LIMIT, enforced=False, alerts_at=())
            self.reserve(asked, (full,))

    def reserve(self, asked: Asked, charges: tuple[Charge, ...]) -> Held | Full:
        hold = Hold(f"r{next(self._numbers)}", charges, _NO_TERMS, _TTL_NS)
        return self.store.reserve(hold, asked.now_ns)

    def close(self) -> None:
        self.store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


class _Told:
    """The ledger, but for what a policy is told of how full the quotas are."""

    def __init__(self, store: Ledger) -> None:
        self._store = store
        self.given: tuple[QuotaState, ...] = ()
        self.hidden: frozenset[Meter] = frozenset()

    def reserve(self, hold: Hold, now_ns: int) -> Held | Full:
        return self._store.reserve(hold, now_ns)

    def reserve_many(self, holds: Sequence[Hold], now_ns: int) -> tuple[Held | Full, ...]:
        return self._store.reserve_many(holds, now_ns)

    def look(self, charges: tuple[Charge, ...], now_ns: int) -> tuple[QuotaState, ...]:
        states = self._store.look(charges, now_ns)
        return (*(state for state in states if state.meter not in self.hidden), *self.given)

    def belonging(self, identity: str) -> Belonging | None:
        """A review knows of no file and no batch."""
        return None


def _given(principal: Principal, percents: Percents | None, meter: Meter) -> tuple[QuotaState, ...]:
    if percents is None:
        return ()
    scopes: tuple[tuple[Uid | None, int], ...] = (
        (principal.organisation, percents.org),
        (principal.team, percents.team),
        (principal.user, percents.user),
        (principal.uid if principal.uid.type == "Key" else None, percents.key),
    )
    return tuple(QuotaState("", str(uid), meter, "", 100, percent, 0, 0.0) for uid, percent in scopes if uid is not None)


def price_of(bundle: Bundle, model: str, action: str) -> Price | None:
    """By token, of a batch or on demand; None where there is none."""
    found = bundle.prices.find(model)
    return found.tiers.get(BATCH if action == BATCH else ON_DEMAND) if isinstance(found, ModelSpec) else None


def priced(bundle: Bundle, model: str, at_most: Usage, expected: Usage, action: str = "") -> Estimate | None:
    """The estimate of so many tokens at this bundle's price; None where it has none."""
    price = price_of(bundle, model, action)
    if price is None:
        return None
    return Estimate(at_most=estimate.amounts(at_most, price), expected=estimate.amounts(expected, price))


def tokens_of(amounts: Mapping[Meter, int]) -> Usage:
    """What an estimate says in tokens."""
    return Usage(amounts.get(Meter.INPUT_TOKENS, 0), amounts.get(Meter.OUTPUT_TOKENS, 0))
