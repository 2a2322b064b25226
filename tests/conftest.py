"""What holds for every test."""

from __future__ import annotations

from hypothesis import HealthCheck, Phase, settings

# An example's wall-clock time says how busy the machine is. What may hang is ended by pytest-timeout.
settings.register_profile("authz", deadline=None)
settings.register_profile(
    # For `make mutation`, which asks thousands of times whether a test fails: the same examples each time, none made smaller.
    "mutation",
    deadline=None,
    derandomize=True,
    database=None,
    max_examples=20,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.differing_executors],  # a class is made anew for each mutant
)
settings.load_profile("authz")
