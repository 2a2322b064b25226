"""docs/quotas.md: its examples load, its tables are complete, and what it quotes is what is said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

import pytest

from authz.answers import quota_refusal
from authz.bundle import load_bundle
from authz.model import Meter, QuotaState
from authz.quota.definitions import Mode, Per, QuotaRow, Reserve, parse_quota
from authz.quota.ledger import Full, OnStoreError
from authz.quota.windows import Kind, Period
from authz.settings import read_settings
from tests.bundle.folders import copy

GUIDE: Final = (Path(__file__).parents[2] / "docs" / "quotas.md").read_text(encoding="utf-8")
BLOCKS: Final = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
DAY_S: Final = 86_400


def test_the_example_is_a_bundles_quotas_and_has_one_of_everything(tmp_path: Path) -> None:
    folder = copy(tmp_path)
    (folder / "quotas.yaml").write_text(BLOCKS[0], encoding="utf-8")
    (folder / "tests" / "limits.yaml").unlink()
    quotas = load_bundle(folder).quotas.quotas
    assert {quota.meter for quota in quotas} == set(Meter)
    assert {quota.window.kind for quota in quotas} == set(Kind)
    assert {uid.type for quota in quotas for uid in quota.scope} == {"Org", "Team", "Key", "Role", "ModelGroup"}
    assert {quota.reserve for quota in quotas} == set(Reserve)
    assert {quota.enforced for quota in quotas} == {True, False}
    assert any(len(quota.scope) == 2 for quota in quotas)


def test_every_field_and_every_choice_is_explained() -> None:
    table = GUIDE[GUIDE.index("## The fields") : GUIDE.index("## Windows")]
    explained = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert sorted(explained) == sorted(name for name in QuotaRow.__struct_fields__ if name != "id")
    for choices in (Meter, Per, Mode, Reserve, OnStoreError, Period):
        for choice in choices:
            assert f"`{choice.value}`" in table, choice


@pytest.mark.parametrize(
    ("limit", "length_s"), [("500/minute", 60), ("10 per 2 hours", 7_200), ("1/month", 30 * DAY_S), ("1/week", 7 * DAY_S)]
)
def test_rates_are_as_long_as_it_says(limit: str, length_s: int) -> None:
    row = QuotaRow(id="q", scope='Org::"acme"', what=Meter.REQUESTS, limit=limit)
    assert parse_quota(row, "UTC").window.length_s == length_s


def test_the_refusal_is_quoted_as_it_is_said() -> None:
    state = QuotaState("org-spend", 'Org::"acme"', Meter.SPEND, "month", 10**9, 10**9, 1, reset_s=10.0)
    said = quota_refusal(Full((state,), 0, 10.0), "m", 1796083190 * 10**9)
    quoted = re.search(r"`(Requests resume on .*?)`", GUIDE)
    assert quoted is not None
    assert said.message.endswith(quoted.group(1))


def test_the_settings_in_it_are_settings(tmp_path: Path) -> None:
    file = tmp_path / "authz.yaml"
    file.write_text(BLOCKS[1], encoding="utf-8")
    assert [hook.format for hook in read_settings(file).alerts.webhooks] == ["slack", "generic"]
    assert "reservation_ttl_s` (`authz.yaml`, 900)" in GUIDE
    assert read_settings(file).reservation_ttl_s == 900
