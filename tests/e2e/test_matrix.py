"""Every cell of the table of endpoints: decision, charge before, charge after, through the real Envoy and the real SDKs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.e2e.conftest import Client
from tests.e2e.matrix import CALLS, COLUMNS, POLLS, ROWS, UPSTREAM, Cell, Matrix, Row, offers, prepared

pytestmark = pytest.mark.xdist_group("e2e-matrix")

_EVERY_SDK = ("allowed", "denied by policy", "over quota", "stream")
"""How the upstream or the client ends a request is the same for both: there one of them will do."""

CELLS = [
    pytest.param(name, sdk, column, id=f"{name}-{sdk}-{column}".replace(" ", "_"))
    for name, sdk in CALLS
    for column in COLUMNS
    if offers(name, column) and (column in _EVERY_SDK or sdk == ROWS[name].sdks[-1])
]


@pytest.fixture(scope="module")
def matrix(make_client: Callable[..., Client]) -> Matrix:
    return Matrix(make_client(prepared, keys=POLLS))


@pytest.mark.parametrize(("name", "sdk", "column"), CELLS)
def test_cell(matrix: Matrix, name: str, sdk: str, column: str) -> None:
    row, found = ROWS[name], matrix.fill(name, sdk, column)
    assert found.posted == found.after, "the usage report says what the settlement says"
    if row.here:
        barred = column == "denied by policy" and name == "models.retrieve"
        assert found == (Cell("403 model_not_available", "403 model_not_available") if barred else Cell("allow"))
        return
    refusal = {
        "denied by policy": "403 policy_denied",
        "over quota": "403 spend_cap_reached" if row.cost else "429 rate_limit_exceeded",
        "large": "413 request_too_large",
    }.get(column)
    if refusal is not None:
        assert found == Cell(refusal, refusal), "nothing forwarded, nothing charged"
        return
    assert (found.decision, found.forwarded) == ("allow", 1)
    _check_charges(row, column, found)


def _check_charges(row: Row, column: str, found: Cell) -> None:
    assert (found.before > 0) is (row.cost is not None)
    if column in UPSTREAM:
        assert (found.state, found.after) == ("voided", 0)
        assert found.error.startswith(str(UPSTREAM[column])), "passed on"
    elif column in ("client gone", "gone mid-stream"):
        assert (found.state, found.after) == ("settled", found.before)
    else:
        assert (found.state, found.error) == ("settled", "")
        if row.cost is not None:
            assert found.counted is not None
            assert 0 < found.after == row.cost(found.counted) <= found.before


def test_nothing_stays_pending(matrix: Matrix) -> None:
    matrix.fill("chat.completions", "groq", "allowed")
    assert matrix.pending() == 0


def test_every_row_of_the_table_is_called() -> None:
    from authz.inference.endpoints import rows

    assert {endpoint.name for _, _, endpoint in rows()} == ROWS.keys()
