"""A2 on TCP: who has no certificate of ours asks nothing, and nobody listens there without having been told to."""

from __future__ import annotations

import ssl
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import grpc
import httpx
import pytest

from authz.envoy.inspection import inspect
from authz.envoy.wire import check_pb2
from authz.errors import ConfigError
from authz.server import AUTHORIZATION
from authz.settings import read_settings
from demo.stack import Stack, wait_for
from tests.attacks.door import Door, chat, free_port
from tests.e2e.conftest import CHAT
from tests.identity.certificates import Authority

pytestmark = pytest.mark.xdist_group("attacks")


@contextmanager
def on_tcp() -> Iterator[tuple[Door, Path, str]]:
    """A stack whose Envoy asks over mTLS; the folder with the certificates, and the sidecar's address."""
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as name:
        folder, address = Path(name), f"127.0.0.1:{free_port()}"
        ours = Authority(folder, "ours")
        ours.server("sidecar", "127.0.0.1")
        ours.client("envoy", "spiffe://acme.example/envoy")
        theirs = Authority(folder, "theirs")
        theirs.client("mallory", "spiffe://acme.example/envoy")
        theirs.server("impostor", "127.0.0.1")
        with Stack(
            folder,
            serving=f"address: '{address}', tls: {{certificate: sidecar.crt, key: sidecar.key, client_ca: ours.pem}}",
            envoy="sidecar: {certificate: envoy.crt, key: envoy.key, ca: ours.pem}",
        ) as stack:
            door = Door(stack, "")
            try:
                yield door, folder, address
            finally:
                door.close()


def channel(address: str, folder: Path, ca: str, client: str) -> grpc.Channel:
    pair = [(folder / f"{client}.{end}").read_bytes() if client else None for end in ("key", "crt")]
    return grpc.secure_channel(address, grpc.ssl_channel_credentials((folder / ca).read_bytes(), *pair))


def ask(made: grpc.Channel) -> int:
    """The status of a denial: that an answer comes at all is what it is about."""
    with made:
        check: grpc.UnaryUnaryMultiCallable[bytes, bytes] = made.unary_unary(f"/{AUTHORIZATION}/Check")
        answer = check(check_pb2.CheckRequest().SerializeToString(), timeout=5)
    return int(check_pb2.CheckResponse.FromString(answer).denied_response.status.code)


def test_a2_on_tcp_only_a_certificate_of_our_authority_gets_in() -> None:
    with on_tcp() as (door, folder, address):
        door.issue("chatbot-prod")
        reply = httpx.post(door.stack.url + CHAT, json=chat(), headers=door.headers("chatbot-prod"), trust_env=False)
        assert reply.status_code == 200
        door.settled()  # what it used came back the same way
        assert inspect(folder / "envoy.yaml") == ()
        assert ask(channel(address, folder, "ours.pem", "envoy")) == 401
        for made in (
            channel(address, folder, "ours.pem", ""),
            channel(address, folder, "ours.pem", "mallory"),
            grpc.insecure_channel(address),
        ):
            with pytest.raises(grpc.RpcError) as caught:
                ask(made)
            assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
        old = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        old.load_verify_locations(folder / "ours.pem")
        with pytest.raises((ssl.SSLError, OSError, httpx.HTTPError)):
            httpx.get(f"https://{address}/", verify=old, trust_env=False)


def test_a2_on_tcp_envoy_takes_nobody_elses_sidecar_for_ours() -> None:
    """Somebody else on that address gets no request, with the client's key in it, to decide on."""
    with on_tcp() as (door, folder, address):
        door.issue("chatbot-prod")
        door.stack.sidecar.stop()
        pair = [(folder / f"impostor.{end}").read_bytes() for end in ("key", "crt")]
        credentials = grpc.ssl_server_credentials([(pair[0], pair[1])])
        heard: list[str] = []

        class Everything(grpc.GenericRpcHandler):
            def service(self, handler_call_details: grpc.HandlerCallDetails) -> None:
                heard.append(handler_call_details.method)

        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(2) as pool:
            impostor = grpc.server(pool, handlers=[Everything()])
            impostor.add_secure_port(address, credentials)
            impostor.start()
            try:
                wait_for("envoy's look", lambda: tried(door) > 0)
                reply = httpx.post(door.stack.url + CHAT, json=chat(), headers=door.headers("chatbot-prod"), trust_env=False)
                assert reply.status_code == 503
                assert heard == []
            finally:
                impostor.stop(0).wait()


def tried(door: Door) -> int:
    """How often Envoy turned its back on a certificate."""
    stats = door.stack.envoy.stats("cluster.sidecar.ssl.fail_verify")
    return sum(stats.values())


@pytest.mark.parametrize(
    ("listen", "envoy", "problem"),
    [
        ("address: '127.0.0.1:9191'", "", "listen.address: expected `tls` beside it, or `insecure: true`"),
        ("address: '127.0.0.1:9191', tls: {certificate: a, key: b}", "", "missing required field `client_ca`"),
        ("address: '127.0.0.1:9191', tls: {certificate: a, key: b, client_ca: c}, insecure: true", "", "expected `tls`"),
        ("address: '127.0.0.1:9191', tls: {certificate: a, key: b, client_ca: c}", "", "envoy.sidecar: expected where"),
        (
            "address: '127.0.0.1:9191', insecure: true",
            "sidecar: {certificate: a, key: b, ca: c}",
            "envoy.sidecar: expected where",
        ),
        ("address: '9191', insecure: true", "", "listen.address: expected a host and a port"),
        ("address: '127.0.0.1:0', insecure: true", "", "listen.address: expected a host and a port"),
        ("address: '127.0.0.1:9191', insecure: true, workers: 2", "", "listen.workers: expected 1"),
        ("insecure: true", "", "listen.insecure: expected an `address`"),
        ("tls: {certificate: a, key: b, client_ca: c}", "", "listen.tls: expected an `address`"),
    ],
)
def test_a2_on_tcp_nobody_listens_without_having_been_told_to(tmp_path: Path, listen: str, envoy: str, problem: str) -> None:
    config = tmp_path / "authz.yaml"
    config.write_text(f"listen: {{{listen}}}\n" + (f"envoy: {{{envoy}}}\n" if envoy else ""))
    with pytest.raises(ConfigError) as caught:
        read_settings(config)
    assert problem in caught.value.problem


def test_a2_on_tcp_told_so_everybody_is_let_in_and_the_log_says_it() -> None:
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as name:
        address = f"127.0.0.1:{free_port()}"
        with Stack(Path(name), serving=f"address: '{address}', insecure: true") as stack:
            assert ask(grpc.insecure_channel(address)) == 401
            assert "everybody who reaches this address is let in" in stack.sidecar.log_path.read_text()
