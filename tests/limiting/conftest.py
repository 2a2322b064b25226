from __future__ import annotations

from collections.abc import Iterator

import pytest

from authz.limiting import SlidingWindowLimiter, WindowStorage
from tests.limiting.places import PLACES, SHARED, Site, Turned
from tests.store import redis_server


@pytest.fixture(params=PLACES)
def site(request: pytest.FixtureRequest) -> Iterator[Site]:
    found = Site(request.param)
    yield found
    found.close()


@pytest.fixture(params=SHARED)
def shared(request: pytest.FixtureRequest) -> Iterator[Site]:
    """Where another storage, and another process, finds the same counters."""
    found = Site(request.param)
    yield found
    found.close()


@pytest.fixture
def clock(site: Site) -> Turned:
    return site.clock


@pytest.fixture
def storage(site: Site) -> WindowStorage:
    return site.open()


@pytest.fixture
def limiter(storage: WindowStorage) -> SlidingWindowLimiter:
    return SlidingWindowLimiter(storage)


@pytest.fixture(scope="session", autouse=True)
def _no_server_is_left() -> Iterator[None]:
    yield
    redis_server.close_shared()
