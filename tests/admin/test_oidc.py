"""Sign-in at an identity provider: the whole way there and back, and every way in which it must not end in a session."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest

from authz.api.admin.oidc import PENDING_NS
from authz.errors import ConfigError
from tests.admin.house import Browser, House, inhabited, settings_of
from tests.admin.provider import CLIENT_SECRET, Provider, providing
from tests.identity.issuer import private_key, sign
from tests.place import START_NS, lay_out, opened_at
from tests.telemetry.test_metrics import free_port


@pytest.fixture
def provider() -> Iterator[Provider]:
    with providing() as found:
        yield found


@pytest.fixture
def house(provider: Provider, tmp_path: Path) -> Iterator[House]:
    port = free_port()
    config = lay_out(tmp_path, settings_of(port, provider.settings()))
    directory = tmp_path / "policies/directory.yaml"
    directory.write_text(directory.read_text() + provider.directory())
    with opened_at(config) as place, inhabited(place, {"PAGE_SECRET": CLIENT_SECRET}):
        place.engine.key_sets.refresh(place.engine.bundle.directory.issuers.values(), place.time())
        found = House(place, f"http://127.0.0.1:{port}")
        yield found
        found.close()


def sent_away(browser: Browser) -> str:
    answer = browser.get("/signin/oidc")
    assert answer.status_code == 303
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=lax", "Path=/signin/oidc", "Max-Age=300"} <= {part.strip() for part in cookie.split(";")}
    return str(answer.headers["location"])


def there_and_back(browser: Browser) -> httpx.Response:
    back = httpx.get(sent_away(browser)).headers["location"]
    return browser.get(back.removeprefix(browser.url))


def test_there_and_back(house: House, provider: Provider) -> None:
    browser = house.browser()
    assert "Sign in with 127.0.0.2" in browser.get("/signin").text
    away = urlsplit(sent_away(browser))
    asked = {name: values[0] for name, values in parse_qs(away.query).items()}
    assert (asked["scope"], asked["redirect_uri"]) == ("openid", f"{house.url}/signin/oidc/back")
    assert len({asked["state"], asked["nonce"], asked["code_challenge"]}) == 3
    answer = there_and_back(browser)
    assert answer.status_code == 200  # not a redirect: the cookie would not come along
    assert 'http-equiv="refresh" content="0;url=/"' in answer.text
    assert browser.get("/api/me").json()["who"] == 'User::"dev"'
    assert browser.get("/").status_code == 200
    assert provider.exchanges[-1]["grant_type"] == "authorization_code"


def test_what_was_signed_in_ends_with_its_token(house: House) -> None:
    browser = house.browser()
    there_and_back(browser)
    for _ in range(3):
        house.place.time.pass_s(1_190)
        assert browser.get("/api/me").status_code == 200
    house.place.time.pass_s(60)
    assert browser.get("/api/me").status_code == 401


@pytest.mark.parametrize(
    "claims",
    [
        {"nonce": "another"},
        {"nonce": None},
        {"aud": "api://authz"},
        {"aud": ["somebody-else"]},
        {"aud": ["authz-page", "somebody-else"], "azp": "somebody-else"},
        {"iss": "https://evil.example"},
        {"exp": START_NS // 10**9 - 1},
        {"nbf": START_NS // 10**9 + 600},
        {"sub": "stranger"},
        {"sub": 7},
    ],
)
def test_a_token_that_is_not_for_us_signs_nobody_in(house: House, provider: Provider, claims: dict[str, Any]) -> None:
    provider.claims = claims
    browser = house.browser()
    answer = there_and_back(browser)
    assert answer.status_code == 401
    assert "authz=" not in answer.headers.get("set-cookie", "")
    assert browser.get("/api/me").status_code == 401


def test_a_token_of_another_key_signs_nobody_in(house: House, provider: Provider) -> None:
    provider.key = private_key("another")
    assert there_and_back(house.browser()).status_code == 401


def test_only_the_browser_that_left_comes_back_and_once(house: House) -> None:
    """A code of the attacker's own would sign the victim in as the attacker."""
    attacker, victim = house.browser(), house.browser()
    back = httpx.get(sent_away(attacker)).headers["location"].removeprefix(house.url)
    sent_away(victim)
    assert victim.get(back).status_code == 401
    assert attacker.get(back).status_code == 401  # it was good for one attempt
    browser = house.browser()
    back = httpx.get(sent_away(browser)).headers["location"].removeprefix(house.url)
    assert browser.get(back).status_code == 200
    assert browser.get(back).status_code == 401


def test_coming_back_too_late(house: House) -> None:
    browser = house.browser()
    back = httpx.get(sent_away(browser)).headers["location"].removeprefix(house.url)
    house.place.time.pass_s(PENDING_NS / 1e9)
    assert "too long ago" in browser.get(back).text


@pytest.mark.parametrize("said", [{"iss": "https://evil.example"}, {"code": ""}, {"code": "made-up"}, {"state": "made-up"}])
def test_what_the_provider_did_not_say(house: House, provider: Provider, said: dict[str, str]) -> None:
    provider.from_here = said
    assert there_and_back(house.browser()).status_code == 401


def test_a_provider_that_fails(house: House, provider: Provider) -> None:
    provider.token_status = 500
    answer = there_and_back(house.browser())
    assert "did not change the code for a token" in answer.text


def test_a_token_for_inference_is_none_for_the_page_and_the_other_way_round(house: House, provider: Provider) -> None:
    now_s = START_NS // 10**9
    claims = {"iss": provider.url, "sub": "dev", "exp": now_s + 60}
    of_page = sign(claims | {"aud": "authz-page"}, provider.key)
    of_inference = sign(claims | {"aud": "api://authz"}, provider.key)
    place = house.place
    assert place.engine.pdp.decide(place.request(of_page)).record.reason == "invalid_api_key"
    assert place.engine.pdp.decide(place.request(of_inference)).record.effect == "allow"
    # A script comes with what it would come to inference with.
    for token, status in ((of_inference, 200), (of_page, 401)):
        assert httpx.get(f"{house.url}/api/me", headers={"authorization": f"Bearer {token}"}).status_code == status


def test_without_our_secret_nothing_is_served(provider: Provider, tmp_path: Path) -> None:
    config = lay_out(tmp_path, settings_of(free_port(), provider.settings()))
    with opened_at(config) as place, pytest.raises(ConfigError, match="`PAGE_SECRET` is not set"), inhabited(place):
        pass


def test_without_a_provider_there_is_no_way_to_it(tmp_path: Path) -> None:
    port = free_port()
    with opened_at(lay_out(tmp_path, settings_of(port))) as place, inhabited(place):
        for path in ("/signin/oidc", "/signin/oidc/back?code=x&state=y"):
            assert httpx.get(f"http://127.0.0.1:{port}{path}").status_code == 404
