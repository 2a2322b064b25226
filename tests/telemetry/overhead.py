"""What telemetry costs a decision: the same requests in turns, with nothing told and with one kind of telemetry on.

Each turn decides and settles a batch on every engine, one after the other, in an order that moves on. What is taken of it:

- the processor's time on the deciding thread, which is what a decision waits for and what another process on the machine does
  not change. Its ratio is taken within a turn, and the median over all turns is shown; it may not be above `MOST`
- in turns of their own, the processor's time of the whole process, until what is written, counted and sent beside the path has
  come to its end, above that of the engine that tells nothing. The interpreter does one thing at a time, so this too is time in
  which nobody decides

The collector is another process, as it is where somebody uses one.

python -m tests.telemetry.overhead [--turns 60] [--batch 200]
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from subprocess import PIPE
from typing import Final

from msgspec import Struct

from authz.model import Allow
from authz.telemetry.otlp import EXPORT_S
from tests.admin.house import inhabited, settings_of
from tests.place import Place, lay_out, opened_at
from tests.telemetry.test_metrics import free_port
from tests.telemetry.traffic import receipt

MOST: Final = 1.10
NOTHING: Final = "nothing"
PAUSE_S: Final = 2 * EXPORT_S
"""Longer than anything waits to be written."""

_COLLECTOR: Final = """
import sys
from tests.telemetry.collector import collecting
with collecting() as collector:
    print(collector.endpoint, flush=True)
    sys.stdin.read()
"""


class Subject:
    """An engine that decides one allowed request over and over, each time as a new one."""

    def __init__(self, name: str, place: Place) -> None:
        self.name, self._place = name, place
        self._secret = place.issue("chatbot-prod")
        self._number = 0

    def whole_turn(self, batch: int) -> int:
        """Nanoseconds of the process for `batch` decisions and settlements, and all that comes of them."""
        began = time.process_time_ns()
        self.turn(batch)
        time.sleep(PAUSE_S)
        return time.process_time_ns() - began

    def turn(self, batch: int) -> int:
        """Nanoseconds that `batch` decisions took on their thread; what is settled in between is not in it."""
        took = 0
        engine = self._place.engine
        decide = engine.pdp.decide
        for _ in range(batch):
            self._place.time.pass_s(0.25)
            self._number += 1
            request = self._place.request(self._secret, request_id=f"r{self._number}")
            began = time.thread_time_ns()
            decision = decide(request)
            took += time.thread_time_ns() - began
            assert isinstance(decision, Allow), decision
            engine.settle(receipt(decision))
        engine.tick()
        return took


@contextmanager
def collector() -> Iterator[str]:
    """Where it listens."""
    with subprocess.Popen([sys.executable, "-c", _COLLECTOR], stdin=PIPE, stdout=PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        endpoint = process.stdout.readline().strip()
        assert endpoint.startswith("http://"), "the collector did not start"
        yield endpoint
        process.stdin.close()


@contextmanager
def subjects(folder: Path) -> Iterator[list[Subject]]:
    with ExitStack() as stack:
        otlp = f"endpoint: '{stack.enter_context(collector())}', every_s: 10"
        metrics, records = f"metrics: {{listen: 127.0.0.1:{free_port()}}}\n", "records: {file: decisions.jsonl}\n"
        kinds = {
            NOTHING: "records: {file: ''}\n",
            "records to a file": records,
            "metrics for Prometheus": "records: {file: ''}\n" + metrics,
            "traces, one in a hundred, over OTLP": f"records: {{file: ''}}\notlp: {{{otlp}, metrics: false, records: false}}\n",
            "records over OTLP": f"records: {{file: ''}}\notlp: {{{otlp}, metrics: false, traces: false}}\n",
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


class Found(Struct, frozen=True):
    """Medians over all turns. ratio, us: of a decision on its thread · process_us: so much more the process did for it"""

    ratio: float
    us: float
    process_us: float


def measure(folder: Path, turns: int, batch: int) -> dict[str, Found]:
    with subjects(folder) as some:
        for subject in some:
            subject.turn(batch)  # to warm up
        took = in_turns(some, turns, lambda subject: subject.turn(batch))
        for subject in some:
            subject.whole_turn(batch)
        whole = in_turns(some, turns // 2, lambda subject: subject.whole_turn(batch))
    return {
        name: Found(
            ratio=statistics.median(one / other for one, other in zip(took[name], took[NOTHING], strict=True)),
            us=statistics.median(took[name]) / batch / 1000,
            process_us=statistics.median(one - other for one, other in zip(whole[name], whole[NOTHING], strict=True))
            / batch
            / 1000,
        )
        for name in sorted(took, key=lambda name: name != NOTHING)
    }


def in_turns(some: list[Subject], turns: int, measured: Callable[[Subject], int]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for turn in range(turns):
        for at in range(len(some)):
            subject = some[(at + turn) % len(some)]
            found.setdefault(subject.name, []).append(measured(subject))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="what telemetry costs a decision")
    parser.add_argument("--turns", type=int, default=60)
    parser.add_argument("--batch", type=int, default=200)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), asked.turns, asked.batch)
    for name, cost in found.items():
        sys.stdout.write(f"| {name} | {cost.ratio:.2f} | {cost.us:.0f} | {cost.process_us:+.0f} |\n")
    sys.exit(any(cost.ratio > MOST for cost in found.values()))


if __name__ == "__main__":
    main()
