"""Several upstream keys behind the real Envoy: a refused one is passed over, a new one in its file is taken, none is shown."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import groq
import pytest

from demo.stack import STAND_IN_KEY, Stack, wait_for
from tests.e2e.conftest import Client

pytestmark = pytest.mark.xdist_group("e2e")

REFUSED = "gsk_canary_that_groq_does_not_know"


@pytest.fixture
def client() -> Iterator[Client]:
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as name:
        folder = Path(name)
        (folder / "one.key").write_text(REFUSED)
        (folder / "two.key").write_text(STAND_IN_KEY)
        keys = "keys: [{name: one, key_file: one.key}, {name: two, key_file: two.key}]"
        with Stack(folder, keys=keys) as stack:
            yield Client(stack)


def test_the_next_key_takes_over_and_no_key_is_shown(client: Client) -> None:
    client.issue("chatbot-prod")
    with pytest.raises(groq.AuthenticationError):
        client.chat("chatbot-prod")
    log = client.stack.sidecar.log_path
    wait_for("the alert", lambda: '"alert": "upstream_key_refused"' in log.read_text())
    assert client.chat("chatbot-prod").usage.total_tokens > 0

    (client.stack.folder / "one.key").write_text(STAND_IN_KEY)
    (client.stack.folder / "two.key").write_text(REFUSED)
    wait_for("the new keys", lambda: log.read_text().count("an upstream key was read again") == 2)
    assert client.chat("chatbot-prod").usage.total_tokens > 0
    client.wait_until_settled()
    told = [path for path in client.stack.folder.iterdir() if path.is_file() and path.suffix != ".key"]
    assert log in told
    assert client.stack.records in told
    for path in told:
        for secret in (REFUSED, STAND_IN_KEY, client.keys["chatbot-prod"]):
            assert secret.encode() not in path.read_bytes(), path
