"""An engine with its admin page on a port of its own, and whoever comes to it."""

from __future__ import annotations

import random
import re
import secrets
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import httpx

from authz.api.admin.app import Chance
from authz.api.admin.serving import serving
from authz.identity.keys import digest, mint
from authz.settings import read_settings
from tests.place import Place, lay_out, opened_at
from tests.telemetry.test_metrics import free_port

_choice = random.Random(5).choice
SECRETS = {user: mint(_choice) for user in ("olivia", "dev", "ana", "rhea", "nobody")}


class House:
    """url  of the page; `secrets` sign their users in"""

    def __init__(self, place: Place, url: str) -> None:
        self.place, self.url, self.secrets = place, url, SECRETS
        self._stack = ExitStack()

    def close(self) -> None:
        self._stack.close()

    def script(self, user: str) -> httpx.Client:
        """Comes with a credential of its own."""
        headers = {"authorization": f"Bearer {SECRETS[user]}"}
        return self._stack.enter_context(httpx.Client(base_url=self.url, headers=headers))

    def browser(self) -> Browser:
        browser = Browser(self.url)
        self._stack.callback(browser.client.close)
        return browser

    def signed_in(self, user: str) -> Browser:
        browser = self.browser()
        answer = browser.post("/signin", credential=SECRETS[user])
        assert answer.status_code == 303, answer.text
        return browser


class Browser:
    """Keeps cookies and says where its forms come from, as a browser does; follows nothing by itself."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.client = httpx.Client(base_url=url)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def csrf(self, path: str = "/keys") -> str:
        found = re.search(r'name="csrf" value="([^"]+)"', self.get(path).text)
        assert found is not None
        return found[1]

    def post(self, path: str, *, origin: str | None = "", **fields: str) -> httpx.Response:
        headers = {} if origin is None else {"origin": origin or self.url}
        return self.client.post(path, data=fields, headers=headers)

    def send(self, path: str, **fields: str) -> httpx.Response:
        """A form of a page that was just loaded."""
        return self.post(path, csrf=self.csrf(), **fields)


def settings_of(port: int, more: str = "") -> str:
    rows = ", ".join(f'{{user: {user}, digest: "sha256:{digest(secret)}"}}' for user, secret in SECRETS.items())
    return f"admin: {{listen: 127.0.0.1:{port}, secrets: [{rows}]{more}}}\n"


@contextmanager
def open_house(folder: Path, more: str = "", **environ: str) -> Iterator[House]:
    port = free_port()
    config = lay_out(folder, settings_of(port, more))
    with ExitStack() as stack:
        place = stack.enter_context(opened_at(config, serving=True))
        stack.enter_context(inhabited(place, environ))
        house = House(place, f"http://127.0.0.1:{port}")
        stack.callback(house.close)
        yield house


@contextmanager
def inhabited(place: Place, environ: dict[str, str] | None = None) -> Iterator[None]:
    front = read_settings(place.folder / "authz.yaml").admin
    chance = Chance(token=lambda: secrets.token_urlsafe(32), choice=secrets.choice)
    with serving(place.engine, front, chance, environ or {}, watched=True):
        yield


def json_of(answer: httpx.Response, status: int = 200) -> Any:
    assert answer.status_code == status, answer.text
    return answer.json()
