"""Recorded traffic: what a sidecar with the reference bundle writes while its keys ask for this and that."""

from __future__ import annotations

import json
import random
from pathlib import Path

from authz.model import Allow, Outcome, Receipt, Usage
from tests.place import Place, opened

KEYS = ("chatbot-prod", "batch-processor", "analytics-reports", "research-lab")
MODELS = (
    "llama-3.1-8b-instant",
    "llama-3.3-70b-versatile",
    "openai/gpt-oss-120b",
    "mixtral-8x7b-32768",
    "whisper-large-v3",
    "x",
)
OUTCOMES = (Outcome.ANSWERED, Outcome.ANSWERED, Outcome.ANSWERED, Outcome.ABANDONED, Outcome.UPSTREAM_ERROR, Outcome.NOT_SENT)


def record(folder: Path, decisions: int, *, seed: int = 7, step_s: float = 0.04) -> Path:
    """Writes the records of so many decisions, most of them settled some decisions later; answers the file."""
    chance = random.Random(seed)
    with opened(folder) as place:
        secrets = {key: place.issue(key) for key in KEYS}
        waiting: list[Receipt] = []
        for _ in range(decisions):
            _ask(place, secrets, waiting, chance)
            place.time.pass_s(chance.random() * step_s if chance.random() > 0.002 else 30)
    return folder / "decisions.jsonl"


def _ask(place: Place, secrets: dict[str, str], waiting: list[Receipt], chance: random.Random) -> None:
    secret = secrets[chance.choice((*KEYS, "batch-processor", "batch-processor"))] if chance.random() > 0.02 else "authz_nobody"
    fields = {"max_tokens": chance.choice([16, 400, 4_000]), "stream": chance.random() < 0.5}
    request_id = f"request-{chance.randrange(10**9)}" if chance.random() < 0.5 else ""
    decision = place.engine.pdp.decide(place.request(secret, chance.choice(MODELS), request_id, **fields))
    if isinstance(decision, Allow) and chance.random() < 0.95:
        usage = Usage(chance.randrange(200), chance.randrange(300)) if chance.random() < 0.9 else None
        waiting.append(Receipt(decision.reservation_id, "", chance.choice(OUTCOMES), 200, usage))
    while len(waiting) > 8:
        place.engine.settle(waiting.pop(chance.randrange(len(waiting))))


def grow(file: Path, days: int, into: Path) -> int:
    """Repeats a file of records on `days` following days, with ids of its own each time; answers the decisions in it."""
    decisions = 0
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    with into.open("w") as out:
        for day in range(days):
            for line in lines:
                decisions += line["kind"] == "decision"
                moved = {**line, "time": line["time"].replace("2026-11-30", f"2026-12-{day + 1:02}")}
                if line["reservation_id"]:
                    moved["reservation_id"] = f"{line['reservation_id']}-{day}"
                out.write(json.dumps(moved) + "\n")
    return decisions
