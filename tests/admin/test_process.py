"""`authz serve` as it is run: the page beside the sidecar's socket, and an end that no open page holds up."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from demo.stack import wait_for
from tests.admin.house import SECRETS, settings_of
from tests.place import lay_out
from tests.telemetry.test_metrics import free_port


@contextmanager
def sidecar(config: Path) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "authz", "serve", "--config", str(config)]
    log = (config.parent / "log").open("wb")
    process = subprocess.Popen(command, stderr=log, env=os.environ | {"GROQ_API_KEY": "gsk_made_up_for_tests"})
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()


def answers(url: str) -> bool:
    try:
        return httpx.get(url).status_code == 200
    except httpx.TransportError:
        return False


def test_served_beside_the_socket_and_gone_with_it() -> None:
    port = free_port()
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as folder:  # a Unix socket's path is short
        config = lay_out(Path(folder), settings_of(port) + "listen: {socket: a.sock, drain_s: 0.1, grace_s: 0.5}\n")
        with sidecar(config) as process, httpx.Client(headers={"authorization": f"Bearer {SECRETS['olivia']}"}) as client:
            url = f"http://127.0.0.1:{port}"
            wait_for("the page", lambda: answers(f"{url}/signin"))
            assert client.get(f"{url}/api/me").json()["who"] == 'User::"olivia"'
            watch = client.send(client.build_request("GET", f"{url}/api/decisions/live"), stream=True)
            process.send_signal(signal.SIGTERM)
            assert process.wait(20) == 0
            watch.close()
        log = (Path(folder) / "log").read_text()
        assert "the admin page is served" in log
        assert "Traceback" not in log
        assert not any(secret in log for secret in SECRETS.values())


def test_an_address_that_is_not_ours_alone_is_refused_in_one_line() -> None:
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as folder:
        config = lay_out(Path(folder), "admin: {listen: '0.0.0.0:9901'}\n")
        command = [sys.executable, "-m", "authz", "serve", "--config", str(config)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        assert done.returncode == 2
        assert "admin.listen: expected a loopback address and port" in done.stderr
