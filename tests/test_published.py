"""Bundles in force are on record, with the roles and teams that change with them; once, however many processes there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz import audit
from authz.errors import StoreUnavailable
from authz.store import Store
from tests.place import Place, lay_out, opened_at


def chain(store: Store) -> list[audit.Entry]:
    return list(audit.entries(store.audit_since(0, 100)))


def change(place: Place, old: str, new: str) -> None:
    directory = place.folder / "policies/directory.yaml"
    assert old in directory.read_text()
    directory.write_text(directory.read_text().replace(old, new, 1))
    assert place.engine.source.refresh()


@pytest.fixture
def config(tmp_path: Path) -> Path:
    found = lay_out(tmp_path)
    for case in (tmp_path / "policies/tests").glob("*.yaml"):
        case.unlink()
    return found


def test_a_changed_role_is_on_record_as_it_was_and_as_it_is(config: Path) -> None:
    with opened_at(config) as place:
        store = place.engine.store
        place.engine.tick()
        first = place.engine.bundle.digest
        (entry,) = chain(store)
        assert (entry.what, entry.before, entry.after) == ("policy.publish", {}, {"bundle": first})
        change(place, "dev: {teams: [chatbot], roles: [developer]}", "dev: {teams: [chatbot, research], roles: [owner]}")
        change(place, "  analytics-reports: {team: analytics", "  batch: {team: analytics, disabled: true")
        place.engine.tick()
        place.engine.tick()
        _, entry = chain(store)
        assert entry.subject == 'Org::"acme"'
        assert entry.login
        assert entry.before == {
            "bundle": first,
            'Key::"batch"': None,
            'Key::"analytics-reports"': ("team analytics",),
            'User::"dev"': ("team chatbot", "role developer"),
        }
        assert entry.after == {
            "bundle": place.engine.bundle.digest,
            'Key::"batch"': ("team analytics (disabled)",),
            'Key::"analytics-reports"': None,
            'User::"dev"': ("team chatbot", "team research", "role owner"),
        }
        assert audit.verify(store.audit_since(0, 100)) == audit.head(store)


def test_each_change_is_told_once_by_however_many_processes(config: Path) -> None:
    with opened_at(config) as one, opened_at(config) as other:
        for place in (one, other, one):
            place.engine.tick()
        change(one, "note: answers customers", "note: answers")
        assert other.engine.source.refresh()
        for place in (other, one, other):
            place.engine.tick()
        assert [entry.after["bundle"] for entry in chain(one.engine.store)][1:] == [one.engine.bundle.digest]
    with opened_at(config) as again:
        again.engine.tick()
        assert len(chain(again.engine.store)) == 2, "a start is no change"


def test_a_store_that_is_gone_is_told_later(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened_at(config) as place:

        def gone(*_: object) -> bool:
            raise StoreUnavailable("gone")

        with monkeypatch.context() as patch:
            patch.setattr(place.engine.store, "change", gone)
            with pytest.raises(StoreUnavailable):
                place.engine.tick()
        assert chain(place.engine.store) == []
        place.engine.tick()
        assert len(chain(place.engine.store)) == 1


def test_a_directory_that_differs_in_everything_does_not_fill_the_chain(config: Path) -> None:
    with opened_at(config) as place:
        place.engine.tick()
        many = "".join(f"  k{number}: {{team: chatbot}}\n" for number in range(300))
        change(place, "keys:\n", f"keys:\n{many}")
        place.engine.tick()
        entry = chain(place.engine.store)[-1]
        assert len(entry.after) == 102
        assert entry.after["and so many more"] == 200
