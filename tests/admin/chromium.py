"""A real browser without a window, and what it complains about."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from playwright.sync_api import Browser, Page, sync_playwright

EXECUTABLE = shutil.which("chromium") or "/usr/bin/chromium"
ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)


class Window:
    """A page, with everything that went wrong in it: errors of scripts, of the console (a violation of the policy is one), and
    requests to anywhere but `allowed`."""

    def __init__(self, page: Page, allowed: tuple[str, ...]) -> None:
        self.page = page
        self.complaints: list[str] = []
        page.on("console", lambda said: self.complaints.append(said.text) if said.type in ("error", "warning") else None)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda asked: None if asked.url.startswith(allowed) else self.complaints.append(asked.url))


@contextmanager
def chromium() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=EXECUTABLE, args=list(ARGUMENTS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def window(
    browser: Browser,
    *allowed: str,
    width: int = 1240,
    height: int = 800,
    scheme: Literal["light", "dark"] = "light",
) -> Iterator[Window]:
    context = browser.new_context(
        viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce", timezone_id="UTC"
    )
    context.set_default_timeout(15_000)
    try:
        yield Window(context.new_page(), allowed)
    finally:
        context.close()
