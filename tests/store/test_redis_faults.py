"""What a Redis does to the shared store (A79): denied with a reason, nothing half done, and well again by itself."""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Iterator
from contextlib import AbstractContextManager
from time import monotonic

import pytest
from redis import exceptions as failures

from authz.errors import ConfigError, StoreUnavailable
from authz.model import MAX_AMOUNT, Meter
from authz.quota.ledger import Held, Hold
from authz.store import Store, open_store
from authz.store.redis import RedisStore, connection, parse_uri
from tests.store.builders import NOW, actual, charge, hold
from tests.store.redis_server import AOF, RedisServer, free_port

WAIT_S = 0.5


def some() -> Hold:
    return hold(charge(Meter.TOKENS, 1, 10_000))


def unavailable(reason: str) -> AbstractContextManager[object]:
    return pytest.raises(StoreUnavailable, match=rf"^redis: {reason}$")


def check_refuses(store: Store, reason: str) -> None:
    """Refused with a reason, for every kind of write, and nothing is half done."""
    before = store.balances()
    for write in (
        lambda: store.reserve(some(), NOW),
        lambda: store.settle("kept", actual(tokens=1), NOW),
        lambda: store.void("kept", NOW),
        lambda: store.raise_limit("r", charge(Meter.SPEND, 0, 5), 1, "ann", "why", NOW),
    ):
        with unavailable(reason):
            write()
    assert store.balances() == store.replay() == before
    assert store.raises(0) == ()


def check_works(store: Store) -> None:
    before = store.balances()
    assert isinstance(store.reserve(some(), NOW), Held)
    assert store.balances() == store.replay() != before


@pytest.fixture(scope="module")
def module_server() -> Iterator[RedisServer]:
    server = RedisServer("--enable-debug-command", "local")
    yield server
    server.close()


@pytest.fixture
def server(module_server: RedisServer) -> RedisServer:
    """Empty, and not to be killed."""
    module_server.client.flushall()
    return module_server


@pytest.fixture
def mortal() -> Iterator[RedisServer]:
    server = RedisServer(*AOF)
    yield server
    server.close()


@pytest.fixture
def store(server: RedisServer) -> Iterator[Store]:
    store = open_store(server.uri, wait_s=WAIT_S)
    store.reserve(hold(charge(Meter.TOKENS, 1, 10_000), id="kept"), NOW)
    yield store
    store.close()


def test_scripts_that_are_forgotten_are_given_again(server: RedisServer, store: Store) -> None:
    for _ in range(3):
        server.client.script_flush()
        check_works(store)
    server.client.config_resetstat()
    check_works(store)
    assert "cmdstat_eval" not in server.client.info("commandstats")  # the text does not travel each time


def test_read_only(server: RedisServer, store: Store) -> None:
    server.client.replicaof("127.0.0.1", str(free_port()))
    check_refuses(store, "read-only")
    server.client.replicaof("NO", "ONE")
    check_works(store)


def test_out_of_memory(server: RedisServer, store: Store) -> None:
    server.client.config_set("maxmemory", 1)
    check_refuses(store, "out of memory")
    assert store.find("kept") is not None  # reading goes on
    server.client.config_set("maxmemory", 0)
    check_works(store)


def test_too_few_replicas(server: RedisServer, store: Store) -> None:
    server.client.config_set("min-replicas-to-write", 1)
    check_refuses(store, "too few replicas")
    server.client.config_set("min-replicas-to-write", 0)
    check_works(store)


def test_a_server_that_does_nothing_for_a_while(server: RedisServer, store: Store) -> None:
    hurried = open_store(server.uri, wait_s=0.1)
    sleeper = threading.Thread(target=server.client.execute_command, args=("DEBUG", "SLEEP", "1"))
    sleeper.start()
    began = monotonic()
    reasons: set[str] = set()
    while sleeper.is_alive() and not reasons:
        try:
            hurried.reserve(some(), NOW)
            began = monotonic()  # it was not yet asleep
        except StoreUnavailable as error:
            reasons.add(str(error))
    assert reasons == {"redis: timed out"}
    assert monotonic() - began < 0.5
    sleeper.join()
    check_works(hurried)
    hurried.close()


def test_gone_and_back(mortal: RedisServer) -> None:
    store = open_store(mortal.uri, wait_s=WAIT_S)
    store.reserve(hold(charge(Meter.TOKENS, 1, 10_000), id="kept"), NOW)
    for _ in range(2):
        mortal.kill()
        for write in (lambda: store.reserve(some(), NOW), lambda: store.void("kept", NOW), lambda: store.find("kept")):
            with unavailable("(connection refused|connection lost)"):
                write()
        mortal.start()
        assert store.find("kept") is not None
        check_works(store)
    store.close()


def test_loading_its_data(mortal: RedisServer) -> None:
    store = open_store(mortal.uri, wait_s=WAIT_S)
    for number in range(2_000):
        mortal.client.set(f"theirs{number}", "x")
    mortal.kill()
    mortal.start("--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024", wait=False)
    reasons: set[str] = set()
    while not isinstance(admitted_or_reason := _try(store), Held):
        reasons.add(admitted_or_reason)
    # Before that it has not yet made its socket anew.
    reasons -= {"redis: connection refused", "redis: no such file or directory", "redis: timed out"}
    assert reasons == {"redis: loading its data"}
    store.close()


def _try(store: Store) -> Held | str:
    try:
        held = store.reserve(some(), NOW)
    except StoreUnavailable as error:
        return str(error)
    assert isinstance(held, Held)
    return held


def test_a_server_that_comes_back_empty_admits_nobody() -> None:
    """With an empty store everybody would have the whole of every budget once more."""
    forgetful = RedisServer()
    store = open_store(forgetful.uri, wait_s=WAIT_S)
    check_works(store)
    forgetful.kill()
    forgetful.start()
    for _ in range(2):
        with unavailable("its data is gone"):
            store.reserve(some(), NOW)
    again = open_store(forgetful.uri, wait_s=WAIT_S)  # whoever starts anew has been told
    check_works(again)
    check_works(store)
    store.close()
    again.close()
    forgetful.close()


def test_nobody_there() -> None:
    with unavailable("connection refused"):
        open_store(f"redis://127.0.0.1:{free_port()}", wait_s=WAIT_S)
    with unavailable("no such file or directory"):
        open_store("unix:///nowhere/redis.sock", wait_s=WAIT_S)


def test_logins_and_permissions(server: RedisServer) -> None:
    """What the scripts need and no more."""
    client = server.client
    client.execute_command(
        *("ACL", "SETUSER", "app", "reset", "on", ">s3cret/@:", "~authz:*"),
        *("+@hash", "+@sortedset", "+@list", "+@set", "+evalsha", "+eval", "+time", "+select"),
    )
    client.execute_command("ACL", "SETUSER", "reader", "reset", "on", ">s3cret", "%R~authz:*", "+@read", "+evalsha", "+eval")
    client.execute_command("ACL", "SETUSER", "default", "on", "resetpass", ">other")
    at, wait = server.socket, {"wait_s": WAIT_S}
    try:
        store = open_store(f"unix://app:s3cret%2F%40%3A@{at}", wait_s=WAIT_S)
        check_works(store)
        store.settle("r", actual(), NOW)
        for uri, reason in (
            (f"unix://app:wr0ng@{at}", "wrong user or password"),
            (f"unix://:wr0ng@{at}", "wrong user or password"),
            (f"unix://{at}", "not logged in"),
            (f"unix://reader:s3cret@{at}", "no permission"),
        ):
            with unavailable(reason) as caught:
                open_store(uri, **wait)
            assert "wr0ng" not in repr(caught)
        client.execute_command("ACL", "SETUSER", "app", "-@write")
        with unavailable("no permission"):
            store.reserve(some(), NOW)
        client.execute_command("ACL", "SETUSER", "app", "+@hash", "+@sortedset", "+@list", "+@set")
        check_works(store)
        client.execute_command("ACL", "DELUSER", "app")
        with unavailable("wrong user or password"):
            store.reserve(some(), NOW)
        store.close()
    finally:
        client.execute_command("ACL", "SETUSER", "default", "on", "nopass")


def test_after_a_fork_both_go_on(store: Store) -> None:
    def works(name: str) -> bool:
        for number in range(50):
            held = store.reserve(hold(charge(Meter.TOKENS, 1, 10_000), id=f"{name}{number}"), NOW)
            found = store.find("kept")
            if not isinstance(held, Held) or held.reservation_id != f"{name}{number}" or found is None or found.id != "kept":
                return False
        return True

    child = os.fork()
    if child == 0:
        os._exit(0 if works("child") else 1)
    assert works("parent")
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert sum(sum(cell) for cell in store.balances()["tokens"].values()) == 101
    assert store.balances() == store.replay()


def test_closed(server: RedisServer) -> None:
    store = open_store(server.uri, wait_s=WAIT_S)
    store.close()
    store.close()
    for use in (lambda: store.reserve(some(), NOW), lambda: store.usage("", "9"), lambda: store.keys_since(0)):
        with unavailable("closed"):
            use()


@pytest.mark.parametrize("version", [1, 99])
def test_a_store_of_another_version_is_refused(server: RedisServer, store: Store, version: int) -> None:
    (meta,) = server.client.keys("*:meta")
    server.client.hset(meta, "version", version)
    with pytest.raises(ConfigError, match=f"store version {version}, expected 3: another version of authz has made this store"):
        open_store(server.uri, wait_s=WAIT_S)


def test_no_name_becomes_part_of_a_key(server: RedisServer) -> None:
    """A64, A56."""
    for name in ("{}", "{x}", "}{", "a\nb", "'\"", "\\", "*", "\r\nFLUSHALL\r\n", "EVAL", "ключ", "a\0b", ""):
        organisation = name.encode().hex() if "\0" in name else name
        query = "".join(f"%{byte:02x}" for byte in organisation.encode())
        store = open_store(f"{server.uri}?organisation={query}" if query else server.uri, wait_s=WAIT_S)
        identity = f"{name}!"
        wanted = hold(charge(Meter.SPEND, 1, 2, name, alerts=(1,)), id=identity, request_id=identity)
        assert isinstance(store.reserve(wanted, NOW), Held)
        assert isinstance(store.reserve(wanted, NOW), Held)
        found = store.find_by_request(identity)
        assert found is not None
        assert found.id == identity
        store.settle(identity, actual(spend=1), NOW)
        assert store.balances() == store.replay()
        assert list(store.balances()) == [name or "spend"]
        store.close()
    keys = [key.decode() for key in server.client.keys("*")]
    assert len({key.split("}")[0] for key in keys}) == 12  # an organisation each, which saw nothing of the others
    assert all(re.fullmatch(r"authz:\{[0-9a-f]{16}\}:[a-z_]+", key) for key in keys)


def test_what_is_too_much_to_reckon_with_is_not_counted(server: RedisServer) -> None:
    """A double is exact up to 2**53: what a counter holds stays below, and a counter at the end is full for every limit."""
    store = RedisStore(parse_uri(server.uri, wait_s=WAIT_S), time="caller")
    shadow = charge(Meter.SPEND, MAX_AMOUNT - 1, 5, "spend", enforced=False)
    for name in "abc":
        assert isinstance(store.reserve(hold(shadow, id=name), NOW), Held)
    assert sum(sum(cell) for cell in store.balances()["spend"].values()) == MAX_AMOUNT
    assert not isinstance(store.reserve(hold(charge(Meter.SPEND, 1, MAX_AMOUNT, "spend")), NOW), Held)
    store.settle("a", actual(spend=MAX_AMOUNT), NOW)
    store.settle("b", actual(spend=MAX_AMOUNT), NOW)
    assert sum(sum(cell) for cell in store.balances()["spend"].values()) == MAX_AMOUNT
    assert store.balances() == store.replay()
    store.void("c", NOW)
    assert store.balances() == store.replay()
    store.close()


def test_a_batch_with_a_used_id_does_nothing(store: Store) -> None:
    before = store.balances()
    first, again = some(), hold(charge(Meter.TOKENS, 9, 10_000), id="kept")
    for batch in ((first, again), (first, hold(charge(Meter.TOKENS, 9, 10_000), id=first.id))):
        with pytest.raises(ValueError, match="id is already used"):
            store.reserve_many(batch, NOW)
    assert store.find(first.id) is None
    assert store.balances() == store.replay() == before


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (failures.ResponseError("Error running script (call to f_1): @user_script:1: -READONLY You can't write"), "read-only"),
        (failures.ResponseError("-OOM command not allowed when used memory > 'maxmemory'."), "out of memory"),
        (failures.BusyLoadingError("Redis is loading the dataset in memory"), "loading its data"),
        (failures.ResponseError("BUSY Redis is busy running a script."), "busy with a script"),
        (failures.ResponseError("MISCONF Redis is configured to save RDB snapshots"), "cannot write to its disk"),
        (failures.MaxConnectionsError("Too many connections"), "too many connections"),
        (failures.TryAgainError("Multiple keys request during rehashing of slot"), "slot is moving"),
        (failures.ConnectionError("Connection closed by server."), "connection lost"),
        (failures.ResponseError("user_script:7: something of ours."), "user_script:7: something of ours"),
    ],
)
def test_reasons(error: Exception, reason: str) -> None:
    assert connection._reason(error) == reason
