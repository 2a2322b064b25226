"""Virtual keys and the bearer header (A1, A8, A55 to A57)."""

from __future__ import annotations

import random

import pytest

from authz.errors import Refused
from authz.identity import keys
from authz.identity.credentials import KeyRing, bearer
from authz.model import Request, Secret
from authz.reasons import Reason

KEY = keys.mint(random.Random(1).choice)


def request(*values: str) -> Request:
    return Request("POST", "/", tuple(("authorization", value) for value in values), b"")


def test_a_minted_key_has_its_shape_and_check_sum() -> None:
    assert keys.well_formed(KEY)
    assert KEY.startswith("authz_")
    assert len(KEY) == 46


def test_any_one_changed_character_breaks_the_check_sum() -> None:
    for position in range(len(KEY)):
        other = "x" if KEY[position] != "x" else "y"
        assert not keys.well_formed(KEY[:position] + other + KEY[position + 1 :])


def test_two_keys_differ() -> None:
    assert keys.mint(random.Random(2).choice) != KEY


def test_one_bearer_token_is_read() -> None:
    assert bearer(request(f"Bearer {KEY}")) == KEY
    assert bearer(request(f"bearer {KEY}")) == KEY


@pytest.mark.parametrize(
    "values",
    [
        (),
        ("",),
        (KEY,),
        (f"Basic {KEY}",),
        (f"Bearer {KEY}", f"Bearer {KEY}"),
        (f"Bearer {KEY},Bearer {KEY}",),
        (f"Bearer {KEY} ",),
        (f"Bearer  {KEY}",),
        ("Bearer ' OR 1=1 --",),
        ("Bearer gsk_somebody-elses-key",),
        (f"Bearer {KEY}\u00e9",),
    ],
)
def test_every_other_credential_gets_the_one_answer(values: tuple[str, ...]) -> None:
    with pytest.raises(Refused) as caught:
        bearer(request(*values))
    assert (caught.value.reason, caught.value.message) == (Reason.INVALID_API_KEY, "Invalid API Key")


class Rows:
    def __init__(self, *rows: keys.IssuedKey) -> None:
        self.rows = list(rows)

    def put_key(self, row: keys.IssuedKey) -> None:
        self.rows.append(row)

    def revoke_key(self, digest: str, now_ns: int) -> bool:
        raise NotImplementedError

    def keys_since(self, sequence: int) -> tuple[keys.IssuedKey, ...]:
        return tuple(row for row in self.rows if row.sequence > sequence)


def test_the_ring_finds_what_is_in_force() -> None:
    rows = Rows(
        keys.IssuedKey("a", "alpha", 1, sequence=1),
        keys.IssuedKey("b", "beta", 1, expires_ns=100, sequence=2),
        keys.IssuedKey("c", "gamma", 1, revoked_ns=5, sequence=3),
    )
    ring = KeyRing(rows)
    assert ring.find("a", 50) is None
    ring.refresh()
    assert [ring.find(digest, 50) for digest in "abcd"] == ["alpha", "beta", None, None]
    assert ring.find("b", 100) is None
    rows.put_key(keys.IssuedKey("a", "alpha", 1, revoked_ns=60, sequence=4))
    ring.refresh()
    assert ring.find("a", 70) is None


def test_a_secret_does_not_print() -> None:
    secret = Secret("gsk_canary")
    assert "canary" not in f"{secret} {secret!r}"
    assert secret.reveal() == "gsk_canary"
    assert secret == Secret("gsk_canary")
    assert secret != Secret("other")
