"""What telemetry costs a decision: the same requests in turns, with nothing told and with one kind of telemetry on.

Each turn decides a batch on every engine, one after the other, in an order that moves on. A ratio is taken within a turn, and
the median over all turns is shown. It is of the processor's time on the deciding thread, which is what a decision waits for and
what another process on the machine does not change; what the writers do beside it is no part of the path.

python -m tests.telemetry.overhead [--turns 60] [--batch 200]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from authz.model import Allow
from tests.admin.house import inhabited, settings_of
from tests.place import Place, lay_out, opened_at
from tests.telemetry.collector import collecting
from tests.telemetry.test_metrics import free_port
from tests.telemetry.traffic import receipt

MOST: Final = 1.10
NOTHING: Final = "nothing"


class Subject:
    """An engine that decides one allowed request over and over, each time as a new one."""

    def __init__(self, name: str, place: Place) -> None:
        self.name, self._place = name, place
        self._secret = place.issue("chatbot-prod")
        self._number = 0

    def turn(self, batch: int) -> int:
        """Nanoseconds that `batch` decisions took; what is settled in between is not in it."""
        took = 0
        decide = self._place.engine.pdp.decide
        for _ in range(batch):
            self._place.time.pass_s(0.25)
            self._number += 1
            request = self._place.request(self._secret, request_id=f"r{self._number}")
            began = time.thread_time_ns()
            decision = decide(request)
            took += time.thread_time_ns() - began
            assert isinstance(decision, Allow), decision
            self._place.engine.settle(receipt(decision))
        return took


@contextmanager
def subjects(folder: Path) -> Iterator[list[Subject]]:
    with ExitStack() as stack:
        collector = stack.enter_context(collecting())
        otlp = f"endpoint: '{collector.endpoint}', every_s: 10"
        metrics, records = f"metrics: {{listen: 127.0.0.1:{free_port()}}}\n", "records: {file: decisions.jsonl}\n"
        kinds = {
            NOTHING: "records: {file: ''}\n",
            "records to a file": records,
            "metrics for Prometheus": "records: {file: ''}\n" + metrics,
            "traces, one in a hundred, over OTLP": f"records: {{file: ''}}\notlp: {{{otlp}, metrics: false, records: false}}\n",
            "the admin page": "records: {file: ''}\n" + settings_of(free_port()),
            "all of these": records
            + f"metrics: {{listen: 127.0.0.1:{free_port()}}}\notlp: {{{otlp}}}\n"
            + settings_of(free_port()),
        }
        found = []
        for number, (name, more) in enumerate(kinds.items()):
            (folder / str(number)).mkdir()
            config = lay_out(folder / str(number))
            config.write_text("store: sqlite:///authz.db\noperator: olivia\n" + more)
            place = stack.enter_context(opened_at(config, serving=True))
            stack.enter_context(inhabited(place))
            found.append(Subject(name, place))
        yield found


def measure(folder: Path, turns: int, batch: int) -> dict[str, tuple[float, float]]:
    """By kind: the median of its ratio to `NOTHING`, and of the microseconds that one decision took."""
    took: dict[str, list[int]] = {}
    with subjects(folder) as some:
        for subject in some:
            subject.turn(batch)  # to warm up
        for turn in range(turns):
            for at in range(len(some)):
                subject = some[(at + turn) % len(some)]
                took.setdefault(subject.name, []).append(subject.turn(batch))
    floor = took[NOTHING]
    return {
        name: (
            statistics.median(one / other for one, other in zip(found, floor, strict=True)),
            statistics.median(found) / batch / 1000,
        )
        for name, found in sorted(took.items(), key=lambda pair: pair[0] != NOTHING)
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="what telemetry costs a decision")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--batch", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), asked.turns, asked.batch)
    for name, (ratio, us) in found.items():
        sys.stdout.write(f"| {name} | {ratio:.2f} | {us:.0f} |\n")
    sys.exit(any(ratio > MOST for ratio, _ in found.values()))


if __name__ == "__main__":
    main()
