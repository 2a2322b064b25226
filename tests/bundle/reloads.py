"""Reloads under load: no decision fails, none mixes two bundles, and no bundle is kept.

    python -m tests.bundle.reloads --reloads 1000

Two bundles take turns, by a swapped link under the watcher's eyes or by asking the source to look. They differ in the name of
the permit and of a quota, so that every record tells of which bundle each part of its decision came. Meanwhile some 200
decisions a second are made.
"""

from __future__ import annotations

import argparse
import gc
import random
import resource
import shutil
import sys
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from authz.bundle import Bundle, load_bundle
from authz.compose import Engine
from authz.identity.keys import IssuedKey, digest, mint
from authz.model import Allow, Request
from authz.policy import PolicyEngine
from authz.review import gate
from authz.settings import read_settings
from tests.bundle.folders import REFERENCE, edit
from tests.issued import put

SECRET = mint(random.Random(7).choice)
BODY = b'{"model": "llama-3.1-8b-instant", "messages": [{"role": "user", "content": "hello"}], "max_tokens": 1}'
PER_SECOND = 200
MAX_ALIVE = 4
"""The bundle in force, the one that it replaced and a decision still reads, and what the garbage collector has not seen yet."""


class Result(NamedTuple):
    decisions: int
    reloads: int
    problems: list[str]
    most_alive: int
    grown_kib: int


def lay_out(folder: Path) -> Path:
    """Two releases, and a link to the first."""
    for name in ("one", "two"):
        release = folder / "releases" / name
        shutil.copytree(REFERENCE, release)
        for case in ("models.yaml", "limits.yaml"):
            (release / "tests" / case).unlink()
        edit(release, "chatbot.cedar", "chatbot-models", f"permit-{name}")
        edit(release, "quotas.yaml", "id: org-spend", f"id: spend-{name}")
        for limit in ("500/minute", "100000/minute"):
            edit(release, "quotas.yaml", f"limit: {limit}", "limit: 1000000000/minute")
    (folder / "policies").symlink_to("releases/one")
    config = folder / "authz.yaml"
    config.write_text("store: sqlite:///authz.db\nrecords: {file: ''}\nreload: {watch: false}\n")
    return config


def swap(folder: Path, name: str) -> None:
    (folder / "next").symlink_to(f"releases/{name}")
    (folder / "next").rename(folder / "policies")


def run(reloads: int, folder: Path, load: Callable[[Path], Bundle] = load_bundle) -> Result:
    config = lay_out(folder)
    names = {load_bundle(folder / "releases" / name).digest: name for name in ("one", "two")}
    with Engine(read_settings(config), environ={"GROQ_API_KEY": "-"}, load=load) as engine:
        put(engine.store, IssuedKey(digest(SECRET), "chatbot-prod", 1))
        engine.tick()
        asker = _Asker(engine, names)
        asker.start()
        try:
            most_alive, grown_kib = _reload(engine, folder, reloads, asker.problems)
        finally:
            asker.stop()
    return Result(asker.decisions, reloads, asker.problems, most_alive, grown_kib)


def _reload(engine: Engine, folder: Path, reloads: int, problems: list[str]) -> tuple[int, int]:
    """The largest number of bundles that were alive at once, and by how much the process grew."""
    alive: list[weakref.ref[PolicyEngine]] = []
    most_alive, start_kib = 0, 0
    for number in range(reloads):
        swap(folder, ("two", "one")[number % 2])
        if not engine.source.refresh():
            problems.append(f"reload {number}: {engine.source.status.refused}")
        alive.append(weakref.ref(engine.source.current.policy))
        if number % 50 == 49 or number == reloads - 1:
            gc.collect()
            alive = [each for each in alive if each() is not None]
            most_alive = max(most_alive, len(alive))
        if number == reloads // 3:
            start_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most_alive, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - start_kib


class _Asker(threading.Thread):
    def __init__(self, engine: Engine, names: dict[str, str]) -> None:
        super().__init__(name="asker")
        self._engine, self._names = engine, names
        self._stopping = threading.Event()
        self.decisions = 0
        self.problems: list[str] = []

    def stop(self) -> None:
        self._stopping.set()
        self.join()

    def run(self) -> None:
        headers = (("authorization", f"Bearer {SECRET}"), ("content-type", "application/json"))
        request = Request("POST", "/openai/v1/chat/completions", headers, BODY)
        begun = time.monotonic()
        while not self._stopping.wait(max(0.0, begun + self.decisions / PER_SECOND - time.monotonic())):
            decision = self._engine.pdp.decide(request)
            self.decisions += 1
            record = decision.record
            name = self._names.get(record.bundle, "?")
            if not isinstance(decision, Allow):
                self.problems.append(f"denied: {record.message}")
            elif record.policies != (f"permit-{name}",) or record.quotas[0].quota != f"spend-{name}":
                self.problems.append(f"mixed: {record.bundle} {record.policies} {record.quotas[0].quota}")


def main() -> None:
    parser = argparse.ArgumentParser(description="reloads under load")
    parser.add_argument("--reloads", type=int, default=1_000)
    parser.add_argument("--gate", action="store_true", help="each through the gate's child process, as a sidecar does it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="authz-reloads-") as folder:
        result = run(arguments.reloads, Path(folder), gate.admit if arguments.gate else load_bundle)
    sys.stdout.write(
        f"{result.reloads} reloads, {result.decisions} decisions, {len(result.problems)} problems, at most {result.most_alive} "
        f"bundles alive, memory grew by {result.grown_kib} KiB after the first third\n"
    )
    sys.stdout.writelines(f"{problem}\n" for problem in result.problems[:5])
    sys.exit(bool(result.problems) or result.most_alive > MAX_ALIVE)


if __name__ == "__main__":
    main()
