"""What is measured on: the reference bundle, made as large as a figure needs, and an engine on it in this process.

Its limits are raised out of reach, so that every request is allowed and pays for the whole of a decision; nothing else about
it is made easier. What fills it up (teams, keys, policies, quotas) is of the same kind as what the measured request meets.
"""

from __future__ import annotations

import json
import random
import re
import shutil
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Final

from authz.bundle import load_bundle
from authz.compose import Engine
from authz.identity.keys import IssuedKey, digest, mint
from authz.model import Allow, Decision, Outcome, Receipt, Request, Usage
from authz.settings import read_settings
from tests.issued import put

ROOT: Final = Path(__file__).resolve().parents[1]
ENVIRON: Final = {"GROQ_API_KEY": "gsk_made_up_for_the_benchmark"}
KEY: Final = "chatbot-prod"
MODEL: Final = "llama-3.1-8b-instant"

PROMPT_BYTES: Final = 1_200
"""The body of the request is some 1.3 kB: a system prompt and a question."""

_LARGE: Final = 900_000_000
_USED: Final = Usage(input_tokens=310, output_tokens=96)


def lay_out(folder: Path, *, store: str, teams: int = 0, more: str = "") -> Path:
    """Writes settings and the reference bundle with so many further teams, each with a key, a policy and two quotas."""
    shutil.copytree(ROOT / "policies", folder / "policies")
    bundle = folder / "policies"
    quotas = (bundle / "quotas.yaml").read_text()
    quotas = re.sub(r"limit: \d+/minute", f"limit: {_LARGE}/minute", quotas)
    quotas = quotas.replace("500 USD/month", "9000000 USD/month").replace("[100 USD, 250 USD, 400 USD]", "[]")
    quotas += "".join(
        f"  - {{id: bulk-{at}-{what}, scope: 'Team::\"bulk-{at}\"', what: {what}, limit: {_LARGE}/minute}}\n"
        for at in range(teams)
        for what in ("requests", "tokens")
    )
    (bundle / "quotas.yaml").write_text(quotas)
    directory = (bundle / "directory.yaml").read_text()
    for heading, row in (("teams:", "bulk-{0}: {{}}"), ("keys:", "bulk-{0}: {{team: bulk-{0}}}")):
        rows = "".join(f"  {row.format(at)}\n" for at in range(teams))
        directory = directory.replace(f"\n{heading}\n", f"\n{heading}\n{rows}")
    (bundle / "directory.yaml").write_text(directory)
    if teams:
        (bundle / "bulk.cedar").write_text("".join(_policy(at) for at in range(teams)))
    shutil.rmtree(bundle / "tests", ignore_errors=True)  # they are about the limits that were raised
    config = folder / "authz.yaml"
    config.write_text(f"store: {store}\noperator: olivia\nrecords: {{file: decisions.jsonl}}\n{more}")
    return config


def _policy(at: int) -> str:
    return (
        f'@id("bulk-{at}")\npermit (principal in Team::"bulk-{at}", action in Action::"infer", resource)\n'
        'when { resource in [Model::"llama-3.3-70b-versatile", Model::"llama-3.1-8b-instant"] };\n'
    )


class World:
    """An engine, a secret of one key, and requests with it that are all allowed."""

    def __init__(self, folder: Path, engine: Engine) -> None:
        self.folder, self.engine = folder, engine
        self._random, self._numbers = random.Random(7), count()  # noqa: S311  # secrets of a folder that is thrown away
        self.secret = self.issue(1)[0]
        self._held: deque[str] = deque(maxlen=10_000)
        content = "Note: the quick brown fox jumps over the lazy dog.\n" * (PROMPT_BYTES // 51)
        system = {"role": "system", "content": content[: PROMPT_BYTES // 4]}
        fields = {"model": MODEL, "messages": [system, {"role": "user", "content": content}], "max_tokens": 256}
        self.body = json.dumps({**fields, "temperature": 0.3, "stream": True}).encode()
        self._own_headers = self._headers(self.secret)

    def issue(self, how_many: int, *keys: str) -> list[str]:
        """So many secrets of each of the keys, or of the one that is measured: those of the first one first."""
        now_ns = self.engine.clock()
        rows: dict[str, IssuedKey] = {}
        for key in keys or (KEY,):
            for _ in range(how_many):
                secret = mint(self._random.choice)
                rows[secret] = IssuedKey(digest(secret), key, now_ns)
        put(self.engine.store, *rows.values())
        self.engine.tick()
        return list(rows)

    def request(self, secret: str = "") -> Request:
        """The next one: what Envoy hands over of a chat, with a request id of its own."""
        number = next(self._numbers)
        headers = self._headers(secret) if secret else self._own_headers
        return Request("POST", "/openai/v1/chat/completions", headers, self.body, f"bench-{number}", "10.0.0.1")

    def decide(self, secret: str = "") -> None:
        """One whole decision, which has to be an allow."""
        allowed(self.engine.pdp.decide(self.request(secret)))

    def decide_many(self, how_many: int) -> None:
        for decision in self.engine.pdp.decide_many([self.request() for _ in range(how_many)]):
            self._held.append(allowed(decision).reservation_id)

    def settle_many(self, how_many: int) -> None:
        """So many of what was decided together, as one message of Envoy's reports them."""
        held = [self._held.popleft() for _ in range(how_many)]
        changes = self.engine.settle_many([Receipt(each, "", Outcome.ANSWERED, 200, _USED) for each in held])
        if not all(change is not None and change.changed for change in changes):
            raise AssertionError(f"expected that each is settled, found {changes}")

    def _headers(self, secret: str) -> tuple[tuple[str, str], ...]:
        return (
            (":authority", "api.groq.com"),
            ("accept", "application/json"),
            ("authorization", f"Bearer {secret}"),
            ("content-length", str(len(self.body))),
            ("content-type", "application/json"),
            ("user-agent", "Groq/Python 1.7.0"),
            ("x-forwarded-proto", "http"),
        )


def allowed(decision: Decision) -> Allow:
    if not isinstance(decision, Allow):
        raise AssertionError(f"expected an allow, found {decision}")
    return decision


@contextmanager
def opened(folder: Path, *, store: str = "", teams: int = 0) -> Iterator[World]:
    config = lay_out(folder, store=store or f"sqlite:///{folder}/authz.db", teams=teams)
    with Engine(read_settings(config), environ=ENVIRON, load=load_bundle) as engine:
        yield World(folder, engine)
