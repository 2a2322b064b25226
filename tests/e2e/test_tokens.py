"""Tokens of an identity provider through the real Envoy, with its keys fetched over the network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import groq
import openai
import pytest

from demo.stack import wait_for
from tests.e2e.conftest import MESSAGES, SMALL, Client
from tests.identity.issuer import jwk, key_set, private_key, serving, sign

pytestmark = pytest.mark.xdist_group("e2e")

KEY = private_key("k1")
ISSUER = "https://id.example"


def token(**claims: Any) -> str:
    known = {"iss": ISSUER, "aud": "authz", "sub": "bo", "exp": int(time.time()) + 600, "groups": ["Bots", "Labs"]}
    return sign(known | claims, KEY)


@pytest.fixture(scope="module")
def client(make_client: Callable[..., Client]) -> Iterator[Client]:
    with serving(key_set(jwk("k1", KEY))) as server:

        def change(bundle: Path) -> None:
            path = bundle / "directory.yaml"
            path.write_text(
                path.read_text()
                + f"""
issuers:
  id:
    issuer: {ISSUER}
    jwks_uri: {server.url}
    audience: [authz]
    claims: {{groups: [groups]}}
    groups: {{Bots: {{teams: [chatbot]}}, Labs: {{teams: [research]}}}}
"""
            )

        made = make_client(change)
        wait_for("the issuer's keys", lambda: bool(server.paths))
        yield made
        assert server.paths == ["/keys"]


def ask(client: Client, credential: str, project: str | None = None) -> Any:
    url = client.stack.url + "/openai/v1"
    with openai.OpenAI(api_key=credential, base_url=url, project=project, max_retries=0) as sdk:
        return sdk.chat.completions.create(model=SMALL, messages=MESSAGES, max_tokens=16)


def test_a_user_chooses_a_team_and_the_upstream_hears_of_neither(client: Client) -> None:
    credential = token()
    assert ask(client, credential, "chatbot").usage.total_tokens > 0
    with pytest.raises(openai.BadRequestError, match="name one in `OpenAI-Project`"):
        ask(client, credential)
    with pytest.raises(openai.AuthenticationError):
        ask(client, credential, "analytics")
    client.wait_until_settled()
    records = [(record["principal"], record["team"], record["status"]) for record in client.records()]
    assert records == [('User::"bo"', "chatbot", 200), (None, None, 400), (None, None, 401)]
    (received,) = client.stack.groq.received()
    shown = str(received).lower()
    assert "openai-project" not in shown
    assert credential.rsplit(".", 1)[1].lower() not in shown


def test_a_token_that_does_not_hold_is_a_401(client: Client) -> None:
    for credential in (token(exp=1), token(aud="x"), token()[:-6], "a.b.c"):
        with pytest.raises(openai.AuthenticationError):
            ask(client, credential, "chatbot")
    with pytest.raises(groq.AuthenticationError), groq.Groq(api_key=token(exp=1), base_url=client.stack.url) as sdk:
        sdk.chat.completions.create(model=SMALL, messages=MESSAGES)
    logs = client.stack.sidecar.log_path.read_text() + client.stack.records.read_text()
    assert token().split(".")[0] not in logs
