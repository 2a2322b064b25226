"""Issued keys: what every store must do."""

from __future__ import annotations

import pytest

from authz.identity.keys import IssuedKey, digest
from authz.store import SqliteStore
from tests.store.places import Place


def test_rows_come_in_the_order_of_their_changes(place: Place) -> None:
    store = place.open()
    one, two = (IssuedKey(digest(name), name, 5, note="n") for name in ("one", "two"))
    store.put_key(one)
    store.put_key(two)
    rows = store.keys_since(0)
    assert [(row.key, row.created_ns, row.note, row.revoked_ns) for row in rows] == [("one", 5, "n", 0), ("two", 5, "n", 0)]
    assert store.keys_since(rows[-1].sequence) == ()

    assert place.open().revoke_key(one.digest, 9)
    (changed,) = store.keys_since(rows[-1].sequence)
    assert (changed.key, changed.revoked_ns) == ("one", 9)
    assert [row.key for row in store.keys_since(0)] == ["two", "one"]


def test_a_key_is_revoked_once_and_stays_revoked(store: SqliteStore) -> None:
    row = IssuedKey(digest("one"), "one", 5)
    assert not store.revoke_key(row.digest, 9)
    store.put_key(row)
    assert store.revoke_key(row.digest, 9)
    assert not store.revoke_key(row.digest, 10)
    store.put_key(IssuedKey(row.digest, "one", 5, note="put again"))
    (found,) = store.keys_since(0)
    assert (found.revoked_ns, found.note) == (9, "put again")


def test_a_digest_does_not_change_hands(store: SqliteStore) -> None:
    store.put_key(IssuedKey(digest("one"), "one", 5))
    with pytest.raises(ValueError, match="a digest of key `one`, expected a new one for key `two`"):
        store.put_key(IssuedKey(digest("one"), "two", 5))
