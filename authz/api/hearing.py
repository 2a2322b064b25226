"""Whether somebody still waits for an answer. Who has gone is owed nothing, and must not go on holding what others need."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final

import grpc

SLOW_S: Final = 0.05
NOTICE_S: Final = 0.01
"""A decision keeps the loop to itself. That its caller gave up meanwhile is heard only once the loop is let go for a moment,
which is worth it after a decision that took so long that somebody may have."""


async def unheard(context: grpc.aio.ServicerContext[bytes, bytes], act: Callable[[], object], *, took_s: float) -> None:
    """Lets `act` happen where the call ends without its answer having been sent: cancelled, or past its deadline."""

    def ended(call: grpc.aio.ServicerContext[bytes, bytes]) -> None:
        # By `done`: `cancelled` says no of a call whose handler was stopped, whoever stopped it.
        if not call.done():
            act()

    context.add_done_callback(ended)  # type: ignore[arg-type]  # the stubs call a plain callable a class
    if took_s > SLOW_S:
        await asyncio.sleep(NOTICE_S)
