"""A sidecar in a thread of the test's, whose decisions take as long as the test wants."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest import mock

from authz.compose import Engine
from authz.model import Allow, Decision, Request
from authz.server import Sidecar
from authz.settings import Listen
from demo.stack import wait_for


class Slow:
    def __init__(self, socket: Path) -> None:
        self.socket = socket
        self.reservations: list[str] = []


@contextmanager
def serving(engine: Engine, *, until: threading.Event) -> Iterator[Slow]:
    """until  a decision that was made is not answered before"""
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as folder:
        slow = Slow(Path(folder) / "s.sock")
        decide = engine.pdp.decide

        def dawdle(request: Request) -> Decision:
            decision = decide(request)
            until.wait(10)
            if isinstance(decision, Allow):
                slow.reservations.append(decision.reservation_id)
            return decision

        sidecar = Sidecar(engine, Listen(socket=str(slow.socket), drain_s=0.0, grace_s=1.0))
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=lambda: loop.run_until_complete(sidecar.serve()), name="slow-sidecar")
        with mock.patch.object(engine.pdp, "decide", dawdle):
            thread.start()
            try:
                wait_for("the sidecar's socket", slow.socket.exists)
                yield slow
            finally:
                until.set()
                loop.call_soon_threadsafe(sidecar.stop)
                thread.join(10)
                loop.close()
