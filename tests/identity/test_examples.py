"""The directories in docs/identity are what they say: they load, and their provider's tokens are somebody in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from authz.model import Uid
from tests.identity.issuer import sign
from tests.identity.test_tokens import ENTRA, GOOGLE, KEY, OKTA, Desk

FOLDER = Path(__file__).resolve().parents[2] / "docs/identity"
EXAMPLES: dict[str, tuple[dict[str, Any], str, str]] = {
    "okta": (OKTA, "okta.bo@acme.example", "chatbot"),
    "entra": (ENTRA, f"entra.{ENTRA['oid']}", "chatbot"),
    "google": (GOOGLE, "gil@acme.example", "chatbot"),
}


def test_every_example_is_tested() -> None:
    assert {path.stem for path in FOLDER.glob("*.yaml")} == set(EXAMPLES)
    guide = (FOLDER / "README.md").read_text()
    assert all(f"({name}.yaml)" in guide for name in EXAMPLES)


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_token_of_the_provider_is_its_user(name: str) -> None:
    claims, user, team = EXAMPLES[name]
    desk = Desk(text=(FOLDER / f"{name}.yaml").read_text())
    found = desk.identify(sign(claims, KEY))
    assert found is not None
    assert (found.uid, found.team) == (Uid("User", user), Uid("Team", team))
    for change in ({"aud": "another"}, {"iss": "https://evil.example"}, {"tid": "x", "hd": "x", "groups": [], "roles": []}):
        assert desk.identify(sign(claims | change, KEY)) is None
