"""Clients with certificates: the real Envoy verifies them, and the identity in them stands for its key of the directory."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest

from authz.envoy.bootstrap import EnvoyOptions, Tls, render
from demo.envoy import Envoy
from demo.stack import Stack, wait_for
from tests.e2e.conftest import CHAT, MESSAGES, SMALL, Client
from tests.identity.certificates import Authority

pytestmark = pytest.mark.xdist_group("e2e")

CHATBOT = "spiffe://acme.example/ns/prod/sa/chatbot"

Pair = tuple[Path, Path]


class Office(NamedTuple):
    """A stack that speaks TLS, and who signs certificates: ours, another authority, and ours for another trust domain."""

    client: Client
    ours: Authority
    other: Authority


@pytest.fixture(scope="module")
def office() -> Iterator[Office]:
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as name:
        folder = Path(name)
        ours, other = Authority(folder, "ours"), Authority(folder, "other")
        ours.server("envoy", "127.0.0.1")

        def change(bundle: Path) -> None:
            for case in (bundle / "tests").glob("*.yaml"):
                case.unlink()  # they ask as a key that a test disables
            path = bundle / "directory.yaml"
            old = "chatbot-prod: {team: chatbot, "
            assert old in path.read_text()
            path.write_text(path.read_text().replace(old, f'{old}spiffe: ["{CHATBOT}"], '))

        tls = "{certificate: envoy.crt, key: envoy.key, client_ca: ours.pem, trust_domain: acme.example}"
        with Stack(folder, change=change, tls=tls) as stack:
            client = Client(stack)
            client.issue("research-lab")
            yield Office(client, ours, other)


def ask(office: Office, pair: Pair | None = None, **headers: str) -> httpx.Response:
    context = ssl.create_default_context(cafile=str(office.ours.ca_file))
    if pair is not None:
        context.load_cert_chain(*map(str, pair))
    url = office.client.stack.url.replace("http://", "https://")
    body = {"model": SMALL, "messages": MESSAGES, "max_tokens": 16}
    with httpx.Client(verify=context, base_url=url, timeout=10, trust_env=False) as http:
        return http.post(CHAT, json=body, headers={name.replace("_", "-"): value for name, value in headers.items()})


def test_a_certificate_is_its_key_and_nothing_else_is_needed(office: Office) -> None:
    before = len(office.client.records())
    assert ask(office, office.ours.client("chatbot", CHATBOT)).status_code == 200
    wait_for("a record", lambda: len(office.client.records()) > before)
    record = office.client.records()[-1]
    assert (record["principal"], record["team"]) == ('Key::"chatbot-prod"', "chatbot")


def test_nobody_gets_in_without_a_certificate(office: Office) -> None:
    with pytest.raises(httpx.TransportError):
        ask(office, authorization=f"Bearer {office.client.keys['research-lab']}")


def test_nothing_that_a_client_says_is_taken_for_a_certificate(office: Office) -> None:
    pair = office.ours.client("somebody", "spiffe://acme.example/somebody")
    assert ask(office, pair, x_forwarded_client_cert=f"URI={CHATBOT}", x_spiffe_id=CHATBOT).status_code == 401


def test_clients_without_one_use_another_envoy_before_the_same_sidecar(office: Office) -> None:
    folder = office.client.stack.folder
    options = EnvoyOptions(
        listen="127.0.0.1:0",
        admin_socket=str(folder / "b.sock"),
        sidecar_sockets=(office.client.stack.settings.listen.check_socket,),
        tls=Tls(str(folder / "envoy.crt"), str(folder / "envoy.key")),
        access_log="/dev/null",
    )
    (folder / "second").mkdir()
    with Envoy(folder / "second", render(options), options.admin_socket) as envoy:
        wait_for("a healthy sidecar", envoy.sees_sidecar)
        context = ssl.create_default_context(cafile=str(office.ours.ca_file))
        context.load_cert_chain(*map(str, office.ours.client("unasked", CHATBOT)))
        url, key = envoy.url.replace("http://", "https://"), office.client.keys["research-lab"]
        with httpx.Client(verify=context, base_url=url, trust_env=False) as http:
            assert http.get("/openai/v1/models").status_code == 401, "a certificate that nobody asks for is nobody's"
            assert http.get("/openai/v1/models", headers={"authorization": f"Bearer {key}"}).status_code == 200


def test_a_credential_beside_a_certificate_is_what_counts(office: Office) -> None:
    """A58: neither mends nor widens the other."""
    pair = office.ours.client("beside", CHATBOT)
    assert ask(office, pair, authorization="Bearer x").status_code == 401
    key = f"Bearer {office.client.keys['research-lab']}"
    assert ask(office, pair, authorization=key).json()["error"]["code"] == "model_not_available"


def test_who_is_verified_and_unknown_is_a_401(office: Office) -> None:
    for number, uris in enumerate(((f"{CHATBOT}/x",), ("spiffe://acme.example/ns/dev/sa/chatbot", CHATBOT))):
        assert ask(office, office.ours.client(f"unknown{number}", *uris)).status_code == 401


REFUSED: dict[str, Callable[[Office], Pair]] = {
    "another authority": lambda office: office.other.client("foreign", CHATBOT),
    "another trust domain": lambda office: office.ours.client("domain", "spiffe://evil.example/ns/prod/sa/chatbot"),
    "the identity as a DNS name": lambda office: office.ours.client("dns", dns=CHATBOT),
    "another identity before it": lambda office: office.ours.client("two", "spiffe://evil.example/a", CHATBOT),
    "another spelling": lambda office: office.ours.client("upper", CHATBOT.upper()),
    "no identity": lambda office: office.ours.client("none"),
    "expired": lambda office: office.ours.client("ended", CHATBOT, ended=True),
}


@pytest.mark.parametrize("what", REFUSED)
def test_a_certificate_that_does_not_hold_ends_the_handshake(office: Office, what: str) -> None:
    """What Envoy does not accept never becomes a request: a good certificate of another kind cannot stand for a key."""
    before = len(office.client.records())
    with pytest.raises((httpx.TransportError, ssl.SSLError)):
        ask(office, REFUSED[what](office))
    assert len(office.client.records()) == before


def test_a_key_that_is_disabled_in_the_directory_is_so_for_its_certificate(office: Office) -> None:
    pair = office.ours.client("disabled", CHATBOT)
    assert ask(office, pair).status_code == 200
    path = office.client.stack.folder / "policies/directory.yaml"
    kept = path.read_text()
    path.write_text(kept.replace("chatbot-prod: {", "chatbot-prod: {disabled: true, "))
    try:
        wait_for("the reload", lambda: ask(office, pair).status_code == 401)
    finally:
        path.write_text(kept)
        wait_for("the reload back", lambda: ask(office, pair).status_code == 200)
