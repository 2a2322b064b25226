"""One table, every door: the decision, its record and its settlement are equal, and are what they were when they were agreed.

`python -m tests.golden.test_golden` writes `records.json` anew; what differs in it is a change of what clients or auditors see.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
import pytest
from msgspec import structs

from authz.model import DecisionRecord
from authz.reasons import Reason
from tests.golden.cases import CASES, Case
from tests.golden.doors import Came, Door, EnvoyDoor, doors

pytestmark = pytest.mark.xdist_group("golden")

RECORDS: Final = Path(__file__).parent / "records.json"
_CHANCE: Final = {"decision_id": "", "reservation_id": ""}


@pytest.fixture(scope="module")
def opened() -> Iterator[dict[str, Door]]:
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as folder, doors(Path(folder)) as found:
        yield found


@pytest.fixture(scope="module")
def agreed() -> dict[str, Any]:
    found: dict[str, Any] = msgspec.json.decode(RECORDS.read_bytes())
    return found


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_door_gives_the_same_answer_record_and_settlement(
    opened: dict[str, Door], agreed: dict[str, Any], case: Case
) -> None:
    first, *others = came(opened, case).items()
    for name, found in others:
        assert found == first[1], f"{name} differs from {first[0]}"
    assert kept(first[1]) == agreed[case.name]
    record = first[1].record
    if isinstance(case.expect, Reason):
        assert (record.effect, record.reason, record.status) == ("deny", case.expect, case.status)
    else:
        assert (record.effect, first[1].answer.effect) == ("allow", case.expect)
    assert first[1].answer.status == case.status
    assert (first[1].settlement is not None) == (case.expect == "allow")


def test_envoy_answers_a_body_that_it_does_not_read_as_a_denial_of_ours(
    opened: dict[str, Door], agreed: dict[str, Any]
) -> None:
    (case,) = (case for case in CASES if not case.whole)
    ours = agreed[case.name]["answer"]
    for door in opened.values():
        if isinstance(door, EnvoyDoor):
            answer, _ = door.ask(case, door.secrets[case.key], "")
            assert answer.status == ours["status"]
            for name in ("type", "code"):
                assert answer.body["error"][name] == ours["body"]["error"][name]
            assert not door.records()


def test_every_reason_has_a_case() -> None:
    """But for the one of the queue before Check, where no other door waits."""
    assert {case.expect for case in CASES if isinstance(case.expect, Reason)} == set(Reason) - {Reason.OVERLOADED}


def test_the_table_and_the_agreed_records_are_of_the_same_cases(agreed: dict[str, Any]) -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 30
    assert list(agreed) == names


def came(opened: dict[str, Door], case: Case) -> dict[str, Came]:
    """What a case came to at each door, without what chance gives it. An Envoy names requests itself."""
    found: dict[str, Came] = {}
    first: Came | None = None
    for name, door in opened.items():
        if isinstance(door, EnvoyDoor) and not case.whole:
            continue
        came_to = door.run(case, first)
        first = first or came_to
        own = _CHANCE | ({"request_id": first.record.request_id} if isinstance(door, EnvoyDoor) else {})
        found[name] = structs.replace(
            came_to,
            record=structs.replace(came_to.record, **own),
            settlement=structs.replace(came_to.settlement, reservation_id="") if came_to.settlement else None,
        )
    return found


def kept(found: Came) -> dict[str, Any]:
    """As `records.json` has it: without the first door's request id and the bundle's digest, which its schema is part of."""
    assert isinstance(found.record, DecisionRecord)
    written = structs.replace(found, record=structs.replace(found.record, request_id="", bundle=""))
    said: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(written))
    return said


if __name__ == "__main__":
    with tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as folder, doors(Path(folder)) as found:
        written = {case.name: kept(next(iter(came(found, case).values()))) for case in CASES}
    RECORDS.write_bytes(msgspec.json.format(msgspec.json.encode(written), indent=1) + b"\n")
