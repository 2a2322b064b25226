"""Issued keys and the audit chain: what every store must do."""

from __future__ import annotations

import pytest
from msgspec import structs

from authz import audit
from authz.audit import Broken, Head
from authz.errors import StoreUnavailable
from authz.identity.issuing import Actor, Unfit
from authz.identity.keys import IssuedKey, digest
from authz.store import Store
from tests.issued import ACTOR, issuing, put, revoke
from tests.store.places import Place

HOUR_NS = 3_600 * 10**9
NOW_NS = 10**18


def chain(store: Store) -> list[audit.Entry]:
    return list(audit.entries(store.audit_since(0, 1_000)))


def test_rows_come_back_whole_in_the_order_of_their_changes_and_in_pages(place: Place) -> None:
    store = place.open()
    one = IssuedKey(digest("one"), "one", 5, 9, note="n", created_by='User::"o"', roles=("a", "b"), generation=3, replaces="x")
    two = IssuedKey(digest("two"), "two", 5, roles=())
    put(store, one, two)
    rows = store.keys_since(0)
    assert [structs.replace(row, sequence=0) for row in rows] == [one, two]
    assert store.keys_since(0, 1) == rows[:1]
    assert store.keys_since(rows[0].sequence, 1) == rows[1:]
    assert store.keys_since(rows[-1].sequence) == ()

    assert revoke(place.open(), one.digest, 9)
    (changed,) = store.keys_since(rows[-1].sequence)
    assert (changed.key, changed.revoked_ns) == ("one", 9)
    assert [row.key for row in store.keys_since(0)] == ["two", "one"]


def test_a_change_is_all_or_nothing(store: Store) -> None:
    put(store, IssuedKey("a", "alpha", 1))
    (kept,) = store.keys_since(0)
    number, entry = audit.following(audit.head(store), _act())
    new = IssuedKey("b", "alpha", 2)
    stale = structs.replace(kept, sequence=kept.sequence + 1, note="changed")
    for rows in ((new, stale), (stale, new), (new, structs.replace(kept, sequence=0))):
        assert not store.change(number, entry, rows)
        assert store.keys_since(0) == (kept,)
        assert audit.head(store).number == number - 1
    assert not store.change(number + 1, entry, (new,))  # would leave a gap
    assert store.keys_since(0) == (kept,)
    assert store.change(number, entry, (new, structs.replace(kept, note="changed")))
    assert [(row.digest, row.note) for row in store.keys_since(0)] == [("b", ""), ("a", "changed")]


def test_the_same_change_twice_is_one_and_another_in_its_place_is_refused(store: Store) -> None:
    number, entry = audit.following(Head(), _act())
    row = IssuedKey("a", "alpha", 1)
    assert store.change(number, entry, (row,))
    assert store.change(number, entry, (row,))
    assert len(store.keys_since(0)) == 1
    assert not store.change(number, entry + b" ", (IssuedKey("b", "beta", 1),))
    assert store.audit_since(0, 10) == (entry,)
    assert store.audit_last() == entry


def test_an_empty_chain_has_no_last_entry(store: Store) -> None:
    assert store.audit_last() == b""
    assert store.audit_since(0, 10) == ()
    assert audit.head(store) == Head()


def test_uses_only_ever_grow(store: Store) -> None:
    assert store.key_uses() == {}
    store.note_uses({"a": NOW_NS, "b": 5})
    store.note_uses({"a": NOW_NS - 1, "b": 10**10})
    assert store.key_uses() == {"a": NOW_NS, "b": 10**10}


def test_a_use_is_no_change_of_the_row(store: Store) -> None:
    put(store, IssuedKey("a", "alpha", 1))
    before = store.keys_since(0)
    store.note_uses({"a": NOW_NS})
    assert store.keys_since(0) == before


def test_a_key_is_revoked_once_and_stays_revoked(store: Store) -> None:
    with pytest.raises(Unfit, match="no secret"):
        revoke(store, digest("one"), 9)
    put(store, IssuedKey(digest("one"), "one", 5))
    assert revoke(store, digest("one"), 9)
    assert not revoke(store, digest("one"), 10)
    (found,) = store.keys_since(0)
    assert found.revoked_ns == 9
    with pytest.raises(Unfit, match="is revoked or expired"):
        issuing(store, 11).rotate(digest("one"), ACTOR, overlap_ns=HOUR_NS)


def test_a_rotation_changes_both_rows_at_once_and_tells_who(store: Store) -> None:
    first = issuing(store, NOW_NS).issue("alpha", ACTOR, roles=("r",), life_ns=5 * HOUR_NS, note="n")
    later = issuing(store, NOW_NS + HOUR_NS, seed=8)
    by = Actor('User::"dev"', "os", "leaving")
    second = later.rotate(first.row.digest, by, overlap_ns=2 * HOUR_NS)
    old, new = sorted(store.keys_since(0), key=lambda row: row.generation)
    assert (old.expires_ns, old.replaced_by, old.revoked_ns) == (NOW_NS + 3 * HOUR_NS, new.digest, 0)
    assert (new.key, new.roles, new.note, new.replaces, new.generation) == ("alpha", ("r",), "n", old.digest, 2)
    assert (new.created_by, new.expires_ns, new.digest) == (by.who, NOW_NS + 6 * HOUR_NS, digest(second.secret.reveal()))
    with pytest.raises(Unfit, match="is replaced by"):
        later.rotate(old.digest, by, overlap_ns=HOUR_NS)
    entry = chain(store)[-1]
    assert (entry.what, entry.subject, entry.who, entry.login, entry.why) == (
        "key.rotate",
        'Key::"alpha"',
        by.who,
        "os",
        "leaving",
    )
    assert (entry.before["digest"], entry.after["digest"]) == (old.digest, new.digest)
    assert not any(issued.secret.reveal() in str(chain(store)) for issued in (first, second))


def test_an_overlap_never_lets_the_old_one_outlive_its_own_end(store: Store) -> None:
    first = issuing(store, NOW_NS).issue("alpha", ACTOR, life_ns=HOUR_NS)
    issuing(store, NOW_NS, seed=8).rotate(first.row.digest, ACTOR, overlap_ns=9 * HOUR_NS, life_ns=0)
    old, new = sorted(store.keys_since(0), key=lambda row: row.generation)
    assert (old.expires_ns, new.expires_ns) == (NOW_NS + HOUR_NS, 0)


def test_a_secret_is_found_by_the_start_of_its_digest_or_as_the_only_one_of_its_key(store: Store) -> None:
    desk = issuing(store, NOW_NS)
    first = desk.issue("alpha", ACTOR)
    assert desk.find("alpha") == desk.find(first.row.digest[:8])
    second = desk.issue("alpha", ACTOR)
    with pytest.raises(Unfit, match=f"2 secrets in force of key `alpha`, expected one: {first.row.digest[:12]}, "):
        desk.find("alpha")
    assert desk.revoke(first.row.digest, ACTOR)
    assert desk.find("alpha").digest == second.row.digest
    for name in ("", "nobody"):
        with pytest.raises(Unfit, match="expected one"):
            desk.find(name)


def test_a_keys_name_is_never_taken_for_the_start_of_another_ones_digest(store: Store) -> None:
    desk = issuing(store, NOW_NS)
    other = desk.issue("alpha", ACTOR)
    name = other.row.digest[:4]
    mine = desk.issue(name, ACTOR)
    assert desk.find(name) == desk.find(mine.row.digest)
    desk.revoke(mine.row.digest, ACTOR)
    with pytest.raises(Unfit, match=f"0 secrets in force of key `{name}`"):
        desk.find(name)
    assert desk.find(other.row.digest[:5]).key == "alpha"


def test_two_desks_at_once_leave_one_chain(place: Place) -> None:
    """Each meets the other's entry between its look and its change, and looks again."""
    store = place.open()

    class Late:
        """Lets an other one in just before the first change."""

        def __init__(self) -> None:
            self.calls = 0

        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def change(self, number: int, entry: bytes, rows: tuple[IssuedKey, ...] = ()) -> bool:
            self.calls += 1
            if self.calls == 1:
                put(store, IssuedKey("other", "beta", 1))
            return store.change(number, entry, rows)

    late = Late()
    issuing(late, NOW_NS).issue("alpha", ACTOR)  # type: ignore[arg-type]  # it passes everything on
    assert late.calls == 2
    assert audit.verify(store.audit_since(0, 100)) == audit.head(store)
    assert [entry.subject for entry in chain(store)] == ['Key::"beta"', 'Key::"alpha"']


def test_nothing_is_added_to_a_chain_whose_end_cannot_be_read(store: Store) -> None:
    assert store.change(1, b"{}")
    with pytest.raises(StoreUnavailable, match="ends in what is not an entry"):
        issuing(store, NOW_NS).issue("alpha", ACTOR)
    assert store.keys_since(0) == ()


def test_whoever_never_gets_a_turn_is_told_so(store: Store) -> None:
    class Never:
        def __getattr__(self, name: str) -> object:
            return getattr(store, name)

        def change(self, number: int, entry: bytes, rows: tuple[IssuedKey, ...] = ()) -> bool:
            return False

    with pytest.raises(StoreUnavailable, match="too many others"):
        issuing(Never(), NOW_NS).issue("alpha", ACTOR)  # type: ignore[arg-type]  # it passes everything on
    assert store.keys_since(0) == ()


def test_what_is_acknowledged_survives_a_crash(place: Place) -> None:
    store = place.open()
    put(store, IssuedKey("a", "alpha", 1))
    place.crash()
    again = place.open()
    assert [row.key for row in again.keys_since(0)] == ["alpha"]
    assert audit.verify(again.audit_since(0, 10)) == audit.head(again) != Head()
    assert not isinstance(audit.verify(again.audit_since(0, 10)), Broken)


def _act() -> audit.Act:
    return audit.Act(at="", who="w", login="l", what="key.create", subject="s")
