from __future__ import annotations

from datetime import datetime
from zoneinfo import ZoneInfo

import pytest

from authz.errors import ConfigError
from authz.identity.directory import Directory, read_directory
from authz.model import Uid
from authz.yamlfile import parse_yaml

BERLIN = ZoneInfo("Europe/Berlin")
HEX = "0" * 63 + "a"
GOOD = f"""
organisation: {{id: acme}}
roles: {{developer: {{}}, owner: {{}}}}
teams: {{a: {{}}, b: {{}}}}
users:
  ada: {{teams: [a, b], roles: [developer, owner]}}
  gone: {{teams: [a], disabled: true}}
keys:
  plain: {{team: a, roles: [developer]}}
  hers: {{team: a, user: ada}}
  less: {{team: b, user: ada, roles: [developer]}}
  bare: {{team: b, user: ada, roles: []}}
  stopped: {{team: a, disabled: true}}
  orphan: {{team: a, user: gone}}
  brief: {{team: a, expires: 2026-10-24, digests: ["sha256:{HEX}"]}}
  always: {{team: a, expires: 9999-12-31}}
"""


def read(text: str) -> Directory:
    return read_directory(parse_yaml(text, "directory.yaml"), BERLIN)


def test_a_key_has_its_team_its_user_and_the_roles_it_was_given() -> None:
    directory = read(GOOD)
    roles = {}
    for key in ("plain", "hers", "less", "bare"):
        principal = directory.principal(key, 0)
        assert principal is not None
        roles[key] = [role.id for role in principal.roles]
    assert roles == {"plain": ["developer"], "hers": ["developer", "owner"], "less": ["developer"], "bare": []}
    hers = directory.principal("hers", 0)
    assert hers is not None
    above = [Uid("User", "ada"), Uid("Team", "a"), Uid("Org", "acme"), Uid("Role", "developer"), Uid("Role", "owner")]
    assert list(hers.path) == [Uid("Key", "hers"), *above]


@pytest.mark.parametrize("key", ["stopped", "orphan", "unknown", ""])
def test_a_key_that_is_not_in_force_is_like_one_that_does_not_exist(key: str) -> None:
    assert read(GOOD).principal(key, 0) is None


def test_a_key_works_through_its_last_day_in_the_organisations_zone() -> None:
    """The night after 24 October 2026 is the one in which Berlin's clocks go back."""
    directory = read(GOOD)
    end_ns = int(datetime(2026, 10, 25, tzinfo=BERLIN).timestamp()) * 10**9
    assert directory.principal("brief", end_ns - 1) is not None
    assert directory.principal("brief", end_ns) is None
    assert directory.principal("always", 2**62) is not None


def test_a_user_acts_in_one_of_their_teams() -> None:
    directory = read(GOOD)
    ada = directory.user("ada", "b", 0)
    assert ada is not None
    assert (ada.uid, ada.user, ada.team) == (Uid("User", "ada"), Uid("User", "ada"), Uid("Team", "b"))
    for user, team in (("ada", "c"), ("gone", "a"), ("nobody", "a")):
        assert directory.user(user, team, 0) is None


def test_a_declared_secret_is_found_by_its_digest() -> None:
    assert read(GOOD).key_of_digest(HEX) == "brief"
    assert read(GOOD).key_of_digest(HEX.upper()) is None


@pytest.mark.parametrize(
    ("old", "new", "problem", "line"),
    [
        ("{team: a, roles: [developer]}", "{team: c}", "unknown team `c`", 9),
        ("{team: a, user: ada}", "{team: a, user: bob}", "unknown user `bob`", 10),
        ("{team: a, user: gone}", "{team: b, user: gone}", "user `gone` is not in team `b`", 14),
        ("{team: a, user: gone}", "{team: a, user: gone, roles: [owner]}", "user `gone` does not have role `owner`", 14),
        ("[a, b], roles", "[a, c], roles", "unknown team `c`", 6),
        ("[developer, owner]}", "[owner, owner]}", "role `owner` stands twice", 6),
        ("expires: 2026-10-24", "expires: soon", "invalid RFC3339", 15),
        (f"sha256:{HEX}", HEX, "not the secret itself", 15),
        (f"sha256:{HEX}", "sha256:abc", "not the secret itself", 15),
        ("expires: 9999-12-31", f'digests: ["sha256:{HEX}"]', "stands for key `brief` already", 16),
        ("  plain:", '  "../plain":', "expected letters, digits", 9),
        ("  plain:", '  "pl\\nain":', "expected letters, digits", 9),
        ("  plain:", "  plaın:", "expected letters, digits", 9),
        ("id: acme", "id: a b", "expected letters, digits", 2),
        ("organisation: {id: acme}", "organisation: {}", "missing required field `id`", 2),
    ],
)
def test_what_is_wrong_is_said_with_its_place(old: str, new: str, problem: str, line: int) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        read(GOOD.replace(old, new, 1))
    assert problem in caught.value.problem
    assert (caught.value.file, caught.value.line) == ("directory.yaml", line)
