from __future__ import annotations

from collections.abc import Iterator

import pytest

from authz.store import Store
from tests.store import redis_server
from tests.store.places import PLACES, FilePlace, Place


@pytest.fixture(params=sorted(PLACES))
def place(request: pytest.FixtureRequest) -> Iterator[Place]:
    found = PLACES[request.param]()
    yield found
    found.close()


@pytest.fixture
def store(place: Place) -> Store:
    return place.open()


@pytest.fixture
def file() -> Iterator[FilePlace]:
    found = FilePlace()
    yield found
    found.close()


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    redis_server.close_shared()
