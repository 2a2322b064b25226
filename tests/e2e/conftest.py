"""One stack for a module of end-to-end tests: the real Envoy, `authz serve` as a process, the stand-in for Groq."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import groq
import pytest

from authz.quota.ledger import State
from authz.store import open_store
from demo.stack import Stack, wait_for

CHAT: Final = "/openai/v1/chat/completions"
SMALL: Final = "llama-3.1-8b-instant"
MESSAGES: Final[Any] = [{"role": "user", "content": "Say hello"}]

Change = Callable[[Path], None]


def add_quotas(*rows: str) -> Change:
    """Adds rows of flow YAML to a bundle's quotas."""

    def change(bundle: Path) -> None:
        path = bundle / "quotas.yaml"
        path.write_text(path.read_text() + "".join(f"  - {{{row}}}\n" for row in rows))

    return change


class Client:
    """A stack and what a test asks of it."""

    def __init__(self, stack: Stack) -> None:
        self.stack = stack
        self.keys: dict[str, str] = {}

    def issue(self, *names: str) -> None:
        for name in names:
            self.keys[name] = self.stack.new_key(name)
        self.stack.wait_for_key_reload()

    def sdk(self, name: str, **options: Any) -> groq.Groq:
        return groq.Groq(api_key=self.keys[name], base_url=self.stack.url, **{"max_retries": 0} | options)

    def chat(self, name: str, model: str = SMALL, **fields: Any) -> Any:
        """One chat through the SDK; a stream is read to its end and answered as the list of its chunks."""
        with self.sdk(name) as client:
            answer = client.chat.completions.create(model=model, **{"messages": MESSAGES, "max_tokens": 16} | fields)
            return list(answer) if fields.get("stream") else answer

    def headers(self, name: str) -> dict[str, str]:
        return {"authorization": f"Bearer {self.keys[name]}", "content-type": "application/json"}

    def records(self) -> list[dict[str, Any]]:
        """Those of decisions, once there is one for all that Envoy was answered: they are written a little later."""
        answered = sum(self.stack.envoy.stats(r"^http\..*\.ext_authz\.(ok|denied)$").values())
        wait_for("the records", lambda: len(self.written()) >= answered)
        return self.written()

    def written(self) -> list[dict[str, Any]]:
        """Those that are there: a process that is killed takes the last ones along."""
        return [line for line in self.stack.lines() if line["kind"] == "decision"]

    def wait_until_settled(self, records: list[dict[str, Any]] | None = None) -> None:
        """Until no allowed reservation is pending any more, of these records or of all."""
        store = open_store(self.stack.settings.store)
        try:
            for record in self.records() if records is None else records:
                identity = record["reservation_id"]
                if identity:
                    wait_for("a settlement", lambda: _ended(store.find(identity)))  # noqa: B023  # used at once
        finally:
            store.close()

    def usage(self) -> dict[str, dict[str, Any]]:
        """`authz usage --json`, by key."""
        rows = json.loads(self.stack.command("usage", "--json"))["usage_by_key"]
        return {row["key_name"]: row for row in rows}


def _ended(found: Any) -> bool:
    return found is not None and found.state is not State.PENDING


@pytest.fixture(scope="module")
def make_client() -> Iterator[Callable[..., Client]]:
    """Starts stacks; all are stopped at the end of the module."""
    stacks: list[Stack] = []
    folders: list[tempfile.TemporaryDirectory[str]] = []

    def make(change: Change | None = None, **options: Any) -> Client:
        # Unix sockets live in it, and their paths are short.
        folder = tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp")
        folders.append(folder)
        stack = Stack(Path(folder.name), change=change, **options)
        stacks.append(stack)
        try:
            stack.start()
        except BaseException:
            stack.stop()
            raise
        return Client(stack)

    yield make
    for stack in stacks:
        stack.stop()
    for folder in folders:
        folder.cleanup()
