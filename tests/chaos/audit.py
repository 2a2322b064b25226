"""What must be true whatever was injected: looked at from outside, in the books, the records and at the upstream.

fail open    a request that reached the upstream and has no reservation, unless its quotas declare that it may pass
lost         a reservation that was acknowledged (the upstream saw its request, with the key that only an allow carries) and is
             not in the books; the same test, told apart by what the client heard
overspend    posted + pending of a budget above its cap, at any look
secrets      a prompt, a virtual key or the upstream key in any file, log or metric
pending      a reservation that outlived its deadline and a sweep
books        balances that are not what the journal adds up to
free         a reservation that was given back although the upstream answered
wrong        a settlement of other tokens than the upstream counted
"""

from __future__ import annotations

import json
import threading
import urllib.request
from collections import Counter
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, Self

from msgspec import Struct

from authz.errors import StoreUnavailable
from authz.model import Uid
from authz.quota.definitions import Quota
from authz.quota.ledger import State
from authz.quota.path import applied_to
from authz.review.gate import load as load_bundle
from demo.stack import STAND_IN_KEY, wait_for
from demo.standin import Received
from tests.chaos import books
from tests.chaos.fleet import CAPPED, OPEN_KEY, Fleet, capped
from tests.chaos.load import PROMPT, Sent, numbers

PENDING: Final = "reservations are pending after their deadline and a sweep"
_LOOK_S: Final = 0.05
_SLACK_S: Final = 8.0
_LONGEST_S: Final = 10


class Findings(Struct, kw_only=True):
    """upstream   requests that the upstream saw
    declared      of these: passed without the store, as a quota declares
    settled       of the others: settled with the upstream's own count
    estimated     the estimate stands: nobody heard how they ended, or they broke off
    voided        given back, because the upstream refused or was not reached
    twice         charged twice, because a Check was repeated and nobody heard that its first answer was lost: too much, never
                  too little
    looks, highest, cap  in nano-dollars, of the watch on the budgets
    broken        what is not as it must be, in words
    """

    upstream: int = 0
    declared: int = 0
    settled: int = 0
    estimated: int = 0
    voided: int = 0
    twice: int = 0
    looks: int = 0
    highest: int = 0
    cap: int = 0
    broken: list[str] = []


class Watch:
    """Looks at the budgets all the time, past every network that fails."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        (quota,) = [each for each in _quotas(fleet) if each.id == "capped"]
        self.cap: Final = quota.limit
        self._counters = {applied_to(quota, Uid("Key", capped(number))).counter for number in range(CAPPED)}
        self.looks, self.highest, self.above = 0, 0, 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        self._thread.join()

    def look(self) -> None:
        """Raises `StoreUnavailable`."""
        with self._fleet.open_store(wait_s=1) as store:
            self._read(store.balances())

    def _run(self) -> None:
        while not self._stopping.wait(_LOOK_S):
            # Struck by what was injected: it comes back.
            with self._fleet.undisturbed, suppress(StoreUnavailable):
                self.look()

    def _read(self, balances: dict[str, dict[int, tuple[int, int]]]) -> None:
        self.looks += 1
        for counter in self._counters & balances.keys():
            taken = sum(posted + pending for posted, pending in balances[counter].values())
            self.highest = max(self.highest, taken)
            self.above += taken > self.cap


def wait_for_the_ends(fleet: Fleet) -> None:
    """Until every reservation has ended: by its settlement, or at its deadline and one sweep. Raises `TimeoutError`."""
    wait_for("every reservation to end", lambda: books.pending(fleet) == 0, min(fleet.plan.ttl_s, _LONGEST_S) + _SLACK_S)


def audit(fleet: Fleet, sent: Iterable[Sent], received: Iterable[Received], watch: Watch) -> Findings:
    """After the load has ended and every fault is healed."""
    found = Findings(looks=watch.looks, highest=watch.highest, cap=watch.cap)
    say = found.broken.append
    try:
        wait_for_the_ends(fleet)
    except TimeoutError:
        say(f"{books.pending(fleet)} {PENDING}")
    watch.look()
    found.highest = watch.highest
    if watch.above:
        say(f"overspent: {watch.highest} of {watch.cap} nano-dollars")
    _check_requests(fleet, {each.number: each for each in sent}, list(received), found)
    with fleet.open_store() as store:
        if store.balances() != store.replay():
            say("balances are not what the journal adds up to")
    found.broken += [f"a secret is in {place}" for place in secrets_found(fleet)]
    return found


def _check_requests(fleet: Fleet, sent: dict[int, Sent], received: list[Received], found: Findings) -> None:
    reserved, settlements = books.by_request(fleet), _settlements(fleet)
    faults: Counter[str] = Counter()
    for request in received:
        (number,) = numbers(request.body)
        (request_id,) = request.header("x-request-id")
        asked = sent.get(number)
        if asked is None:
            continue  # of another schedule
        found.upstream += 1
        if not asked.caller.may:
            faults[f"failed open for `{asked.caller.name}`"] += 1
        held = reserved.get(request_id, [])
        if not held and asked.degraded and asked.caller.name == OPEN_KEY:
            found.declared += 1
            continue
        if not held:
            faults["acknowledged reservations lost" if asked.status == 200 else "requests upstream without one"] += 1
            continue
        found.declared += asked.degraded
        charged = [each for each in held if each.state is not State.VOIDED]
        found.twice += len(charged) > 1
        _count_end((charged or held)[0], request, settlements, found, faults)
    found.broken += [f"{how_many} {what}" for what, how_many in faults.items() if how_many]


def _count_end(
    held: books.Reserved, request: Received, settlements: dict[str, Any], found: Findings, faults: Counter[str]
) -> None:
    record = settlements.get(held.id)
    usage = record["usage"] if record else None
    match held.state:
        case State.VOIDED:
            found.voided += 1
            # Whatever became of the answer on its way: the upstream has worked for it.
            faults["given back although the upstream answered"] += request.status == 200
        case State.SETTLED | State.CORRECTED if usage is not None or record is None:
            found.settled += 1
        case _:
            found.estimated += 1
    if usage is not None and request.usage is not None:
        said = usage["input_tokens"], usage["output_tokens"]
        faults["settled with other tokens than the upstream counted"] += said != (
            request.usage.prompt_tokens,
            request.usage.completion_tokens,
        )


def _settlements(fleet: Fleet) -> dict[str, Any]:
    """The last settlement on record of each reservation. A full disk may have cut lines; they are not whole JSON."""
    found: dict[str, Any] = {}
    for config in fleet.configs:
        path = config.parent / "decisions.jsonl"
        for line in path.read_bytes().splitlines() if path.exists() else ():
            try:
                record = json.loads(line)
            except ValueError:
                continue
            if record["kind"] == "settlement":
                found[record["reservation_id"]] = record
    return found


def secrets_found(fleet: Fleet) -> list[str]:
    """Where one of them is. What a running sidecar shows of itself counts too."""
    wanted = [secret.encode() for secret in (*fleet.secrets.values(), STAND_IN_KEY, PROMPT)]
    roots = [fleet.folder, *([fleet.redis.folder] if fleet.redis is not None else [])]
    places = [(str(path.relative_to(root)), _read(path)) for root in roots for path in root.rglob("*") if path.is_file()]
    places += [(f"the metrics of sidecar {number}", _scrape(port)) for number, port in enumerate(fleet.metrics_ports)]
    return [name for name, content in places if any(secret in content for secret in wanted)]


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:  # a journal that its owner has just removed
        return b""


def _scrape(port: int) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:  # loopback
        return bytes(answer.read())


def _quotas(fleet: Fleet) -> tuple[Quota, ...]:
    return load_bundle(fleet.folder / "policies").quotas.quotas


def posted_cost(fleet: Fleet) -> int:
    """What the usage report has posted in all, in nano-dollars."""
    with fleet.open_store() as store:
        return sum(row.cost_nanousd for row in store.usage("0000-01-01", "9999-12-31"))
