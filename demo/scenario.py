"""What the demo asks for, what has to come out, and the table that shows it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final

import groq
import httpx
from msgspec import Struct
from rich.console import Console
from rich.table import Table

from authz.answers import usd
from authz.quota.ledger import State
from authz.store import Store, open_store
from demo.stack import Stack, wait_for

CHAT: Final = "/openai/v1/chat/completions"
SMALL: Final = "llama-3.1-8b-instant"
LARGE: Final = "llama-3.3-70b-versatile"
OPEN: Final = "openai/gpt-oss-120b"
NAMES: Final = ("chatbot-prod", "batch-processor", "analytics-reports", "research-lab")

Send = Callable[[str], int]
"""Sends one request with a key's secret and answers the HTTP status that the client saw."""


class Row(Struct, frozen=True):
    """who, what, and the expected status and reason (empty for allowed)."""

    who: str
    what: str
    send: Send
    status: int
    reason: str = ""


def add_budget(bundle: Path) -> None:
    """A daily budget for one key, small enough to be reached by one request without a ceiling of its own."""
    quotas = bundle / "quotas.yaml"
    text = quotas.read_text(encoding="utf-8")
    quotas.write_text(
        text + '  - {id: research-lab-daily, scope: Key::"research-lab", what: spend, limit: 0.01 USD/day}\n', encoding="utf-8"
    )


def rows(url: str) -> Iterator[Row]:
    """The requests, in order: each row's outcome rests on those before it."""
    yield Row("chatbot-prod", f"{SMALL}", _chat(url, SMALL, max_tokens=64), 200)
    yield Row("chatbot-prod", f"{LARGE}, streamed", _chat(url, LARGE, stream=True, max_tokens=64), 200)
    yield Row("chatbot-prod", OPEN, _chat(url, OPEN), 403, "model_not_available")
    yield Row("analytics-reports", f"{SMALL}", _chat(url, SMALL, max_tokens=64), 200)
    yield Row("analytics-reports", f"{LARGE}", _chat(url, LARGE), 403, "model_not_available")
    yield Row("research-lab", f"{OPEN}, at most 64 tokens", _chat(url, OPEN, max_tokens=64), 200)
    yield Row("research-lab", f"{OPEN}, no ceiling", _chat(url, OPEN), 403, "spend_cap_reached")
    yield Row("research-lab", "mixtral-8x7b-32768", _chat(url, "mixtral-8x7b-32768"), 400, "model_decommissioned")
    yield Row("chatbot-prod", "gpt-9", _chat(url, "gpt-9"), 404, "model_not_found")
    yield Row("chatbot-prod", "`model` given twice", _raw(url, CHAT, _twice()), 400, "invalid_request_error")
    yield Row(
        "chatbot-prod", "/openai/v1/fine_tuning/jobs", _raw(url, "/openai/v1/fine_tuning/jobs", b"{}"), 404, "unknown_url"
    )
    yield Row("nobody", f"{SMALL}, no key", _raw(url, CHAT, _body(SMALL), authorised=False), 401, "invalid_api_key")
    yield Row("somebody", f"{SMALL}, a wrong key", _chat(url, SMALL), 401, "invalid_api_key")
    for number in range(1, 61):
        yield Row("batch-processor", f"{SMALL}, request {number} of 60", _chat(url, SMALL, max_tokens=16), 200)
    yield Row(
        "batch-processor", f"{SMALL}, request 61 in a minute", _chat(url, SMALL, max_tokens=16), 429, "rate_limit_exceeded"
    )


def run(stack: Stack) -> bool:
    """Runs every row and prints the tables; True where each came out as expected."""
    keys = {name: stack.new_key(name) for name in NAMES} | {"somebody": "authz_" + "x" * 40, "nobody": ""}
    stack.wait_for_key_reload()
    table = Table(
        "who", "what", "decision", "reason", "held at most (USD)", "settled (USD)", "", title="Decisions through Envoy"
    )
    store = open_store(stack.settings.store)
    well = True
    try:
        for number, row in enumerate(rows(stack.url)):
            before = _posted(store)
            status = row.send(keys[row.who])
            record = _record(stack.records, number)
            settled = _settled(store, record, before)
            fine = status == row.status and (record["reason"] or "") == row.reason
            well = well and fine
            if "of 60" in row.what and fine and "request 1 of" not in row.what:
                continue
            table.add_row(
                row.who,
                row.what,
                f"{record['effect']} {status}",
                record["reason"] or "",
                usd(record["estimate"]["at_most"]["spend"]) if record["effect"] == "allow" else "",
                settled,
                "as expected" if fine else f"EXPECTED {row.status} {row.reason}",
            )
    finally:
        store.close()
    console = Console(width=150)
    console.print(table)
    console.print(stack.command("usage"), markup=False, highlight=False)
    console.print("every row as expected" if well else "NOT every row as expected")
    return well


def _chat(url: str, model: str, *, stream: bool = False, **fields: Any) -> Send:
    def send(key: str) -> int:
        with groq.Groq(api_key=key, base_url=url, max_retries=0) as client:
            messages: Any = [{"role": "user", "content": "Say hello"}]
            try:
                answer: Any = client.chat.completions.create(model=model, messages=messages, stream=stream, **fields)
                if stream:
                    for _ in answer:
                        pass
            except groq.APIStatusError as error:
                return error.status_code
        return 200

    return send


def _raw(url: str, path: str, body: bytes, *, authorised: bool = True) -> Send:
    def send(key: str) -> int:
        headers = {"content-type": "application/json"} | ({"authorization": f"Bearer {key}"} if authorised else {})
        return httpx.post(url + path, content=body, headers=headers).status_code

    return send


def _body(model: str) -> bytes:
    return json.dumps({"model": model, "messages": [{"role": "user", "content": "Say hello"}]}).encode()


def _twice() -> bytes:
    return _body(SMALL).replace(b'"messages"', b'"\\u006dodel": "openai/gpt-oss-120b", "messages"')


def _record(path: Path, number: int) -> dict[str, Any]:
    """The decision with this number, in the order of the requests. Settlements have records beside them."""

    def decisions() -> list[dict[str, Any]]:
        lines = path.read_bytes().split(b"\n")[:-1] if path.exists() else []  # the last one may not be whole yet
        return [record for record in map(json.loads, lines) if record["kind"] == "decision"]

    wait_for(f"decision record {number}", lambda: len(decisions()) > number)
    return decisions()[number]


def _posted(store: Store) -> int:
    return sum(row.cost_nanousd for row in store.usage(*_today()))


def _settled(store: Store, record: dict[str, Any], before: int) -> str:
    """What the ledger has posted since, once the access log has brought the request's end."""
    identity = record["reservation_id"]
    if not identity:
        return ""

    def ended() -> bool:
        found = store.find(identity)
        return found is not None and found.state is not State.PENDING

    wait_for("the settlement", ended)
    return usd(_posted(store) - before)


def _today() -> tuple[str, str]:
    day = time.strftime("%Y-%m-%d", time.gmtime())
    return day, day
