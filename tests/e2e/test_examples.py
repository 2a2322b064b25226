"""`examples/`, each as its reader would run it: a process of its own before the stand-in, on the store of a running sidecar."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from demo.stack import ROOT, STAND_IN_KEY, wait_for
from tests.e2e.conftest import Client

EXAMPLES: Final = ROOT / "examples"
SENTENCE: Final = "the quick brown fox"
DENIED: Final = "openai/gpt-oss-120b"
FORBIDDEN: Final = "not available"

NEEDS: Final[dict[str, tuple[str, ...]]] = {
    "envoy_client.py": ("AUTHZ_URL",),
    "grpc_client.py": ("AUTHZ_SOCKET", "GROQ_URL"),
    "library_threads.py": ("AUTHZ_CONFIG", "GROQ_API_KEY"),
    "library_tasks.py": ("AUTHZ_CONFIG", "GROQ_API_KEY"),
    "sdk_groq.py": ("AUTHZ_CONFIG", "GROQ_API_KEY"),
    "sdk_openai.py": ("AUTHZ_CONFIG", "GROQ_API_KEY"),
    "gateway_asgi.py": ("AUTHZ_CONFIG", "GROQ_API_KEY"),
}
"""What of its environment each has. An in-process door needs the upstream key, and no other does."""

GATEWAY: Final = "gateway_asgi.py"
ALLOWED: Final = {"envoy_client.py": 2, "sdk_groq.py": 2, "sdk_openai.py": 2, "library_tasks.py": 2}
"""How many answers each gets; one where it does not say."""


@pytest.fixture(scope="module")
def client(make_client: Callable[..., Client]) -> Client:
    found = make_client()
    found.issue("chatbot-prod")
    return found


def environment(client: Client, name: str) -> dict[str, str]:
    stack = client.stack
    known = {
        "AUTHZ_URL": stack.url,
        "AUTHZ_SOCKET": stack.settings.listen.socket,
        "AUTHZ_CONFIG": str(stack.config),
        "GROQ_API_KEY": STAND_IN_KEY,
        "GROQ_URL": stack.settings.upstream.url,
    }
    return {"AUTHZ_KEY": client.keys["chatbot-prod"], "PATH": os.environ["PATH"]} | {each: known[each] for each in NEEDS[name]}


def run(client: Client, name: str) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", str(EXAMPLES / name)],
        env=environment(client, name),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("name", [name for name in NEEDS if name != GATEWAY])
def test_an_example_gets_its_answers_and_its_denial_and_what_it_used_is_posted(client: Client, name: str) -> None:
    said = checked(client, ALLOWED.get(name, 1), lambda: run(client, name))
    assert len(re.findall(SENTENCE, said)) == ALLOWED.get(name, 1), said
    assert FORBIDDEN in said


def test_the_gateway_is_authorised_for_a_client_that_knows_nothing_of_it(client: Client) -> None:
    with gateway(client) as url:
        as_client = environment(client, "envoy_client.py") | {"AUTHZ_URL": url}

        def ask() -> str:
            command = [sys.executable, "-W", "error", str(EXAMPLES / "envoy_client.py")]
            return subprocess.check_output(command, env=as_client, text=True, timeout=60)

        said = checked(client, 2, ask)
    assert len(re.findall(SENTENCE, said)) == 2, said
    assert FORBIDDEN in said


def checked(client: Client, allowed: int, act: Callable[[], str]) -> str:
    """Acts, and looks at what came of it: the records, the upstream's own counts, and the key that it got."""
    decisions, received = len(client.records()), len(client.stack.groq.received())
    said = act()
    client.wait_until_settled()
    wait_for("the records", lambda: len(client.records()) > decisions + allowed)  # not all of them came through Envoy
    records = client.records()[decisions:]
    assert sorted(record["effect"] for record in records) == [*["allow"] * allowed, "deny"]
    assert {record["principal"] for record in records} == {'Key::"chatbot-prod"'}
    (denial,) = (record for record in records if record["effect"] == "deny")
    assert (denial["models"], denial["reason"]) == ([DENIED], "model_not_available")
    calls = client.stack.groq.received()[received:]
    assert {call.header("authorization") for call in calls} == {(f"Bearer {STAND_IN_KEY}",)}
    counted = [(call.usage.prompt_tokens, call.usage.completion_tokens) for call in calls if call.usage is not None]
    reservations = {record["reservation_id"] for record in records}
    wait_for("the records of their ends", lambda: len(settled(client, reservations)) == allowed)
    assert sorted(settled(client, reservations)) == sorted(counted)
    assert len(counted) == allowed
    return said


def settled(client: Client, reservations: set[str]) -> list[tuple[int, int]]:
    return [
        (line["usage"]["input_tokens"], line["usage"]["output_tokens"])
        for line in client.stack.lines()
        if line["kind"] == "settlement" and line["reservation_id"] in reservations
    ]


@contextmanager
def gateway(client: Client) -> Iterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environ = environment(client, GATEWAY) | {"PORT": str(port)}
    log = client.stack.folder / "gateway.log"
    with log.open("wb") as output:
        process = subprocess.Popen([sys.executable, str(EXAMPLES / GATEWAY)], env=environ, stdout=output, stderr=output)
    try:
        wait_for("the gateway", lambda: process.poll() is not None or listens(port))
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(20)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def test_every_example_is_tried_and_stands_in_the_table() -> None:
    found = {path.name for path in EXAMPLES.glob("*.py")}
    assert found == set(NEEDS)
    table = (EXAMPLES / "README.md").read_text()
    for name in found:
        assert f"({name})" in table
    assert {Path(name).suffix for name in re.findall(r"\]\(([^)]+)\)", table)} == {".py"}
