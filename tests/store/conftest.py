from __future__ import annotations

from collections.abc import Iterator

import pytest

from authz.store import SqliteStore
from tests.store.places import PLACES, FilePlace, Place


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    found = PLACES[request.param]()
    yield found
    found.close()


@pytest.fixture
def store(place: Place) -> SqliteStore:
    return place.open()


@pytest.fixture
def file() -> Iterator[FilePlace]:
    found = FilePlace()
    yield found
    found.close()
