"""Keys rotate and are revoked under constant traffic through the real Envoy."""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from authz.identity.keys import digest
from demo.stack import wait_for
from tests.e2e.conftest import CHAT, MESSAGES, Client
from tests.e2e.traffic import Traffic

pytestmark = pytest.mark.xdist_group("e2e")

LARGE = "llama-3.3-70b-versatile"
ROTATIONS = 3
REVOKED_WITHIN_S = 1.0


class Answers(Traffic):
    """Each asks with the secret that was given last; a new one is taken up as it comes."""

    def __init__(self, client: Client, secret: str) -> None:
        super().__init__(client)
        self.secret = secret
        self.answers: list[tuple[str, int, str]] = []

    def ask_once(self, http: httpx.Client) -> None:
        secret = self.secret
        answer = ask(http, secret)
        self.answers.append((secret, answer.status_code, answer.headers.get("x-authz-key-expires", "")))


def ask(http: httpx.Client, secret: str) -> httpx.Response:
    body: dict[str, Any] = {"model": LARGE, "messages": MESSAGES, "max_tokens": 16}
    return http.post(CHAT, json=body, headers={"authorization": f"Bearer {secret}"})


@pytest.fixture(scope="module")
def client(make_client: Callable[..., Client]) -> Client:
    return make_client()


def test_no_request_fails_while_keys_rotate(client: Client) -> None:
    first = client.stack.new_key("research-lab")
    client.stack.wait_for_key_reload()
    secrets = [first]
    with Answers(client, first) as traffic:
        for _ in range(ROTATIONS):
            new = client.stack.command("keys", "rotate", digest(secrets[-1]), "--overlap", "1h").strip()
            seen = len(traffic.answers)
            # The old one goes on while clients are told one by one: it warns as soon as the sidecar knows of the rotation.
            wait_for("a warning", lambda old=secrets[-1], seen=seen: any(a[0] == old and a[2] for a in traffic.answers[seen:]))  # type: ignore[misc]
            secrets.append(new)
            traffic.secret = new
            wait_for("its use", lambda new=new: sum(answer[0] == new for answer in traffic.answers) > 20)  # type: ignore[misc]
    assert {status for _, status, _ in traffic.answers} == {200}
    assert {secret for secret, _, _ in traffic.answers} == set(secrets)
    assert not any(warned for secret, _, warned in traffic.answers if secret == secrets[-1])
    client.wait_until_settled()
    assert {record["principal"] for record in client.records()} == {'Key::"research-lab"'}
    usage = client.usage()
    assert list(usage) == ["research-lab"], "one identity, one history"
    assert usage["research-lab"]["requests_today"] == len(traffic.answers)


def test_a_revoked_secret_is_refused_within_a_second(client: Client) -> None:
    secret = client.stack.new_key("research-lab")
    client.stack.wait_for_key_reload()
    with httpx.Client(base_url=client.stack.url, timeout=10) as http:
        assert ask(http, secret).status_code == 200
        client.stack.command("keys", "revoke", digest(secret))
        revoked = time.monotonic()
        for _ in itertools.count():
            if ask(http, secret).status_code == 401:
                break
            assert time.monotonic() - revoked < REVOKED_WITHIN_S
    lines = client.stack.sidecar.log_path.read_text() + client.stack.records.read_text()
    assert secret not in lines
    assert digest(secret) not in lines
