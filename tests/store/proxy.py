"""A network that fails: a proxy on the loopback interface that passes bytes on, or late, or not, or only half."""

from __future__ import annotations

import random
import socket
import struct
import threading
from collections.abc import Callable
from contextlib import suppress
from enum import StrEnum


class Fault(StrEnum):
    NONE = "none"
    DROP = "drop"  # bytes are swallowed, and the connection stays
    DELAY = "delay"  # bytes come one by one and late
    RESET = "reset"  # the connection is reset in the middle of an answer
    CLOSE = "close"  # the connection is closed in order, in the middle of an answer
    HALF_CLOSE = "half_close"  # our side is told that nothing more comes, while what it sends still arrives
    REFUSE = "refuse"  # new connections are reset at once


class Proxy:
    """Listens on `port`. `fault` is what happens now to what comes from the server; it is asked for each piece that passes."""

    def __init__(self, connect: Callable[[], socket.socket]) -> None:
        self.fault: Callable[[], Fault] = lambda: Fault.NONE
        self.late_s = 0.05
        self._connect = connect
        self._closing = threading.Event()
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._start(self._accept)

    def close(self) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for each in self._sockets:
            with suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join()
        for each in self._sockets:
            each.close()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self._closing.is_set():
            try:
                ours, _ = self._listener.accept()
            except OSError:
                return
            if self.fault() is Fault.REFUSE:
                _reset(ours)
                continue
            try:
                theirs = self._connect()
            except OSError:
                ours.close()
                continue
            self._sockets += (ours, theirs)
            self._start(self._pass_on, ours, theirs, False)
            self._start(self._pass_on, theirs, ours, True)

    def _pass_on(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        """What is sent always arrives: the worst case, in which it is done and nobody hears of it."""
        with suppress(OSError):
            while piece := source.recv(65_536):
                fault = self.fault() if answers else Fault.NONE
                if fault is Fault.DROP:
                    continue
                if fault is Fault.DELAY:
                    for at in range(len(piece)):
                        if self._closing.wait(self.late_s):
                            return
                        target.sendall(piece[at : at + 1])
                    continue
                if fault in (Fault.RESET, Fault.CLOSE, Fault.REFUSE):
                    target.sendall(piece[: len(piece) // 2])
                    if fault is Fault.CLOSE:
                        target.shutdown(socket.SHUT_RDWR)
                    else:
                        _reset(target)
                    return
                if fault is Fault.HALF_CLOSE:
                    target.shutdown(socket.SHUT_WR)
                    return
                target.sendall(piece)
        with suppress(OSError):
            target.shutdown(socket.SHUT_WR)


def storm(chance: random.Random, share: float) -> Callable[[], Fault]:
    """A fault at random for this share of all pieces."""
    faults = [fault for fault in Fault if fault is not Fault.NONE]
    return lambda: chance.choice(faults) if chance.random() < share else Fault.NONE


def _reset(one: socket.socket) -> None:
    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    with suppress(OSError):
        one.shutdown(socket.SHUT_RD)  # the other thread lets go of it: until then the kernel would not close it
    one.close()
