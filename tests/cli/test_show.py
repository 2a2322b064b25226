"""Tables on a narrow terminal: less comfortable, and nothing is cut off."""

from __future__ import annotations

import re
from io import StringIO

import pytest
from rich.console import Console

from authz.cli import show

CELLS = ("chatbot-prod-requests-of-the-day", 'Key::"chatbot-production-frankfurt"', "1,000,000 tokens/minute")


@pytest.mark.parametrize("width", [40, 80, 100, 160])
def test_no_cell_loses_its_end(monkeypatch: pytest.MonkeyPatch, width: int) -> None:
    out = StringIO()
    console = Console(file=out, width=width)
    monkeypatch.setattr(show, "console", lambda: console)
    table = show.table("quota", "scope", "limit", title="Quotas")
    table.add_row(*CELLS)
    console.print(table)
    assert "…" not in out.getvalue()
    lines = [re.split(r"\s{2,}|[│┃]", line) for line in out.getvalue().splitlines()]
    for cell in CELLS:
        rest = cell.replace(" ", "")
        for pieces in lines:  # folded: each line of the table holds the next piece of it
            piece = next((part.replace(" ", "") for part in pieces if part and rest.startswith(part.replace(" ", ""))), "")
            rest = rest.removeprefix(piece)
        assert rest == "", cell
    if width >= 100:
        assert all(cell in out.getvalue() for cell in CELLS)
