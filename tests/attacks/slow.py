"""A sidecar in a thread of the test's, whose decisions take as long as the test wants."""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

from authz.compose import Engine
from authz.listening import Listen
from authz.model import Allow, Decision, Request
from authz.server import Sidecar
from demo.stack import listens, wait_for


class Slow:
    def __init__(self, listen: Listen) -> None:
        self._listen = listen
        self.reservations: list[str] = []

    def address(self, native: bool) -> str:
        """native  of the server that is ours, which takes Checks and nothing else"""
        return f"unix:{self._listen.check_socket if native else self._listen.socket}"


@contextmanager
def serving(engine: Engine, *, until: threading.Event) -> Iterator[Slow]:
    """until  a decision that was made is not answered before"""
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as folder:
        listen = Listen(socket=f"{folder}/s.sock", drain_s=0.0, grace_s=1.0)
        slow = Slow(listen)
        decide = engine.pdp.decide

        def dawdle(request: Request) -> Decision:
            decision = decide(request)
            until.wait(10)
            if isinstance(decision, Allow):
                slow.reservations.append(decision.reservation_id)
            return decision

        sidecar = Sidecar(engine, listen)
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=lambda: loop.run_until_complete(sidecar.serve()), name="slow-sidecar")
        with mock.patch.object(engine.pdp, "decide", dawdle):
            thread.start()
            try:
                wait_for("the sidecar's sockets", lambda: listens(listen.socket) and listens(listen.check_socket))
                yield slow
            finally:
                until.set()
                loop.call_soon_threadsafe(sidecar.stop)
                thread.join(10)
                loop.close()
