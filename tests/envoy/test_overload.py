"""Uploads from a crowd without a key do not take all the memory there is."""

from __future__ import annotations

import socket
from contextlib import ExitStack
from pathlib import Path

import pytest

from authz.envoy.bootstrap import MIN_HEAP_BYTES
from demo.stack import wait_for
from tests.envoy.front import Front, front

pytestmark = pytest.mark.xdist_group("real-envoy-overload")

MIB = 1024 * 1024
HEAD = b"POST /openai/v1/audio/transcriptions HTTP/1.1\r\nHost: a\r\nContent-Length: 25000000\r\n\r\n"


def begin_upload(it: Front, stack: ExitStack) -> None:
    """Sends most of a body and never the end of it."""
    connection = stack.enter_context(socket.create_connection(("127.0.0.1", it.envoy.port), timeout=5))
    try:
        connection.sendall(HEAD)
        for _ in range(15):
            connection.sendall(bytes(MIB))
    except OSError:
        return  # refused: there was no room any more


def test_a_crowd_of_uploads_meets_503_and_the_next_are_served_again(tmp_path: Path) -> None:
    with front(tmp_path, max_heap_bytes=MIN_HEAP_BYTES) as it:
        assert it.chat().status_code == 200
        with ExitStack() as crowd:
            for _ in range(2 * MIN_HEAP_BYTES // (15 * MIB)):
                begin_upload(it, crowd)
            wait_for("no room", lambda: it.chat().status_code == 503)
            response = it.chat()
            assert response.json()["error"]["type"] == "server_error"
        wait_for("room again", lambda: it.chat().status_code == 200)
