"""What arrives together is decided as if it had come one by one: the same answers, the same books, the same journal."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from authz.model import Meter
from authz.quota.ledger import Full, Held, Hold
from authz.quota.windows import GAUGE, Period, calendar, sliding
from authz.store import open_store
from authz.store.sqlite import SqliteStore
from tests.store.builders import NOW, charge, hold

COUNTERS = {
    "minute": (Meter.TOKENS, sliding(60)),
    "hour": (Meter.REQUESTS, sliding(3_600)),
    "month": (Meter.SPEND, calendar(Period.MONTH)),
    "flight": (Meter.IN_FLIGHT, GAUGE),
}

charges = st.builds(
    lambda name, amount, limit, enforced: charge(
        COUNTERS[name][0], amount, limit, name, window=COUNTERS[name][1], enforced=enforced
    ),
    st.sampled_from(sorted(COUNTERS)),
    st.integers(0, 5),
    st.integers(4, 12),
    st.sampled_from([True, True, True, False]),
)
holds = st.builds(
    lambda some, number: hold(*some, id=f"r{number}"),
    st.lists(charges, max_size=4),
    st.integers(0, 9),
)
chunks = st.lists(st.tuples(st.lists(holds, min_size=1, max_size=8), st.integers(0, 90)), min_size=1, max_size=4)


def fresh() -> SqliteStore:
    store = open_store("sqlite:///:memory:")
    assert isinstance(store, SqliteStore)
    return store


def one_by_one(store: SqliteStore, wanted: list[Hold], now_ns: int) -> list[Held | Full] | None:
    """None where an id is another request's: then a chunk as a whole is refused."""
    found = []
    for each in wanted:
        try:
            found.append(store.reserve(each, now_ns))
        except ValueError:
            return None
    return found


@settings(max_examples=250, deadline=None)
@given(chunks)
def test_together_is_as_one_by_one(asked: list[tuple[list[Hold], int]]) -> None:
    together, alone = fresh(), fresh()
    now_ns = NOW
    for wanted, seconds in asked:
        now_ns += seconds * 10**9
        expected = one_by_one(alone, wanted, now_ns)
        if expected is None:
            before = together.balances()
            try:
                together.reserve_many(wanted, now_ns)
            except ValueError:
                assert together.balances() == before == together.replay()
                break
            raise AssertionError("expected that the chunk is refused")
        assert list(together.reserve_many(wanted, now_ns)) == expected
        assert together.balances() == alone.balances() == together.replay()
        for each in wanted:
            assert together.find(each.id) == alone.find(each.id)
    together.close()
    alone.close()
