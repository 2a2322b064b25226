"""The page in a real browser: what a person does with it, and nothing that the browser complains of."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, expect

from authz.model import Deny
from authz.reasons import Reason
from tests.admin.chromium import Window, chromium, window
from tests.admin.house import SECRETS, House, inhabited, open_house, settings_of
from tests.admin.lived_in import decide_one, live_in
from tests.admin.provider import CLIENT_SECRET, providing
from tests.place import lay_out, opened_at
from tests.telemetry.test_metrics import free_port

pytestmark = pytest.mark.xdist_group("chromium")

HOSTILE = "<img src=x onerror=alert(1)>\"'</script><script>alert(2)</script>"
VIEWS = ("/", "/decisions", "/usage?by=model", "/budgets", "/keys?all=1", "/access", "/access?administration=1", "/bundle")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as found:
        yield found


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    with open_house(tmp_path) as found:
        yield found


@pytest.fixture
def shown(browser: Browser, house: House) -> Iterator[Window]:
    with window(browser, house.url) as found:
        yield found
        assert found.complaints == []


def sign_in(shown: Window, house: House, user: str) -> None:
    page = shown.page
    page.goto(house.url)
    expect(page).to_have_title("Sign in · authz")
    page.get_by_label("Admin secret or key").fill(SECRETS[user])
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()


def test_sign_in_see_a_live_decision_arrive_and_rotate_a_key(shown: Window, house: House) -> None:
    secrets, page, place = live_in(house), shown.page, house.place
    sign_in(shown, house, "olivia")
    expect(page.locator("#connection")).to_have_text("live")

    decision = place.engine.pdp.decide(place.request(secrets["chatbot-prod"], model=HOSTILE))
    row = page.locator(f"tr[data-id='{decision.record.decision_id}']")
    expect(row).to_contain_text("model_not_found")
    expect(page.locator("#live tr").first).to_have_attribute("data-id", decision.record.decision_id)
    row.get_by_role("link").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text("model_not_found")
    expect(page.locator("main")).to_contain_text("<img src=x onerror=alert(1)>")

    page.get_by_role("link", name="Keys").click()
    row = page.locator("tr[data-key='chatbot-prod'][data-state=active]")
    row.get_by_text("Change").click()
    row.get_by_label("The old one works on for").fill("2h")
    row.get_by_role("button", name="Rotate").click()
    fresh = page.get_by_label("Secret", exact=True).input_value()
    expect(page.locator("tr[data-key='chatbot-prod'][data-state=replaced]")).to_contain_text("2026-11-21 16:07")
    place.engine.tick()
    assert place.engine.pdp.decide(place.request(fresh)).record.principal == 'Key::"chatbot-prod"'
    page.reload()
    expect(page.get_by_label("Secret", exact=True)).to_have_count(0)

    row = page.locator("tr[data-key='chatbot-prod'][data-state=replaced]")
    row.get_by_text("Change").click()
    row.get_by_label("Why").fill("nobody uses it")
    row.get_by_role("button", name="Revoke").click()
    expect(page.get_by_role("status")).to_contain_text("is revoked")
    place.engine.tick()
    refused = place.engine.pdp.decide(place.request(secrets["chatbot-prod"]))
    assert isinstance(refused, Deny)
    assert refused.reason is Reason.INVALID_API_KEY

    page.get_by_role("button", name="Sign out").click()
    expect(page).to_have_title("Sign in · authz")


def test_a_budget_is_stopped_and_given_back(shown: Window, house: House) -> None:
    secrets, page, place = live_in(house), shown.page, house.place
    sign_in(shown, house, "olivia")
    page.get_by_role("link", name="Budgets").click()
    page.get_by_text("Change it for this month").click()
    page.get_by_label("New limit, USD").fill("100")
    page.get_by_label("Why").first.fill("too fast")
    page.get_by_role("button", name="Set the limit").click()
    expect(page.get_by_role("status")).to_have_text("org-spend: 100.00 USD this month, 500.00 before.")
    expect(page.locator(".badge", has_text="reached")).to_be_visible()
    assert place.engine.pdp.decide(place.request(secrets["chatbot-prod"])).record.reason is Reason.SPEND_CAP_REACHED
    page.get_by_text("Change it for this month").click()
    page.get_by_label("Why").last.fill("calm again")
    page.get_by_role("button", name="Give the whole limit again").click()
    expect(page.get_by_role("status")).to_contain_text("500.00 USD are left")


def test_nothing_that_somebody_wrote_is_obeyed(shown: Window, house: House) -> None:
    """A model's name, a key's note and the words of a raise, in every view, drawn by the server and by the script."""
    page, place = shown.page, house.place
    note = HOSTILE + "\u202e"
    secret = place.issue("chatbot-prod", note=note)
    house.script("olivia").post("/api/budgets/org-spend/raise", json={"by": "1 USD", "why": note}).raise_for_status()
    place.engine.pdp.decide(place.request(secret, model=HOSTILE))
    sign_in(shown, house, "olivia")
    expect(page.locator("#connection")).to_have_text("live")
    place.engine.pdp.decide(place.request(secret, model="live" + HOSTILE))
    expect(page.locator("#live tr")).to_have_count(2)
    for path in VIEWS:
        page.goto(house.url + path)
        assert page.locator("img[src=x]").count() == 0
        assert page.evaluate("document.querySelectorAll('script:not([src]), [onerror], [onclick], [style]').length") == 0
    page.goto(house.url + "/keys")
    expect(page.locator("td.words").first).to_contain_text("<img src=x onerror=alert(1)>")
    page.goto(house.url + "/budgets")
    expect(page.locator("main")).to_contain_text("</script><script>alert(2)</script>")


def test_a_developer_sees_their_own_team(shown: Window, house: House) -> None:
    secrets, page, place = live_in(house), shown.page, house.place
    sign_in(shown, house, "dev")
    expect(page.locator("#connection")).to_have_text("live")
    before = page.locator("#live tr").count()
    place.engine.pdp.decide(place.request(secrets["batch-processor"], "no-such-model"))
    decision = place.engine.pdp.decide(place.request(secrets["chatbot-prod"], "no-such-model"))
    expect(page.locator(f"tr[data-id='{decision.record.decision_id}']")).to_be_visible()
    assert page.locator("#live tr", has_text="analytics").count() == 0
    assert page.locator("#live tr").count() <= before + 1
    for path in VIEWS:
        page.goto(house.url + path)
        for other in ("batch-processor", "research-lab"):
            assert page.locator("main", has_text=other).count() == 0, path


@pytest.mark.parametrize(("width", "scheme"), [(390, "dark"), (1240, "light")])
def test_every_view_fits_and_can_be_read(browser: Browser, house: House, width: int, scheme: str) -> None:
    """Nothing is wider than the window, everything has a name, and text stands out from what is behind it (WCAG AA)."""
    live_in(house)
    with window(browser, house.url, width=width, scheme="dark" if scheme == "dark" else "light") as shown:
        sign_in(shown, house, "olivia")
        page = shown.page
        for path in VIEWS:
            page.goto(house.url + path)
            assert page.evaluate("document.documentElement.scrollWidth") <= width, path
            assert page.evaluate(_NAMELESS) == [], path
            assert page.evaluate(_FAINT) == [], path
        assert shown.complaints == []


_NAMELESS = """() => [...document.querySelectorAll('input:not([type=hidden]), select, button, a, svg[role=img], summary')]
  .filter(each => !(each.labels && each.labels.length) && !each.textContent.trim() && !each.getAttribute('aria-label'))
  .map(each => each.outerHTML)"""

_FAINT = """() => {
  const numbers = text => text.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, at) => sum + v * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = each => {
    for (; each; each = each.parentElement) {
      const colour = numbers(getComputedStyle(each).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  const faint = [];
  for (const each of document.querySelectorAll('body *')) {
    const own = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
    if (!own || !each.checkVisibility() || each.closest('svg, .hide, .skip')) continue;
    const [one, two] = [light(numbers(getComputedStyle(each).color)), light(behind(each))].sort((a, b) => b - a);
    if ((one + 0.05) / (two + 0.05) < 4.5) faint.push(each.outerHTML.slice(0, 120));
  }
  return faint;
}"""


def test_by_keyboard_alone(shown: Window, house: House) -> None:
    page = shown.page
    page.goto(f"{house.url}/signin")
    expect(page.get_by_label("Admin secret or key")).to_be_focused()  # given by the browser with the first frame it draws
    page.keyboard.type(SECRETS["olivia"])
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Overview")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to the content")).to_be_focused()
    for _ in range(6):
        page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Keys")).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Keys")).to_be_visible()


def test_pause_and_go_on(shown: Window, house: House) -> None:
    secrets, page, place = live_in(house), shown.page, house.place
    sign_in(shown, house, "olivia")
    expect(page.locator("#connection")).to_have_text("live")
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#connection")).to_have_text("paused")
    missed = decide_one(place, secrets, random.Random(1))
    assert page.locator(f"tr[data-id='{missed}']").count() == 0
    page.get_by_role("button", name="Go on").click()
    expect(page.locator(f"tr[data-id='{missed}']")).to_be_visible()


def test_sign_in_at_an_identity_provider(browser: Browser, tmp_path: Path) -> None:
    """From another site and back, with a cookie that only our own site gets."""
    port = free_port()
    with providing() as provider:
        config = lay_out(tmp_path, settings_of(port, provider.settings()))
        directory = tmp_path / "policies/directory.yaml"
        directory.write_text(directory.read_text() + provider.directory())
        with opened_at(config) as place, inhabited(place, {"PAGE_SECRET": CLIENT_SECRET}):
            place.engine.key_sets.refresh(place.engine.bundle.directory.issuers.values(), place.time())
            url = f"http://127.0.0.1:{port}"
            with window(browser, url, provider.url) as shown:
                shown.page.goto(url)
                shown.page.get_by_role("link", name="Sign in with 127.0.0.2").click()
                expect(shown.page.get_by_role("heading", name="Overview")).to_be_visible()
                expect(shown.page.locator(".who")).to_contain_text("dev")
                (cookie,) = shown.page.context.cookies(url)
                assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
                assert shown.complaints == []
