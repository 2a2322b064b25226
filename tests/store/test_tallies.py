"""What is kept of counters between transactions is never anything else than what the file says."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from authz.errors import StoreUnavailable
from authz.model import Meter
from authz.quota.ledger import Full, Held, Hold
from authz.quota.windows import NS
from authz.store import transactions
from authz.store.sqlite import SqliteStore, open_store
from tests.store.builders import MONTH, NOW, actual, charge, hold
from tests.store.places import FilePlace

LIMIT = 6


def wanted(number: int, amount: int) -> Hold:
    minute, month = charge(Meter.TOKENS, amount, LIMIT, "minute"), charge(Meter.SPEND, amount, 4 * LIMIT, "month")
    return hold(minute, month, charge(Meter.IN_FLIGHT, 1, 3, "flight"), id=f"r{number}")


def read_statements(store: SqliteStore) -> list[str]:
    """What is asked of the counters' table from now on."""
    found: list[str] = []
    connection = store._decisions._connection
    assert connection is not None
    connection.set_trace_callback(lambda text: found.append(text) if "FROM counters" in text else None)
    return found


def test_one_process_alone_reads_a_counter_once(file: FilePlace) -> None:
    store = file.open()
    store.reserve(wanted(0, 1), NOW)
    asked = read_statements(store)
    for number in range(1, 6):
        assert isinstance(store.reserve(wanted(number, 1), NOW + number), Held)
        assert store.settle(f"r{number}", actual(tokens=1, spend=2), NOW + number).changed
    assert store.reserve_many([wanted(number, 0) for number in range(6, 8)], NOW + 8)
    assert asked == []
    assert store.balances() == store.replay()


def test_what_another_connection_has_written_is_read(file: FilePlace) -> None:
    one, other = file.open(), file.open()
    one.reserve(wanted(0, 2), NOW)
    asked = read_statements(one)
    assert isinstance(other.reserve(wanted(1, 3), NOW), Held)
    refused = one.reserve(wanted(2, 2), NOW)
    assert isinstance(refused, Full)
    assert refused.states[0].used == 5
    assert len(asked) == 1


def fails(store: SqliteStore, monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """The act is undone at its end, when every tally has been changed in memory."""

    def fail(connection: object, entries: object) -> None:
        raise sqlite3.OperationalError("disk I/O error")

    with monkeypatch.context() as patched:
        patched.setattr(transactions, "append", fail)
        with pytest.raises(StoreUnavailable):
            act()


def test_what_was_rolled_back_is_forgotten(file: FilePlace, monkeypatch: pytest.MonkeyPatch) -> None:
    store = file.open()
    store.reserve(wanted(0, 2), NOW)
    before = store.balances()
    fails(store, monkeypatch, lambda: store.reserve(wanted(1, 2), NOW))
    fails(store, monkeypatch, lambda: store.settle("r0", actual(tokens=5, spend=5), NOW))
    assert store.balances() == before == store.replay()
    held = store.reserve(wanted(2, 4), NOW)
    assert isinstance(held, Held)
    assert [state.used for state in held.states] == [2, 2, 1]
    assert store.balances() == store.replay()


def test_a_repeated_hold_is_found_where_nobody_looked_for_it(file: FilePlace) -> None:
    """Also where nothing fits any more, and among new ones."""
    store = file.open()
    first = store.reserve(wanted(0, LIMIT), NOW)
    assert store.reserve(wanted(0, LIMIT), NOW) == first
    assert isinstance(store.reserve(wanted(1, 1), NOW), Full)
    new, again = store.reserve_many([wanted(2, 0), wanted(0, LIMIT)], NOW)
    assert (type(new), type(again)) == (Held, Held)
    with pytest.raises(ValueError, match="already used by another request"):
        store.reserve(wanted(0, 1), NOW)
    assert store.balances() == store.replay()


def test_a_counter_that_was_pruned_is_made_anew(file: FilePlace) -> None:
    """And what ended under the old one's id changes nothing of the new one."""
    store = file.open()
    minute = charge(Meter.TOKENS, 2, LIMIT, "minute")
    store.reserve(hold(minute, id="old"), NOW)
    store.settle("old", actual(tokens=2), NOW)
    later = NOW + 700 * NS
    store.prune(later, 120 * NS, 100)
    assert store.balances() == {}
    held = store.reserve(hold(minute, id="new"), later)
    assert isinstance(held, Held)
    assert held.states[0].used == 0
    assert store.balances() == store.replay() != {}

    def ids(connection: sqlite3.Connection) -> list[bool]:
        counters = store._counters.on(connection)
        counters.load(["minute"])
        return [counters.find("minute", identity) is not None for identity in range(4)]

    assert store._decisions.write(ids) == [False, False, True, False]


numbers, amounts = st.integers(0, 12), st.integers(0, 4)
acts = st.one_of(
    st.tuples(st.just("reserve"), st.lists(st.tuples(numbers, amounts), min_size=1, max_size=3)),
    st.tuples(st.just("settle"), numbers, amounts),
    st.tuples(st.just("void"), numbers),
    st.tuples(st.just("expire")),
    st.tuples(st.just("raise"), st.integers(-3, 3)),
    st.tuples(st.just("prune")),
)


def done(store: SqliteStore, act: tuple[object, ...], at: int, now_ns: int) -> object:
    """What the act answers, or which error it raises."""
    try:
        match act:
            case ("reserve", list() as some):
                return store.reserve_many([wanted(number, amount) for number, amount in some], now_ns)
            case ("settle", number, int() as amount):
                return store.settle(f"r{number}", actual(tokens=amount, spend=amount), now_ns)
            case ("void", number):
                return store.void(f"r{number}", now_ns)
            case ("expire",):
                return store.expire(now_ns, 10)
            case ("raise", int() as by):
                month = charge(Meter.SPEND, 0, 4 * LIMIT, "month", window=MONTH)
                return store.raise_limit(f"raise-{at}", month, by, "olivia", "why not", now_ns)
            case _:
                return store.prune(now_ns, 120 * NS, 100)
    except ValueError as error:
        return str(error)


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 1), acts, st.sampled_from([0, 1, 30, 700])), max_size=25), st.sampled_from([1, 100]))
def test_two_that_share_a_file_answer_as_one_that_reads_everything_anew(
    asked: list[tuple[int, tuple[object, ...], int]], kept: int
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{Path(folder) / 'authz.db'}"
        pair = [open_store(uri, wait_s=5), open_store(uri, wait_s=5)]
        anew = open_store("sqlite:///:memory:")
        for store in pair:
            store._counters._at_most = kept
        now_ns = NOW
        try:
            for at, (which, act, seconds) in enumerate(asked):
                now_ns += seconds * NS
                anew._counters.forget()
                assert done(pair[which], act, at, now_ns) == done(anew, act, at, now_ns)
                assert pair[0].balances() == pair[0].replay() == anew.balances()
        finally:
            for store in (*pair, anew):
                store.close()
