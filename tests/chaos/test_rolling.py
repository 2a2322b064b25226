"""The short versions of `make rolling`: issue 10's "0 failed requests, every settlement accounted for"."""

from __future__ import annotations

import pytest

from tests.chaos import rolling
from tests.chaos.fleet import Kind

pytestmark = pytest.mark.xdist_group("chaos")


@pytest.mark.parametrize("kind", list(Kind))
def test_a_rolling_restart_under_load_fails_no_request_and_loses_no_settlement(kind: Kind) -> None:
    rolled = rolling.run(kind, 1, threads=2)
    assert rolled.failed == {}
    assert rolled.states["settled"] == rolled.sent
    assert rolled.states.keys() <= {"settled", "voided"}, "a Check that was answered too late is given back"
    assert (rolled.tokens, rolled.cost) == (rolled.expected_tokens, rolled.expected_cost)
    assert rolled.found.broken == []
    assert rolled.well
    assert rolled.sent > 50


def test_where_nobody_has_time_every_settlement_arrives_and_only_what_was_late_fails() -> None:
    rolled = rolling.run(Kind.SQLITE, 1, threads=3, starved_s=0.15)
    assert rolled.missing == 0
    assert (rolled.tokens, rolled.cost) == (rolled.expected_tokens, rolled.expected_cost)
    assert sum(rolled.failed.values()) == rolled.late
    assert rolled.well, rolled
    assert rolled.sent > 30
