"""What the library's docstrings and the README show is run as it stands there, before a stand-in for Groq."""

from __future__ import annotations

import asyncio
import doctest
import importlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import groq
import httpx
import pytest
import starlette.applications

import authz
from authz.store import open_store
from tests.library import Library, library
from tests.place import ROOT, UPSTREAM_KEY

MODULES: Final = sorted({authz._HOME[name] for name in authz.__all__})
SHOWN: Final = {
    found.name: found
    for module in MODULES
    for found in doctest.DocTestFinder(exclude_empty=True).find(importlib.import_module(f"authz.{module}"))
    if found.examples
}
BLOCKS: Final = re.findall(r"^```python\n(.*?)^```", (ROOT / "README.md").read_text(), re.MULTILINE | re.DOTALL)


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Library]:
    """A folder to be in, whose `authz.yaml` leads to the stand-in."""
    with library(tmp_path) as found:
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("GROQ_API_KEY", UPSTREAM_KEY)
        yield found


@pytest.fixture
def known(place: Library) -> dict[str, Any]:
    """What a reader has, and an example does not show."""
    key = place.issue("chatbot-prod")
    body = {"model": "llama-3.1-8b-instant", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16}

    async def send_async(body: Any, upstream_key: str) -> Any:
        return await asyncio.to_thread(send, body, upstream_key)

    def send(body: Any, upstream_key: str) -> Any:
        url, headers = f"http://127.0.0.1:{place.groq.port}", {"authorization": f"Bearer {upstream_key}"}
        answer = httpx.post(f"{url}/openai/v1/chat/completions", json=body, headers=headers)
        return answer.raise_for_status().json()

    return {name: getattr(authz, name) for name in authz.__all__} | {
        "api_key": key,
        "virtual_key": key,
        "body": body,
        "messages": body["messages"],
        "send": send,
        "send_async": send_async,
        "asyncio": asyncio,
        "groq": groq,
        "httpx": httpx,
        "gateway": starlette.applications.Starlette(),
    }


@pytest.mark.parametrize("name", SHOWN)
def test_an_example_of_a_docstring_runs(name: str, place: Library, known: dict[str, Any]) -> None:
    test = SHOWN[name]
    test.globs = known
    failures: list[str] = []
    doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=failures.append)
    assert not failures, "".join(failures)
    assert_nothing_is_pending(place)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_an_example_of_the_readme_runs(block: str, place: Library, known: dict[str, Any]) -> None:
    (place.folder / "var").mkdir()
    exec(compile(block, "README.md", "exec"), known)  # noqa: S102  # our own text
    assert_nothing_is_pending(place)


def assert_nothing_is_pending(place: Library) -> None:
    """An example that reserves also settles: of what it has left in the store nothing is under way."""
    store = open_store(f"sqlite:///{place.folder}/authz.db")
    try:
        assert not any(row.pending_requests for row in store.usage("2020-01-01", "2099-12-31"))
    finally:
        store.close()


@pytest.mark.parametrize(
    "name",
    ["Authorizer", "AsyncAuthorizer", "AuthorizedApp", "AuthorizedTransport", "AsyncAuthorizedTransport", "chat_request"],
)
def test_what_one_starts_with_has_an_example(name: str) -> None:
    home = f"authz.{authz._HOME[name]}"
    assert any(name in example.source for found in SHOWN.values() if found.name.startswith(home) for example in found.examples)


@pytest.mark.parametrize("name", authz.__all__)
def test_every_public_name_says_what_it_is(name: str) -> None:
    found = getattr(authz, name)
    assert name == "Decision" or (found.__doc__ or "").strip(), "an alias cannot have one"
    if isinstance(found, type):
        # What a class of httpx or of Python declares is documented there.
        inherited = {each for base in found.__mro__[1:] for each in vars(base)}
        own = [each for each, member in vars(found).items() if callable(member) and each not in inherited]
        assert [each for each in own if not each.startswith("_") and not (getattr(found, each).__doc__ or "").strip()] == []
