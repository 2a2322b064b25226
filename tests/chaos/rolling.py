"""Restarts under load through Envoy: no request fails, and every settlement is accounted for.

    python -m tests.chaos.rolling --rounds 20 --store redis

A round restarts each of the sidecars in turn, by SIGTERM and a new start, the next one when Envoy sees the first serve again.
With `--starved` nobody has time while one ends: Envoy, the sidecars and Redis stand still again and again, for up to so long.
Checks then take longer than Envoy waits, restart or not, and are a 503; of the rest the same has to hold.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter

from msgspec import Struct

from authz.quota.ledger import State
from demo.stack import Sidecar
from tests.chaos import books
from tests.chaos.audit import PENDING, Findings, Watch, audit
from tests.chaos.faults import pause, starved, stop
from tests.chaos.fleet import Fleet, Kind, Plan
from tests.chaos.load import Caller, Load, Sent
from tests.chaos.schedule import SMALL

LARGE = "llama-3.3-70b-versatile"
_PRICES = {SMALL: (50, 80), LARGE: (590, 790)}
"""Nano-dollars a token, in and out, as the reference bundle has them."""

CHECK_S = 0.6
"""How long Envoy waits for a Check, all its tries together."""

_TOLD = (
    r"^http.inference.ext_authz.error|^cluster.sidecar(-log)?.upstream_(rq_(timeout|per_try_timeout|retry|503|pending_failure_eject)"
    r"|cx_(connect_fail|connect_timeout|none_healthy))$|^access_logs.grpc_access_log"
)
"""What could make Envoy give up on a Check or lose what it logs, by the names that it counts them under."""


class Rolled(Struct, frozen=True):
    """restarts     of single sidecars
    failed          answers that were not a whole 200; late  those of them that came when Envoy's time for a Check was over
    states          how the reservations ended
    missing         requests that the upstream answered and whose settlement did not come
    twice           held a second time for a Check that was tried again, and not given back: swept at the estimate
    tokens, cost    what the books say, input and output tokens and nano-dollars; expected, what the upstream counted
    slowest_s       of all answers
    envoy           what Envoy counts of Checks and of its log where it is not 0
    """

    store: str
    starved_s: float
    restarts: int
    sent: int
    failed: dict[str, int]
    late: int
    states: dict[str, int]
    missing: int
    twice: int
    tokens: tuple[int, int]
    expected_tokens: tuple[int, int]
    cost: int
    expected_cost: int
    slowest_s: float
    envoy: dict[str, int]
    found: Findings

    @property
    def well(self) -> bool:
        """Nothing failed but for want of time, and each request's end is known, to the token."""
        # Voided is what a Check held whose answer came too late: it was asked again, and that one is settled.
        ends = {State.SETTLED.value, State.VOIDED.value, *([State.PENDING.value] if self.twice else [])}
        accounted = self.missing == 0 and self.states.keys() <= ends and not self._broken
        accounted &= self.tokens == self.expected_tokens and self.cost == self.expected_cost
        excused = self.late if self.starved_s else 0
        return self.restarts > 0 and self.sent > 0 and sum(self.failed.values()) == excused and accounted

    @property
    def _broken(self) -> list[str]:
        """Without that something is pending, where that is what is held twice: no run lasts until it is swept."""
        explained = f"{self.twice} {PENDING}"
        return [each for each in self.found.broken if each != explained]


def run(kind: Kind, rounds: int, *, sidecars: int = 2, threads: int = 4, starved_s: float = 0.0) -> Rolled:
    # A lifetime that no run reaches: whatever nobody reported on would still be pending, and not be mistaken for settled.
    with Fleet(Plan(kind, sidecars=sidecars, ttl_s=600, proxied=False)) as fleet, Watch(fleet) as watch:
        secret = fleet.secrets["chatbot-prod"]
        callers = [Caller("chatbot-prod", secret, model, stream=stream) for model in _PRICES for stream in (False, True)]
        with Load(fleet.url, callers, threads=threads) as load:
            pause(0.3)
            for _ in range(rounds):
                for sidecar in fleet.sidecars:
                    _restart(fleet, sidecar, starved_s)
            pause(0.3)
        return _rolled(fleet, load.sent, rounds * sidecars, watch, starved_s)


def _restart(fleet: Fleet, sidecar: Sidecar, starved_s: float) -> None:
    with starved(fleet.pids if starved_s else [], starved_s):
        pause(2 * starved_s)
        stop(sidecar)
        pause(2 * starved_s)
    sidecar.start()
    fleet.wait_until_healthy()


def _rolled(fleet: Fleet, sent: list[Sent], restarts: int, watch: Watch, starved_s: float) -> Rolled:
    received = fleet.groq.received()
    found = audit(fleet, sent, received, watch)
    used = [(json.loads(each.body)["model"], each.usage) for each in received if each.usage is not None]
    prices = [(usage.prompt_tokens, usage.completion_tokens, *_PRICES[model]) for model, usage in used]
    with fleet.open_store() as store:
        rows = store.usage("0000-01-01", "9999-12-31")
    reserved = books.by_request(fleet)
    states = Counter(each.state for group in reserved.values() for each in group)
    settled = {request_id for request_id, group in reserved.items() if any(each.state is State.SETTLED for each in group)}
    missing = {request_id for each in received for request_id in each.header("x-request-id")} - settled
    twice = states[State.PENDING] - sum(each.state is State.PENDING for name in missing for each in reserved.get(name, []))
    failed = [each for each in sent if each.status != 200 or each.code]
    return Rolled(
        store=fleet.kind.value,
        starved_s=starved_s,
        restarts=restarts,
        sent=len(sent),
        failed=dict(Counter(f"{each.status} {each.code}" for each in failed)),
        late=sum(each.code == "authz_unavailable" and each.took_s >= CHECK_S for each in failed),
        states={state.value: count for state, count in states.items()},
        missing=len(missing),
        twice=twice,
        tokens=(sum(row.input_tokens for row in rows), sum(row.output_tokens for row in rows)),
        expected_tokens=(sum(usage.prompt_tokens for _, usage in used), sum(usage.completion_tokens for _, usage in used)),
        cost=sum(row.cost_nanousd for row in rows),
        expected_cost=sum(into * price + out * price_out for into, out, price, price_out in prices),
        slowest_s=max(each.took_s for each in sent),
        envoy={name: value for name, value in fleet.envoy.stats(_TOLD).items() if value},
        found=found,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.rolling", description="rolling restarts under load")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--store", choices=[kind.value for kind in Kind], action="append", help="both without it")
    parser.add_argument("--starved", type=float, default=0.0, metavar="SECONDS", help="how long everybody stands still at most")
    arguments = parser.parse_args()
    kinds = arguments.store or list(Kind)
    rolled = [run(Kind(kind), arguments.rounds, starved_s=arguments.starved) for kind in kinds]
    for each in rolled:
        sys.stdout.write(
            f"{each.store}: {each.restarts} restarts, {each.sent} requests, {sum(each.failed.values())} failed "
            f"{each.failed or ''}, {each.late} of them when a Check's time was over; settlements missing {each.missing}, "
            f"held twice {each.twice}, reservations {each.states}, posted {each.cost} of {each.expected_cost} nano-dollars and "
            f"{each.tokens} of {each.expected_tokens} tokens, slowest answer {each.slowest_s:.2f} s, Envoy {each.envoy}"
            f"{'' if each.well else ', NOT WELL ' + '; '.join(each.found.broken)}\n"
        )
    return 0 if all(each.well for each in rolled) else 1


if __name__ == "__main__":
    sys.exit(main())
