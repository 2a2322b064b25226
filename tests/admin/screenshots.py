"""The pictures of docs/admin.md, taken of a house that is lived in.

python -m tests.admin.screenshots docs/images
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path
from typing import Literal

from playwright.sync_api import Browser

from tests.admin.chromium import chromium, window
from tests.admin.house import SECRETS, House, open_house
from tests.admin.lived_in import live_in

Scheme = Literal["light", "dark"]
SHOTS: tuple[tuple[str, str, int, int, Scheme], ...] = (
    ("overview", "/", 1240, 1120, "light"),
    ("overview-dark", "/", 1240, 1120, "dark"),
    ("decision", "/decisions?effect=deny", 1240, 1000, "light"),
    ("usage", "/usage?by=key", 1240, 1000, "light"),
    ("budgets", "/budgets", 1240, 900, "light"),
    ("keys", "/keys", 1240, 760, "light"),
    ("access", "/access", 1240, 620, "light"),
    ("bundle", "/bundle", 1240, 760, "light"),
    ("narrow", "/", 390, 844, "light"),
)


def take(house: House, browser: Browser, folder: Path) -> None:
    for name, path, width, height, scheme in SHOTS:
        with window(browser, house.url, width=width, height=height, scheme=scheme) as shown:
            page = shown.page
            page.goto(f"{house.url}/signin")
            page.fill("#credential", SECRETS["olivia"])
            page.click("button")
            page.goto(house.url + path)
            if name == "decision":
                page.locator("tr[data-id]", has_text="model_not_available").first.locator("a").click()
            if page.locator("#connection").count():
                page.wait_for_selector("#connection[data-state=live]")
            page.screenshot(path=folder / f"{name}.png")
            assert shown.complaints == [], shown.complaints
            sys.stdout.write(f"{name}.png {(folder / f'{name}.png').stat().st_size:,} bytes\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="renew the pictures in the docs")
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as place, chromium() as browser, open_house(Path(place)) as house:
        rotated(house)
        take(house, browser, folder)


def rotated(house: House) -> None:
    live_in(house)
    olivia = house.script("olivia")
    keys = olivia.get("/api/keys").json()["keys"]
    digest = next(row["digest"] for row in keys if row["key"] == "chatbot-prod")
    olivia.post(f"/api/keys/{digest}/rotate", json={"overlap": "24h", "why": "yearly"}).raise_for_status()
    house.place.engine.tick()


if __name__ == "__main__":
    main()
