"""The same product with Check on grpcio: allowed, denied, streamed, listed and settled as on our own transport.

Everything else of the end-to-end tests runs over the default; `make test-grpcio` runs all of them over this one.
"""

from __future__ import annotations

from collections.abc import Callable

import groq
import pytest

from demo.stack import wait_for
from tests.e2e.conftest import Client

pytestmark = pytest.mark.xdist_group("e2e")


@pytest.fixture(scope="module", params=["grpcio", "native"])
def client(make_client: Callable[..., Client], request: pytest.FixtureRequest) -> Client:
    client = make_client(serving=f"transport: {request.param}")
    client.issue("chatbot-prod")
    return client


def test_both_transports_answer_and_settle_alike(client: Client) -> None:
    assert client.chat("chatbot-prod").choices
    assert len(client.chat("chatbot-prod", stream=True)) > 1
    with pytest.raises(groq.PermissionDeniedError, match="not available"):
        client.chat("chatbot-prod", "openai/gpt-oss-120b")
    with client.sdk("chatbot-prod") as sdk:
        assert "llama-3.1-8b-instant" in {model.id for model in sdk.models.list().data}
    wait_for("their records", lambda: len(client.records()) == 4)
    client.wait_until_settled()
    effects = [(record["effect"], record["reason"]) for record in client.records()]
    assert effects == [("allow", None), ("allow", None), ("deny", "model_not_available"), ("allow", None)]
    assert client.usage()["chatbot-prod"]["requests_today"] == 2
