"""What every store must do: an id of the upstream's belongs to whom it was given first, and a batch is looked after by one."""

from __future__ import annotations

from msgspec import structs

from authz.model import Work
from authz.quota.belongings import Belonging
from authz.quota.windows import NS
from authz.store import Store
from tests.store.builders import NOW
from tests.store.places import Place

DAY_NS = 86_400 * NS
WORK = Work("m", "chat", "/v1/chat/completions", 2, 100, 40, 30, 20, 60, 20, False)


def file(identity: str, team: str = "bulk", made_ns: int = NOW) -> Belonging:
    return Belonging(identity, "acme", team, "m", WORK, "", made_ns)


def batch(identity: str, made_ns: int = NOW) -> Belonging:
    return structs.replace(file(identity, made_ns=made_ns), reservation=f"r-{identity}")


def due(store: Store, now_ns: int, *, for_ns: int = 30 * NS, at_most: int = 10) -> list[str]:
    return [each.id for each in store.due_batches(now_ns, now_ns + for_ns, at_most)]


def test_what_is_kept_is_found_by_everybody(place: Place) -> None:
    one, two = place.open(), place.open()
    one.keep(file("file-1"))
    one.keep(batch("batch_1"))
    assert two.belonging("file-1") == file("file-1")
    assert two.belonging("batch_1") == batch("batch_1")
    assert two.belonging("file-2") is None
    assert two.belonging("") is None


def test_the_first_word_counts(store: Store) -> None:
    store.keep(file("file-1"))
    store.keep(file("file-1", team="thieves"))
    store.keep(batch("file-1"))
    assert store.belonging("file-1") == file("file-1")
    assert due(store, NOW) == []


def test_a_batch_is_due_at_once_and_then_the_callers_for_a_while(place: Place) -> None:
    one, two = place.open(), place.open()
    for identity, made_ns in (("b", NOW - NS), ("a", NOW - 2 * NS), ("c", NOW + 60 * NS)):
        one.keep(batch(identity, made_ns))
    one.keep(file("f"))
    assert due(one, NOW, at_most=1) == ["a"]
    assert due(two, NOW) == ["b"]
    assert due(two, NOW + 29 * NS) == []
    assert due(two, NOW + 30 * NS) == ["a", "b"]


def test_a_batch_that_has_ended_is_due_no_more(store: Store) -> None:
    store.keep(batch("a"))
    store.batch_ended("a")
    store.batch_ended("a")
    store.batch_ended("nobody")
    assert due(store, NOW + DAY_NS) == []
    assert store.belonging("a") == batch("a")


def test_what_is_old_is_forgotten(store: Store) -> None:
    store.keep(file("old", made_ns=NOW - 91 * DAY_NS))
    store.keep(batch("old-batch", NOW - 91 * DAY_NS))
    store.keep(file("young", made_ns=NOW - 89 * DAY_NS))
    store.prune(NOW, 90 * DAY_NS, 100)
    assert store.belonging("old") is None
    assert due(store, NOW) == []
    assert store.belonging("young") is not None
    store.keep(file("old"))
    assert store.belonging("old") == file("old")
