"""What every store must do: what one replica learns, all of them read."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from authz.quota.calibration import MAX_SAMPLES, SAMPLES, Lesson
from authz.quota.windows import NS
from authz.store import Store
from tests.store.builders import NOW
from tests.store.places import Place

DAY_NS = 86_400 * NS


def teach(store: Store, key: str, counts: dict[int, int], *, model: str = "llama", now_ns: int = NOW) -> None:
    store.learn((Lesson(key, model, counts),), now_ns)


def known(store: Store, sequence: int = 0, at_most: int = 100) -> list[tuple[str, str, dict[int, int]]]:
    return [(row.key, row.model, dict(row.counts)) for row in store.learned_since(sequence, at_most)]


def test_counts_add_up_by_key_and_model(place: Place) -> None:
    one, two = place.open(), place.open()
    teach(one, "a", {SAMPLES: 2, 1_010: 2})
    teach(two, "a", {SAMPLES: 3, 1_010: 1, 1_020: 2})
    teach(two, "a", {SAMPLES: 1}, model="gemma")
    assert known(one) == [("a", "llama", {SAMPLES: 5, 1_010: 3, 1_020: 2}), ("a", "gemma", {SAMPLES: 1})]


def test_rows_come_in_the_order_of_their_changes(place: Place) -> None:
    store = place.open()
    for key in "abc":
        teach(store, key, {SAMPLES: 1})
    rows = store.learned_since(0, 100)
    assert [row.key for row in rows] == ["a", "b", "c"]
    assert [row.sequence for row in rows] == sorted({row.sequence for row in rows})
    assert store.learned_since(rows[-1].sequence, 100) == ()
    teach(place.open(), "a", {SAMPLES: 1})
    assert known(store, rows[-1].sequence) == [("a", "llama", {SAMPLES: 2})]
    assert [row.key for row in store.learned_since(0, 100)] == ["b", "c", "a"]
    assert [row.key for row in store.learned_since(0, 2)] == ["b", "c"]
    assert [row.key for row in store.learned_since(rows[1].sequence, 1)] == ["c"]


def test_several_lessons_at_once(store: Store) -> None:
    store.learn(tuple(Lesson(key, "llama", {SAMPLES: 1}) for key in "aba"), NOW)
    assert sorted(known(store)) == [("a", "llama", {SAMPLES: 2}), ("b", "llama", {SAMPLES: 1})]
    store.learn((), NOW)
    assert len(known(store)) == 2


def test_above_the_most_every_count_is_halved(store: Store) -> None:
    teach(store, "a", {SAMPLES: MAX_SAMPLES, 1_001: 7, 1_002: 1, 2: 9_000_000_000_001})
    assert known(store)[0][2][SAMPLES] == MAX_SAMPLES
    teach(store, "a", {SAMPLES: 1, 1_003: 1})
    assert known(store) == [("a", "llama", {SAMPLES: MAX_SAMPLES // 2, 1_001: 3, 2: 4_500_000_000_000})]


def test_what_was_learned_outlives_a_crash(place: Place) -> None:
    teach(place.open(), "a", {SAMPLES: 1})
    place.crash()
    assert known(place.open()) == [("a", "llama", {SAMPLES: 1})]


def test_what_nobody_adds_to_is_forgotten_and_numbers_are_not_used_again(store: Store) -> None:
    teach(store, "old", {SAMPLES: 1})
    (row,) = store.learned_since(0, 100)
    later = NOW + 90 * DAY_NS
    while store.prune(later, DAY_NS, 100):
        pass
    assert known(store) == []
    teach(store, "new", {SAMPLES: 1}, now_ns=later)
    assert known(store, row.sequence) == [("new", "llama", {SAMPLES: 1})]
    while store.prune(later, DAY_NS, 100):
        pass
    assert len(known(store)) == 1


def test_learning_at_once_loses_nothing(place: Place) -> None:
    stores = [place.open(), place.open()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda turn: teach(stores[turn % 2], "a", {SAMPLES: 1, 1_000: 2}), range(200)))
    assert known(stores[0]) == [("a", "llama", {SAMPLES: 200, 1_000: 400})]


def test_hostile_names_are_only_names(store: Store) -> None:
    """A56: a model's name is in the price book and a key's in the directory, but a store relies on neither."""
    names = ("'; DROP TABLE lessons; --", '"', "\\", "{}", "ключ", "a\nb", "a:b", "")
    for name in names:
        teach(store, name, {SAMPLES: 1}, model=name)
    assert [(key, model) for key, model, _ in known(store)] == [(name, name) for name in names]
