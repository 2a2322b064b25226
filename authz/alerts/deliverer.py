"""Delivery of alerts, at least once to each webhook, over replicas and restarts.

The store says what has to be told and to whom; a claim makes it ours for a while. It is marked as delivered only after the
receiver has taken it, so whoever dies in between leaves it to the next process, when the claim has run out: then, and only
then, a receiver may get it twice, under the same id.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final, Protocol, Self

import httpx

from authz.alerts.webhooks import TIMEOUT_S, Attempt, Webhook, post
from authz.clock import Clock
from authz.errors import StoreUnavailable
from authz.quota.ledger import Delivery

BATCH: Final = 8
TICK_S: Final = 2.0
_FIRST_RETRY_S: Final = 5
_LAST_RETRY_S: Final = 900
_NS: Final = 1_000_000_000
LEASE_NS: Final = 60 * _NS
"""Longer than a batch can take: its posts run side by side and each ends after `TIMEOUT_S`."""

_log = logging.getLogger(__name__)


class AlertStore(Protocol):
    """As much of a `Ledger` as a delivery needs. Every method raises `StoreUnavailable`."""

    def claim_alerts(self, target: str, now_ns: int, lease_ns: int, at_most: int) -> tuple[Delivery, ...]: ...

    def delivered(self, target: str, alert: str, now_ns: int) -> None: ...

    def retry_alert(self, target: str, alert: str, next_ns: int) -> None: ...


class Deliverer:
    """Posts what the store has to tell. Its thread is its own: a webhook that hangs holds up nothing else.

    told       is called after every attempt, with whether the receiver took it: for the metric
    timeout_s  for one attempt as a whole
    """

    def __init__(
        self,
        store: AlertStore,
        webhooks: Sequence[Webhook],
        *,
        clock: Clock,
        told: Callable[[bool], None],
        timeout_s: float = TIMEOUT_S,
    ) -> None:
        self._store, self._webhooks, self._clock, self._told, self._timeout_s = store, webhooks, clock, told, timeout_s
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="authz-alerts", daemon=True)

    def start(self) -> Self:
        self._thread.start()
        return self

    def close(self) -> None:
        """Ends after the attempts that are under way."""
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def tick(self, now_ns: int) -> int:
        """One round over all webhooks; answers how many alerts were taken. Raises `StoreUnavailable`."""
        taken = 0
        for webhook in self._webhooks:
            claimed = self._store.claim_alerts(webhook.name, now_ns, LEASE_NS, BATCH)
            if claimed:
                attempts = asyncio.run(self._post_all(webhook, claimed))
                taken += sum(self._note(webhook, *each, now_ns) for each in zip(claimed, attempts, strict=True))
        return taken

    async def _post_all(self, webhook: Webhook, deliveries: Sequence[Delivery]) -> list[Attempt]:
        async with httpx.AsyncClient() as client:
            return await asyncio.gather(*(post(client, webhook, each, timeout_s=self._timeout_s) for each in deliveries))

    def _note(self, webhook: Webhook, delivery: Delivery, attempt: Attempt, now_ns: int) -> bool:
        taken = not attempt.problem
        self._told(taken)
        if taken:
            self._store.delivered(webhook.name, delivery.id, now_ns)
            return True
        pause_s = max(retry_s(delivery.attempts), attempt.pause_s)
        _log.warning(
            "an alert was not taken by its webhook",
            extra={
                "webhook": webhook.name,
                "alert_id": delivery.id,
                "problem": attempt.problem,
                "attempts": delivery.attempts,
                "next_s": pause_s,
            },
        )
        self._store.retry_alert(webhook.name, delivery.id, now_ns + pause_s * _NS)
        return False

    def _run(self) -> None:
        while not self._closing.wait(TICK_S):
            try:
                while self.tick(self._clock()) and not self._closing.is_set():
                    pass
            except StoreUnavailable as error:
                _log.error("alerts wait for the store", extra={"error": str(error)})


def retry_s(attempts: int) -> int:
    """How long to wait after so many attempts: 5 s, doubled each time, at most a quarter of an hour."""
    return min(_FIRST_RETRY_S << min(attempts - 1, 20), _LAST_RETRY_S)
