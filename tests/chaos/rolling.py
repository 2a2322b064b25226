"""Restarts under load through Envoy: no request fails, and every settlement is accounted for.

    python -m tests.chaos.rolling --rounds 20 --store redis

A round restarts each of the sidecars in turn, by SIGTERM and a new start, the next one when Envoy sees the first serve again.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter

from msgspec import Struct

from authz.quota.ledger import State
from tests.chaos import books
from tests.chaos.audit import Findings, Watch, audit
from tests.chaos.faults import pause, restart
from tests.chaos.fleet import Fleet, Kind, Plan
from tests.chaos.load import Caller, Load, Sent
from tests.chaos.schedule import SMALL

LARGE = "llama-3.3-70b-versatile"
_PRICES = {SMALL: (50, 80), LARGE: (590, 790)}
"""Nano-dollars a token, in and out, as the reference bundle has them."""


class Rolled(Struct, frozen=True):
    """restarts     of single sidecars
    failed          answers that were not a whole 200
    states          how the reservations ended
    tokens, cost    what the books say, input and output tokens and nano-dollars; expected, what the upstream counted
    slowest_s       of all answers
    """

    store: str
    restarts: int
    sent: int
    failed: dict[str, int]
    states: dict[str, int]
    tokens: tuple[int, int]
    expected_tokens: tuple[int, int]
    cost: int
    expected_cost: int
    slowest_s: float
    found: Findings

    @property
    def well(self) -> bool:
        accounted = self.tokens == self.expected_tokens and self.cost == self.expected_cost
        # Voided is what a Check held whose answer came too late: it was asked again, and that one is settled.
        ends = self.states.keys() <= {State.SETTLED.value, State.VOIDED.value} and self.states.get("settled") == self.sent
        return self.restarts > 0 and self.sent > 0 and not self.failed and ends and accounted and not self.found.broken


def run(kind: Kind, rounds: int, *, sidecars: int = 2, threads: int = 4) -> Rolled:
    # A lifetime that no run reaches: whatever nobody reported on would still be pending, and not be mistaken for settled.
    with Fleet(Plan(kind, sidecars=sidecars, ttl_s=600, proxied=False)) as fleet, Watch(fleet) as watch:
        secret = fleet.secrets["chatbot-prod"]
        callers = [Caller("chatbot-prod", secret, model, stream=stream) for model in _PRICES for stream in (False, True)]
        with Load(fleet.url, callers, threads=threads) as load:
            pause(0.3)
            for _ in range(rounds):
                for sidecar in fleet.sidecars:
                    restart(fleet, sidecar)
            pause(0.3)
        return _rolled(fleet, load.sent, rounds * sidecars, watch)


def _rolled(fleet: Fleet, sent: list[Sent], restarts: int, watch: Watch) -> Rolled:
    received = fleet.groq.received()
    found = audit(fleet, sent, received, watch)
    used = [(json.loads(each.body)["model"], each.usage) for each in received if each.usage is not None]
    with fleet.open_store() as store:
        rows = [row for row in store.usage("0000-01-01", "9999-12-31") if not row.pending_requests]
    prices = [(usage.prompt_tokens, usage.completion_tokens, *_PRICES[model]) for model, usage in used]
    return Rolled(
        store=fleet.kind.value,
        restarts=restarts,
        sent=len(sent),
        failed=dict(Counter(f"{each.status} {each.code}" for each in sent if each.status != 200 or each.code)),
        states=dict(Counter(each.state.value for group in books.by_request(fleet).values() for each in group)),
        tokens=(sum(row.input_tokens for row in rows), sum(row.output_tokens for row in rows)),
        expected_tokens=(sum(usage.prompt_tokens for _, usage in used), sum(usage.completion_tokens for _, usage in used)),
        cost=sum(row.cost_nanousd for row in rows),
        expected_cost=sum(into * price + out * price_out for into, out, price, price_out in prices),
        slowest_s=max(each.took_s for each in sent),
        found=found,
    )


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.rolling", description="rolling restarts under load")
    parser.add_argument("--rounds", type=int, default=10)
    parser.add_argument("--store", choices=[kind.value for kind in Kind], action="append", help="both without it")
    arguments = parser.parse_args()
    rolled = [run(Kind(kind), arguments.rounds) for kind in arguments.store or list(Kind)]
    for each in rolled:
        sys.stdout.write(
            f"{each.store}: {each.restarts} restarts, {each.sent} requests, {sum(each.failed.values())} failed "
            f"{each.failed or ''}, reservations {each.states}, posted {each.cost} of {each.expected_cost} nano-dollars and "
            f"{each.tokens} of {each.expected_tokens} tokens, slowest answer {each.slowest_s:.2f} s"
            f"{'' if each.well else ', NOT WELL ' + '; '.join(each.found.broken)}\n"
        )
    return 0 if all(each.well for each in rolled) else 1


if __name__ == "__main__":
    sys.exit(main())
