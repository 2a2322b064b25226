"""Coming in, staying in and being put out: what a browser is given, and what others try."""

from __future__ import annotations

import random
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from authz.api.admin.sessions import IDLE_NS, LIFE_NS, Sessions
from authz.cli import cli
from authz.errors import ConfigError
from authz.identity.failures import LIMIT
from authz.identity.keys import digest, mint
from authz.settings import read_settings
from tests.admin.house import SECRETS, House, inhabited, json_of, open_house, settings_of
from tests.issued import put
from tests.place import lay_out, opened_at
from tests.telemetry.test_metrics import free_port


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as found:
        yield found


def test_a_session_is_a_cookie_that_no_script_and_no_other_site_gets(house: House) -> None:
    browser = house.browser()
    assert browser.get("/").headers["location"] == "/signin"
    answer = browser.post("/signin", credential=SECRETS["dev"])
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    cookie = answer.headers["set-cookie"]
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= {part.strip() for part in cookie.split(";")}
    assert "Secure" not in cookie  # over http on loopback a browser would drop it
    assert SECRETS["dev"] not in cookie
    page = browser.get("/")
    assert page.status_code == 200
    assert "dev" in page.text
    assert browser.get("/api/me").json()["csrf"]


def test_over_tls_the_cookie_is_secure_and_of_this_host_only(tmp_path: Path) -> None:
    port = free_port()
    config = lay_out(tmp_path, settings_of(port, ", url: 'https://authz.example.com'"))
    with opened_at(config) as place, inhabited(place):
        headers = {"host": "authz.example.com", "origin": "https://authz.example.com"}
        answer = httpx.post(f"http://127.0.0.1:{port}/signin", data={"credential": SECRETS["dev"]}, headers=headers)
        cookie = answer.headers["set-cookie"]
        assert cookie.startswith("__Host-authz=")
        assert "Secure" in cookie
        plain = headers | {"origin": f"http://127.0.0.1:{port}"}
        assert httpx.post(f"http://127.0.0.1:{port}/signin", data={"credential": "x"}, headers=plain).status_code == 403


@pytest.mark.parametrize("path", ["/", "/signin", "/static/page.css", "/api/keys", "/nothing"])
def test_every_answer_carries_what_keeps_a_browser_safe(house: House, path: str) -> None:
    for client in (house.browser().client, house.signed_in("olivia").client):
        headers = client.get(path).headers
        policy = headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'")
        assert "frame-ancestors 'none'" in policy
        assert "unsafe" not in policy
        assert (headers["cache-control"], headers["x-content-type-options"]) == ("no-store", "nosniff")
        assert "server" not in headers


def test_a_name_that_leads_here_is_not_ours(house: House) -> None:
    """DNS rebinding: the browser is right to send its cookie of that name, and gets nothing for it."""
    for host in ("evil.example", "evil.example:80", "127.0.0.1", "localhost", ""):
        answer = httpx.get(f"{house.url}/api/keys", headers={"host": host, "authorization": f"Bearer {SECRETS['olivia']}"})
        assert answer.status_code in (400, 421)
        assert "content-security-policy" in answer.headers or answer.status_code == 400
    port = house.url.rpartition(":")[2]
    answer = httpx.get(
        f"{house.url}/api/keys", headers={"host": f"localhost:{port}", "authorization": f"Bearer {SECRETS['olivia']}"}
    )
    assert answer.status_code == 200


def test_what_another_site_asks_for_by_itself_is_refused_and_a_link_is_not(house: House) -> None:
    """On one machine every port is the same site, so the cookie comes along."""
    browser = house.signed_in("dev")
    navigation = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "document"}
    image = {"sec-fetch-mode": "no-cors", "sec-fetch-dest": "image"}
    frame = {"sec-fetch-mode": "navigate", "sec-fetch-dest": "iframe"}
    for site in ("same-site", "cross-site"):
        assert browser.client.get("/keys", headers={"sec-fetch-site": site} | navigation).status_code == 200
        for asked in (image, frame, {}):
            assert browser.client.get("/keys", headers={"sec-fetch-site": site} | asked).status_code == 403
        assert browser.client.post("/signout", headers={"sec-fetch-site": site} | navigation).status_code == 403
    for site in ("same-origin", "none"):
        assert browser.client.get("/keys", headers={"sec-fetch-site": site} | image).status_code == 200


def test_a_form_needs_the_sessions_token_and_our_origin(house: House) -> None:
    browser = house.signed_in("dev")
    csrf, other = browser.csrf(), house.signed_in("olivia").csrf()
    form = {"key": "chatbot-prod", "days": "1"}
    before = house.place.engine.store.audit_last()
    for answer in (
        browser.post("/keys", **form),
        browser.post("/keys", csrf="", **form),
        browser.post("/keys", csrf=other, **form),
        browser.post("/keys", csrf=csrf, origin="https://evil.example", **form),
        browser.post("/keys", csrf=csrf, origin="null", **form),
        browser.post("/keys", csrf=csrf, origin=None, **form),
        browser.client.post("/api/keys", json=form, headers={"origin": house.url}),
        browser.client.post("/api/keys", json=form, headers={"origin": house.url, "x-csrf-token": other}),
    ):
        assert answer.status_code == 403, answer.text
    assert house.place.engine.store.audit_last() == before
    assert browser.post("/keys", csrf=csrf, **form).status_code == 303
    headers = {"sec-fetch-site": "same-origin", "x-csrf-token": csrf}
    assert browser.client.post("/api/keys", json={"key": "chatbot-prod"}, headers=headers).status_code == 201


def test_nobody_signs_somebody_elses_browser_in(house: House) -> None:
    answer = house.browser().post("/signin", origin="https://evil.example", credential=SECRETS["dev"])
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


def test_a_credential_in_the_header_goes_before_the_cookie_and_needs_no_token(house: House) -> None:
    browser = house.signed_in("olivia")
    answer = browser.client.get("/api/me", headers={"authorization": f"Bearer {SECRETS['dev']}"})
    assert json_of(answer)["who"] == 'User::"dev"'
    assert browser.client.get("/api/me", headers={"authorization": "Bearer wrong"}).status_code == 401


def test_trying_is_limited_and_what_is_right_still_passes(house: House) -> None:
    browser = house.browser()
    answers = [browser.post("/signin", credential=f"wrong-{number}") for number in range(LIMIT + 5)]
    assert [answer.status_code for answer in answers[:LIMIT]] == [401] * LIMIT
    assert {answer.status_code for answer in answers[LIMIT:]} == {429}
    assert "Too many invalid credentials" in answers[-1].text
    assert all("wrong-" not in answer.text for answer in answers)
    house.signed_in("dev")


def test_signing_out_ends_the_session_everywhere(house: House) -> None:
    browser = house.signed_in("dev")
    cookies = dict(browser.client.cookies)
    assert browser.send("/signout").headers["location"] == "/signin"
    assert httpx.get(f"{house.url}/api/me", cookies=cookies).status_code == 401


@pytest.mark.parametrize("after_ns", [IDLE_NS, LIFE_NS])
def test_a_session_ends(house: House, after_ns: int) -> None:
    browser = house.signed_in("dev")
    for _ in range(after_ns // (IDLE_NS // 2) - 1):
        house.place.time.pass_s(IDLE_NS / 2e9)
        assert browser.get("/api/me").status_code == 200
    house.place.time.pass_s(IDLE_NS / 1e9 if after_ns == IDLE_NS else IDLE_NS / 2e9)
    assert browser.get("/api/me").status_code == 401


def test_sessions_are_bounded() -> None:
    names = iter(str(number) for number in range(100))
    sessions = Sessions(lambda: next(names), most=3)
    cookies = [sessions.open(lambda: pytest.fail("nobody asked"), 0) for _ in range(3)]
    assert sessions.find(cookies[0], 1) is not None
    sessions.open(lambda: pytest.fail("nobody asked"), 2)
    assert [sessions.find(cookie, 3) is not None for cookie in cookies] == [True, False, True]
    assert len(sessions) == 3


def test_a_user_who_is_out_of_force_is_out(house: House) -> None:
    browser = house.signed_in("dev")
    directory = house.place.folder / "policies/directory.yaml"
    directory.write_text(directory.read_text().replace("dev: {teams: [chatbot]", "dev: {disabled: true, teams: [chatbot]"))
    assert house.place.engine.source.refresh()
    assert browser.get("/api/me").status_code == 403
    assert house.browser().post("/signin", credential=SECRETS["dev"]).status_code == 403


def test_a_user_whom_nobody_has_permitted_anything(house: House) -> None:
    answer = house.browser().post("/signin", credential=SECRETS["nobody"])
    assert answer.status_code == 403
    assert "set-cookie" not in answer.headers


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[House]:
    """A bundle whose policies let a key see and look after its own team's keys, and one of whose keys has two roles."""
    port = free_port()
    config = lay_out(tmp_path, settings_of(port))
    policies = tmp_path / "policies"
    (policies / "keys.cedar").write_text(
        '@id("key-sees")\npermit (principal is Key in Role::"developer", action in Action::"administer", resource)\n'
        "when { principal in resource };\n"
        '@id("no-readers")\nforbid (principal is Key in Role::"reader", action == Action::"key.create", resource);\n'
    )
    directory = policies / "directory.yaml"
    directory.write_text(
        directory.read_text().replace(
            "chatbot-prod: {team: chatbot,", "chatbot-prod: {team: chatbot, roles: [developer, reader],"
        )
    )
    with opened_at(config) as place, inhabited(place):
        house = House(place, f"http://127.0.0.1:{port}")
        yield house
        house.close()


def test_a_virtual_key_signs_in_as_itself_until_it_is_revoked(keyed: House) -> None:
    secret = keyed.place.issue("chatbot-prod")
    browser = keyed.browser()
    assert browser.post("/signin", credential=secret).status_code == 303
    assert browser.get("/api/me").json() | {"csrf": ""} == {
        "who": 'Key::"chatbot-prod"',
        "teams": ["chatbot"],
        "roles": ["developer", "reader"],
        "csrf": "",
    }
    store = keyed.place.engine.store
    (row,) = [each for each in store.keys_since(0) if each.digest == digest(secret)]
    put(store, replace(row, revoked_ns=1))
    keyed.place.engine.tick()
    assert browser.get("/api/me").status_code == 401


def test_a_key_with_fewer_roles_is_no_way_round_a_forbid(keyed: House) -> None:
    """A58: left out of the secret, the role that forbids still forbids; and the one that permits is not there to permit."""
    for roles, sees in ((("developer",), True), (("reader",), False), ((), False)):
        browser = keyed.browser()
        signed = browser.post("/signin", credential=keyed.place.issue("chatbot-prod", roles=roles)).status_code
        assert (signed == 303) is sees
        if sees:
            assert browser.get("/api/me").json()["roles"] == ["developer"]
            assert browser.send("/keys", key="chatbot-prod").status_code == 403


def test_an_issued_secret_is_shown_once(house: House) -> None:
    browser = house.signed_in("dev")
    assert browser.send("/keys", key="chatbot-prod", days="30", note="mine").headers["location"] == "/keys"
    page = browser.get("/keys").text
    assert page.count("authz_") == 1
    assert "It is shown this once" in page
    assert "authz_" not in browser.get("/keys").text


def test_on_a_unix_socket_of_nobody_else(tmp_path: Path) -> None:
    config = lay_out(tmp_path, settings_of(1).replace("127.0.0.1:1", "unix:run/admin.sock"))
    path = tmp_path / "run/admin.sock"
    with opened_at(config) as place, inhabited(place):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        with httpx.Client(transport=httpx.HTTPTransport(uds=str(path)), base_url="http://localhost") as client:
            assert client.get("/api/me", headers={"authorization": f"Bearer {SECRETS['dev']}"}).status_code == 200
        with pytest.raises(ConfigError, match="another process serves on it"), inhabited(place):
            pass
    assert not path.exists()


def test_off_unless_the_settings_say_so_and_a_port_that_is_taken(tmp_path: Path) -> None:
    with opened_at(lay_out(tmp_path)) as place, inhabited(place):
        assert place.engine.watched.watchers == ()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        place_with(tmp_path / "other", taken.getsockname()[1])


def place_with(folder: Path, port: int) -> None:
    folder.mkdir()
    with (
        opened_at(lay_out(folder, settings_of(port))) as place,
        pytest.raises(ConfigError, match="the admin page cannot be served: address already in use"),
        inhabited(place),
    ):
        pass


@pytest.mark.parametrize(
    ("admin", "problem"),
    [
        ("{listen: 0.0.0.0:9901}", "expected a loopback address and port"),
        ("{listen: example.com:80}", "expected a loopback address and port"),
        ("{listen: 127.0.0.1:9901, url: 'http://authz.example.com'}", "expected https, or a loopback"),
        ("{listen: 127.0.0.1:9901, url: 'https://authz.example.com/page'}", "expected an origin"),
        ("{secrets: [{user: dev, digest: hunter2}]}", "digest"),
        ("{oidc: {issuer: i, authorize: 'http://i.example', token: 'https://i', client_id: c}}", "authorize: expected"),
        ("{listen: 'unix:a', oidc: {issuer: i, authorize: 'https://i', token: 'https://i', client_id: c}}", "expected `url`"),
    ],
)
def test_settings_that_are_wrong(tmp_path: Path, admin: str, problem: str) -> None:
    config = lay_out(tmp_path, f"admin: {admin}\n")
    with pytest.raises(ConfigError, match=problem):
        read_settings(config)


def test_the_command_makes_a_secret_and_the_line_for_its_digest() -> None:
    done = CliRunner().invoke(cli, ["admin", "secret", "olivia"], catch_exceptions=False)
    secret = done.stdout.strip()
    assert f'admin: {{secrets: [{{user: olivia, digest: "sha256:{digest(secret)}"}}]}}' in done.stderr
    assert secret not in done.stderr


def test_a_secret_that_another_made_up_is_none(house: House) -> None:
    """Only what has the shape and check sum of ours is looked up: a word that somebody chose would be guessed."""
    answer = house.browser().post("/signin", credential=mint(random.Random(1).choice))
    assert answer.status_code == 401
