"""The short version of `python -m tests.chaos.overload`: what is too much is shed, and afterwards it is as before."""

from __future__ import annotations

import pytest

from tests.chaos import overload

pytestmark = pytest.mark.xdist_group("chaos")


def test_one_tenants_flood_is_shed_and_the_next_moment_is_as_before() -> None:
    found = overload.run(1.0, overload.Flood())
    assert found.shed > 0
    assert found.refusal == (503, "1")
    assert found.after.codes == {}
    assert found.back_s < 5
