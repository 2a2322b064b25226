"""The whole product on this machine: a stand-in for Groq, the sidecar as a process of its own, and the real Envoy before it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from authz.settings import Settings, read_settings
from demo.envoy import Envoy
from demo.standin import StandIn

ROOT: Final = Path(__file__).resolve().parent.parent
SERVE: Final = ("-m", "authz", "serve")
READY_DEADLINE_S: Final = 60.0  # of a machine that has much else to do
POLL_S: Final = 0.02

# The key that the stand-in expects: made up, so that a leak of it can be looked for.
STAND_IN_KEY: Final = "gsk_demo_upstream_key_of_the_stand_in"


def wait_for(what: str, holds: Callable[[], bool], deadline_s: float = READY_DEADLINE_S) -> None:
    """Polls until `holds`. Raises `TimeoutError` naming `what`."""
    end = time.monotonic() + deadline_s
    while not holds():
        if time.monotonic() > end:
            raise TimeoutError(f"{what}: not within {deadline_s} s")
        time.sleep(POLL_S)


class Sidecar:
    """`authz serve` as a process of its own."""

    def __init__(self, config: Path, upstream_key: str, *, program: tuple[str, ...] = SERVE) -> None:
        self._config, self._key, self._program = config, upstream_key, program
        self.log_path: Final = config.parent / "sidecar.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Returns once it serves. Raises RuntimeError with the end of its log where it does not come up."""
        self.launch()
        self.wait()

    def launch(self) -> None:
        """Begins the process, and leaves it to come up beside others; `wait` follows."""
        environ = os.environ | {"GROQ_API_KEY": self._key}
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *self._program, "--config", str(self._config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environ,
            )

    def wait(self) -> None:
        """Until it serves; raises as `start` does."""
        process = self.process
        if process is None:
            raise RuntimeError("the sidecar is not started")
        each = read_settings(self._config).listen.each()
        paths = [path for listen in each for path in (listen.socket, listen.check_socket)]
        wait_for("the sidecar's sockets", lambda: all(map(listens, paths)) or process.poll() is not None)
        if process.poll() is not None:
            raise RuntimeError(f"the sidecar did not start: {self.log_path.read_text(errors='replace')[-2000:]}")

    def stop(self) -> int | None:
        """Ends it with SIGTERM, by its pid, and waits for its drain. Answers its exit code."""
        process, self.process = self.process, None
        if process is None:
            return None
        process.terminate()
        try:
            return process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            return process.wait()

    def kill(self) -> None:
        """Ends it at once, as a crash would."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait()


def listens(path: str) -> bool:
    """Whether somebody takes connections: a socket that a crash left behind is there and answers nobody."""
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(path)
        except OSError:
            return False
    return True


class Stack:
    """`with Stack(folder) as stack: … stack.url`: a client's base URL, with the real Envoy behind it.

    folder      short, since Unix sockets live in it and their paths may take 107 bytes
    change      edits the copy of the reference bundle before anything reads it
    groq_key    the real upstream's key: no stand-in is started then, and Envoy forwards to Groq
    settings    more lines of the settings · envoy: more fields of theirs under `envoy`
    keys        where the upstream keys are, as the settings say it
    tls         what clients speak to Envoy, as the settings say it; empty for plain text
    serving     more fields of the settings under `listen`; without a transport it is the one of AUTHZ_TRANSPORT
    """

    def __init__(
        self,
        folder: Path,
        *,
        change: Callable[[Path], None] | None = None,
        groq_key: str = "",
        listen: str = "127.0.0.1:0",
        settings: str = "",
        envoy: str = "",
        keys: str = "key_env: GROQ_API_KEY",
        tls: str = "",
        serving: str = "",
    ) -> None:
        self.folder: Final = folder
        self.config: Final = folder / "authz.yaml"
        self.records: Final = folder / "decisions.jsonl"
        self._change, self._groq_key, self._listen, self._extra = change, groq_key, listen, settings
        self._keys, self._envoy = keys, envoy
        self._tls = f"tls: {tls}" if tls else ""
        transport = os.environ.get("AUTHZ_TRANSPORT", "")
        if transport and "transport:" not in serving:
            serving = f"transport: {transport}, {serving}".removesuffix(", ")
        self._serving = f", {serving}" if serving else ""
        self._resources = ExitStack()
        self.groq = StandIn(STAND_IN_KEY)

    @property
    def url(self) -> str:
        """What an SDK takes as its base URL, without the `/openai/v1` that it adds (`groq`) or is given (`openai`)."""
        return self.envoy.url

    def command(self, *arguments: str) -> str:
        """Runs `authz …` as a user would and answers what it prints. Raises `CalledProcessError`."""
        done = subprocess.run(
            [sys.executable, "-m", "authz", *arguments, "--config", str(self.config)],
            check=True,
            capture_output=True,
            text=True,
        )
        return done.stdout

    def new_key(self, name: str) -> str:
        """Issues a secret for a key of the directory."""
        return self.command("keys", "create", name).strip()

    def lines(self) -> list[dict[str, Any]]:
        """The records so far, of decisions and of settlements. A line that is being written is not one yet."""
        text = self.records.read_text() if self.records.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    def wait_for_key_reload(self) -> None:
        """The sidecar reads issued keys twice a second; a second is what it promises."""
        time.sleep(1.0)

    def start(self) -> None:
        shutil.copytree(ROOT / "policies", self.folder / "policies")
        if self._change:
            self._change(self.folder / "policies")
        upstream = f"{{{self._keys}}}"
        if not self._groq_key:
            self.groq.start()
            self._resources.callback(self.groq.stop)
            upstream = f"{{{self._keys}, host: 127.0.0.1, port: {self.groq.port}, tls: false}}"
        front = ", ".join(filter(None, ("admin_socket: a.sock", self._envoy, self._tls)))
        self.config.write_text(
            "bundle: policies\n"
            "store: sqlite:///authz.db\n"
            "operator: olivia\n"
            f"upstream: {upstream}\n"
            f"listen: {{socket: s.sock, drain_s: 1.5{self._serving}}}\n"
            f"envoy: {{listen: '{self._listen}', {front}}}\n"
            "records: {file: decisions.jsonl}\n" + self._extra,
            encoding="utf-8",
        )
        self.settings: Settings = read_settings(self.config)
        self.sidecar = Sidecar(self.config, self._groq_key or STAND_IN_KEY)
        self.sidecar.start()
        self._resources.callback(lambda: self.sidecar.stop())
        self.envoy = Envoy(self.folder, self.command("envoy-config"), self.settings.envoy.admin_socket)
        self.envoy.start()
        self._resources.callback(self.envoy.stop)
        self.wait_until_healthy()

    def wait_until_healthy(self) -> None:
        """Until Envoy has seen the sidecar serve, on each of its sockets."""
        wait_for("a healthy sidecar", self.envoy.sees_sidecar)

    def stop(self) -> None:
        self._resources.close()

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()
