"""Alerts as their targets are told of them. Redis knows an alert by a number of its own, the contract by `alert_id`."""

from __future__ import annotations

from typing import Any, Final

from authz.quota.ledger import DELIVER_WITHIN_NS, Delivery, alert_id
from authz.quota.windows import NS
from authz.store.redis import rows
from authz.store.redis.connection import Server

_KNOWN: Final = 10_000


class Alerts:
    """Whoever was given an alert reports on it, so the numbers of what was claimed are remembered; others are looked up."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._numbers: dict[str, int] = {}

    def claim(self, target: str, lease_ns: int, at_most: int, moment: str) -> tuple[Delivery, ...]:
        found = self._server.run("claim", moment, target, *divmod(lease_ns, NS), at_most, *divmod(DELIVER_WITHIN_NS, NS))
        return tuple(self._delivery(*found[at : at + 3]) for at in range(0, len(found), 3))

    def tell(self, target: str, alert: str, next_moment: str) -> None:
        """next_moment  when it is offered again, '' where it is delivered"""
        number = self._numbers.get(alert)
        if number is None:
            found = self._server.run("alerts")
            for at in range(0, len(found), 2):
                self._delivery(int(found[at]), found[at + 1], 0)
            number = self._numbers.get(alert)
        if number is not None:
            self._server.run("told", target, number, next_moment)

    def _delivery(self, number: int, packed: Any, attempts: int) -> Delivery:
        row = rows.decode_alert(packed)
        identity = alert_id(row.counter, row.bucket, row.threshold)
        if len(self._numbers) >= _KNOWN:
            self._numbers.clear()
        self._numbers[identity] = number
        return Delivery(identity, row.alert, row.bucket, int(row.at_ns), attempts)
