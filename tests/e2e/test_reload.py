"""A policy changes while Envoy and the sidecar serve: the next request meets it, and a bad one hurts nobody."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import groq
import pytest

from demo.stack import wait_for
from tests.e2e.conftest import SMALL, Client

pytestmark = pytest.mark.xdist_group("e2e")

OPEN = "openai/gpt-oss-120b"
PERMIT = """@id("chatbot-too")
permit (principal in Team::"chatbot", action in Action::"infer", resource == Model::"openai/gpt-oss-120b");
"""


@pytest.fixture(scope="module")
def client(make_client: Callable[..., Client]) -> Client:
    made = make_client(lambda bundle: (bundle / "tests" / "models.yaml").unlink())
    made.issue("chatbot-prod")
    return made


def health(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(client.stack.command("health", "--json"))
    return found


def test_a_changed_policy_is_in_force_without_a_restart(client: Client) -> None:
    before = health(client)
    assert (before["status"], before["bundle"]["refused"]) == ("SERVING", "")
    with pytest.raises(groq.PermissionDeniedError):
        client.chat("chatbot-prod", OPEN)
    (client.stack.folder / "policies" / "more.cedar").write_text(PERMIT)
    wait_for("the new bundle", lambda: health(client)["bundle"]["digest"] != before["bundle"]["digest"])
    assert client.chat("chatbot-prod", OPEN).usage.total_tokens > 0
    digest = health(client)["bundle"]["digest"]
    wait_for(
        "its record",
        lambda: any((record["policies"], record["bundle"]) == (["chatbot-too"], digest) for record in client.records()),
    )


def test_a_bad_one_is_told_of_in_log_and_health_and_changes_nothing(client: Client) -> None:
    before = health(client)["bundle"]["digest"]
    more = client.stack.folder / "policies" / "more.cedar"
    more.write_text(PERMIT.replace("permit (", "permit (("))
    wait_for("the refusal", lambda: bool(health(client)["bundle"]["refused"]))
    after = health(client)
    assert (after["status"], after["bundle"]["digest"]) == ("SERVING", before)
    assert "more.cedar:2:9" in after["bundle"]["refused"]
    assert client.chat("chatbot-prod", SMALL).usage.total_tokens > 0
    lines = [json.loads(line) for line in client.stack.sidecar.log_path.read_text().splitlines()]
    (told,) = (line for line in lines if line.get("alert") == "bundle_refused")
    assert "more.cedar:2:9" in told["problem"]
    more.write_text(PERMIT)
    wait_for("the good one again", lambda: not health(client)["bundle"]["refused"])


def test_a_bundle_that_fails_its_own_case_does_not_even_start(client: Client) -> None:
    folder = client.stack.folder
    limits = folder / "policies" / "tests" / "limits.yaml"
    good = limits.read_text()
    limits.write_text(good.replace("expect: {effect: allow}", "expect: {effect: deny}"))
    wait_for("the refusal", lambda: bool(health(client)["bundle"]["refused"]))
    done = subprocess.run(
        [sys.executable, "-m", "authz", "serve", "--config", str(client.stack.config), "--socket", str(folder / "other.sock")],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "case `request 500 of the minute is allowed`: expected deny, got allow" in done.stderr
    limits.write_text(good)
