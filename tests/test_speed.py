"""A decision is not slower than it was, and not slower for who is not asking: each as a ratio, measured in turns.

The bounds are wider than in docs/performance.md, since a test has less time and shares its machine: `make bench` is exact.
"""

from __future__ import annotations

import pytest

from bench import inprocess
from bench.measure import Figure, in_turns

ROUNDS, TIMES = 7, 60


def hold(figure: Figure, limit: float) -> None:
    assert figure.value <= limit, f"{figure.name}: {figure.value:.2f}, expected at most {limit} ({figure.parts})"


def test_a_decision_costs_a_few_calls_of_cedar() -> None:
    single, chunk, settled = inprocess.decision_and_cedar(ROUNDS, TIMES)
    hold(single, 4.5)
    hold(chunk, 3)
    hold(settled, 3)


def test_a_decision_costs_the_same_however_many_teams_policies_and_quotas_there_are() -> None:
    hold(inprocess.teams(ROUNDS, TIMES, many=500), 1.5)


def test_a_decision_costs_the_same_however_many_keys_there_are() -> None:
    hold(inprocess.keys(ROUNDS, TIMES, few=10, many=3_000), 1.5)


def test_a_decision_on_redis_costs_a_few_round_trips() -> None:
    single, chunk, settled = inprocess.redis(ROUNDS, TIMES)
    hold(single, 6)
    hold(chunk, 3)
    hold(settled, 3)


def test_what_is_measured_in_turns_tells_slow_from_fast() -> None:
    """The tests above would hold of a stopwatch that stands still."""
    found = in_turns({"fast": lambda: sum(range(200)), "slow": lambda: sum(range(20_000))}, rounds=3, times=20)
    assert min(found["slow"]) > 10 * max(found["fast"])


def test_a_figure_above_its_bound_is_told() -> None:
    figure = Figure("P", "what", (1.0, 2.0, 3.0), 1.5, "at most")
    assert not figure.holds
    with pytest.raises(AssertionError, match=r"expected at most 1\.5"):
        hold(figure, 1.5)
