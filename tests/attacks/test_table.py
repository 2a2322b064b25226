"""Every case of the catalogue is a named test, and docs/security.md says which: as the tests are now."""

from __future__ import annotations

import re
from collections import defaultdict

from tests.tools import attack_table


def test_every_case_has_a_test_of_its_own_in_this_folder() -> None:
    by_case = defaultdict(list)
    for each in attack_table.named():
        by_case[each.case].append(each.test)
    assert by_case.keys() == set(attack_table.CASES)
    for case, tests in by_case.items():
        assert any(test.startswith("tests/attacks/") for test in tests), f"A{case}"


def test_the_committed_table_is_what_the_tests_say() -> None:
    document = attack_table.DOCUMENT.read_text(encoding="utf-8")
    assert document == attack_table.written(document), "run `make attacks`"
    listed = set(re.findall(r"^\| A\d+ \| `([^`]+)` \| `([^`]+)` \|$", document, re.MULTILINE))
    there = {tuple(each.test.split("::")[::-1]) for each in attack_table.named()}
    assert listed == there
    for name, file in listed:
        assert f"def {name}(" in (attack_table.TESTS.parent / file).read_text(encoding="utf-8")
