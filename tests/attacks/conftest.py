"""One running product for all attacks: the real Envoy, `authz serve` as a process, the stand-in for Groq."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from demo.stack import Stack
from tests.attacks.door import Door, for_attacks, free_port


@pytest.fixture(scope="session")
def _running() -> Iterator[Door]:
    metrics = free_port()
    with (
        tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as folder,  # short: Unix sockets live in it
        Stack(Path(folder), change=for_attacks, settings=f"metrics: {{listen: '127.0.0.1:{metrics}'}}\n") as stack,
    ):
        door = Door(stack, f"http://127.0.0.1:{metrics}/metrics")
        door.issue("chatbot-prod", "research-lab", "analytics-reports", "media", "media-poor", "ten", "crowd", "one-at-a-time")
        yield door
        door.close()


@pytest.fixture
def door(_running: Door) -> Iterator[Door]:
    yield _running
    _running.stack.groq.behave()
