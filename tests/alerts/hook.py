"""A webhook's receiver on loopback that a test can make fail."""

from __future__ import annotations

import json
import socket
import struct
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hook:
    """Answers with 204, unless `answers` holds something else to do next: a status, `hang`, `reset`, `drip` or `redirect`.

    got  the bodies that came, whatever was answered
    """

    def __init__(self) -> None:
        self.got: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.answers: deque[int | str] = deque()
        self.leave = threading.Event()
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                hook.got.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
                hook.headers.append({name.lower(): value for name, value in self.headers.items()})
                hook.answer(self)

            def log_message(self, format: str, *args: Any) -> None:
                """A test's output is its own."""

        class Server(ThreadingHTTPServer):
            request_queue_size = 64  # the 5 of the library would lose some of a batch

        self._server = Server(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()
        self.port = self._server.server_address[1]

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/services/made-up-secret"

    def close(self) -> None:
        self.leave.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        what = self.answers.popleft() if self.answers else 204
        if what == "hang":
            self.leave.wait(30)
            handler.close_connection = True
        elif what == "reset":
            # Closed with linger 0, a socket sends RST and not FIN.
            handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            handler.connection.close()
        elif what == "drip":
            # Never silent for long, and never done: only a deadline for the whole ends this.
            handler.wfile.write(b"HTTP/1.1 200 OK\r\n")
            while not self.leave.wait(0.02):
                try:
                    handler.wfile.write(b"x-more: 1\r\n")
                except OSError:
                    return
        elif what == "redirect":
            handler.send_response(307)
            handler.send_header("location", self.url + "/elsewhere")
            handler.send_header("content-length", "0")
            handler.end_headers()
        else:
            handler.send_response(int(what))
            if what == 429:
                handler.send_header("retry-after", "77")
            handler.send_header("content-length", "0")
            handler.end_headers()
