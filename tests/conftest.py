"""For every test: no verdict hangs on how busy the machine is."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("authz", deadline=None)
settings.load_profile("authz")
