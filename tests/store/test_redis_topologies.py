"""A real Sentinel, a real Cluster and real TLS: where the server is that answers for us, and when it moves."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from time import monotonic
from typing import Any

import pytest
import redis

from authz.errors import StoreUnavailable
from authz.model import Meter
from authz.quota.ledger import Held
from authz.store import Store, open_store
from tests.store.builders import NOW, TTL_NS, actual, charge, hold
from tests.store.redis_server import RedisServer, free_port

WAIT_S = 1.0
PATIENCE_S = 20


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


def until(holds: Callable[[], Any]) -> None:
    began, pause = monotonic(), threading.Event()
    while True:
        with suppress(redis.ConnectionError):  # who changes its role closes its connections
            if holds():
                return
        assert monotonic() - began < PATIENCE_S
        pause.wait(0.02)


def reserve(store: Store, name: str) -> bool:
    return isinstance(store.reserve(hold(charge(Meter.TOKENS, 1, 1_000), id=name), NOW), Held)


def live(store: Store, name: str) -> None:
    """A reservation from its beginning to its end."""
    assert reserve(store, name)
    assert store.settle(name, actual(tokens=1), NOW).changed
    assert store.balances() == store.replay()


def test_sentinel_and_a_fail_over(stack: ExitStack, tmp_path: Path) -> None:
    at_once = ("--repl-diskless-sync-delay", "0")
    primary = RedisServer(*at_once, port=free_port())
    stack.callback(primary.close)
    replica = RedisServer("--replicaof", "127.0.0.1", str(primary.port), *at_once, port=free_port())
    stack.callback(replica.close)
    # A sentinel asks for replicas every ten seconds: let it find this one the first time.
    until(lambda: replica.client.info("replication")["master_link_status"] == "up")
    configuration = tmp_path / "sentinel.conf"
    configuration.write_text(
        f"sentinel monitor main 127.0.0.1 {primary.port} 1\nsentinel down-after-milliseconds main 500\n"
        "sentinel failover-timeout main 2000\n"
    )
    sentinel = RedisServer(first=(str(configuration), "--sentinel"), port=free_port())
    stack.callback(sentinel.close)
    silent = free_port()  # a sentinel that is gone does not matter
    store = open_store(f"redis+sentinel://127.0.0.1:{silent},127.0.0.1:{sentinel.port}/main", wait_s=WAIT_S)
    stack.callback(store.close)
    live(store, "before")
    with pytest.raises(StoreUnavailable, match=r"^redis: no sentinel knows `other`$"):
        open_store(f"redis+sentinel://127.0.0.1:{sentinel.port}/other", wait_s=WAIT_S)

    until(lambda: sentinel.client.sentinel_master("main")["num-slaves"] == 1)
    written = primary.client.info("replication")["master_repl_offset"]
    until(lambda: replica.client.info("replication")["slave_repl_offset"] >= written)
    until(lambda: _fails_over(sentinel))
    switched = [b"127.0.0.1", str(replica.port).encode()]
    until(lambda: sentinel.client.execute_command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", "main") == switched)
    primary.client.replicaof("127.0.0.1", str(replica.port))  # the sentinel would do it within ten seconds

    # What was connected to the old primary hears that it is read-only, asks the sentinel and goes on where the data is.
    until(lambda: _admitted(store, "after"))
    assert store.find("before") is not None
    assert replica.client.exists(*replica.client.keys("*:heads"))
    live(store, "then")


def _fails_over(sentinel: RedisServer) -> bool:
    try:
        return bool(sentinel.client.execute_command("SENTINEL", "FAILOVER", "main"))
    except redis.ResponseError as error:
        assert "NOGOODSLAVE" in str(error)  # noqa: PT017  # it has not looked at the replica yet
        return False


def _admitted(store: Store, name: str) -> bool:
    try:
        return reserve(store, name)
    except StoreUnavailable as error:
        reasons = ("read-only", "its data is gone", "timed out", "connection refused")
        assert str(error).removeprefix("redis: ") in reasons  # noqa: PT017
        return False


def test_cluster_and_a_slot_that_moves(stack: ExitStack) -> None:
    nodes = []
    for _ in range(3):
        node = RedisServer("--cluster-enabled", "yes", "--cluster-port", str(free_port()), port=free_port())
        stack.callback(node.close)
        nodes.append(node)
    for at, node in enumerate(nodes):
        node.client.execute_command("CLUSTER", "ADDSLOTSRANGE", at * 5462, min(at * 5462 + 5461, 16_383))
        node.client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", at + 1)  # else they have to agree on who knows better
        bus = nodes[0].client.config_get("cluster-port")["cluster-port"]
        node.client.execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[0].port, bus)
    until(lambda: all(_is_whole(node) for node in nodes))

    uri = f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{nodes[1].port}"
    stores = {name: open_store(f"{uri}?organisation={name}", wait_s=WAIT_S) for name in "abcdefgh"}
    for name, store in stores.items():
        stack.callback(store.close)
        live(store, name)
        assert list(store.balances()) == ["tokens"]
        store.raise_limit("r", charge(Meter.SPEND, 0, 5), 1, "ann", "why", NOW)
        assert store.expire(NOW, 10) == ()
        assert store.prune(NOW, 1_000 * TTL_NS, 10) == 0
    keys = [node.client.keys("*:heads") for node in nodes]
    assert sum(map(len, keys)) == 8
    assert all(keys)  # the organisations are spread over the nodes

    # Everything of one organisation moves to another node.
    source, target = nodes[0], nodes[1]
    tag = keys[0][0].decode().rpartition(":")[0]
    slot = source.client.execute_command("CLUSTER", "KEYSLOT", tag)
    ids = {node: node.client.execute_command("CLUSTER", "MYID").decode() for node in nodes}
    target.client.execute_command("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[source])
    source.client.execute_command("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
    moving = source.client.execute_command("CLUSTER", "GETKEYSINSLOT", slot, 1_000)
    source.client.execute_command("MIGRATE", "127.0.0.1", target.port, "", 0, 5_000, "KEYS", *moving)
    for node in (target, source, nodes[2]):
        node.client.execute_command("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
    for name, store in stores.items():
        assert store.find(name) is not None
        live(store, f"{name}2")


def _is_whole(node: RedisServer) -> bool:
    state = node.client.cluster("info")
    return bool(state["cluster_state"] == "ok" and state["cluster_known_nodes"] == "3")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """For the loopback address, signed by itself."""
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1"),
            *("-subj", "/CN=redis", "-addext", "subjectAltName=IP:127.0.0.1"),
            *("-keyout", str(tmp_path / "key.pem"), "-out", str(tmp_path / "cert.pem")),
        ],
        check=True,
        capture_output=True,
    )
    return tmp_path / "cert.pem"


def test_tls(stack: ExitStack, certificate: Path) -> None:
    port, key = free_port(), certificate.with_name("key.pem")
    try:
        server = RedisServer(
            *("--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)),
            *("--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no", "--requirepass", "s3cret"),
            wait=False,
        )
        stack.callback(server.close)
        until(lambda: _answers(server))
    except AssertionError:
        pytest.skip("this redis-server was built without TLS")
    at = f"127.0.0.1:{port}"
    store = open_store(f"rediss://:s3cret@{at}?ca_file={certificate}", wait_s=WAIT_S)
    stack.callback(store.close)
    live(store, "a")
    with pytest.raises(StoreUnavailable, match=r"^redis: its certificate is not trusted: self-signed certificate$"):
        open_store(f"rediss://:s3cret@{at}", wait_s=WAIT_S)
    with pytest.raises(StoreUnavailable, match=r"^redis: its certificate is not trusted: .*(host|IP)"):
        open_store(f"rediss://:s3cret@localhost:{port}?ca_file={certificate}", wait_s=WAIT_S)
    with pytest.raises(StoreUnavailable, match=r"^redis: (connection lost|connection reset by peer)"):
        open_store(f"redis://:s3cret@{at}", wait_s=WAIT_S)


def _answers(server: RedisServer) -> bool:
    try:
        server.client.ping()
    except redis.AuthenticationError:
        return True
    except redis.ConnectionError:
        return False
    return True
