"""What holds for every test."""

from __future__ import annotations

from hypothesis import settings

# An example's wall-clock time says how busy the machine is. What may hang is ended by pytest-timeout.
settings.register_profile("authz", deadline=None)
settings.load_profile("authz")
