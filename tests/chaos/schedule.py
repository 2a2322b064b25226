"""One fault after the other on one fleet: load, what is injected, quiet again, and the audit of what is left."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator

from msgspec import Struct, structs

from tests.chaos.audit import Findings, Watch, audit
from tests.chaos.faults import FAULTS, SKIPPED, Broken, Fault, pause
from tests.chaos.fleet import CAPPED, OPEN_KEY, Fleet, Kind, Plan, capped
from tests.chaos.load import Caller, Load, Sent

SMALL, OPEN = "llama-3.1-8b-instant", "openai/gpt-oss-120b"
_BEFORE_S, _AFTER_S = 0.3, 0.5


class Row(Struct, frozen=True):
    """What was done, what the clients saw of it, and what the audit found.

    answered     200, to its end
    held_back    403 and 429 by a limit or a budget; refused: by who and what was asked for, as it has to be
    unavailable  503 of ours, or of Envoy's for us
    upstream     errors of the upstream's, and answers that broke off
    no_answer    Envoy itself was not there
    slowest_s    of the refusals · back_s: from the end of the fault to the first answer
    """

    store: str
    fault: str
    injected: str
    sent: int
    answered: int
    held_back: int
    refused: int
    unavailable: int
    upstream: int
    no_answer: int
    codes: dict[str, int]
    slowest_s: float
    back_s: float
    found: Findings

    @property
    def skipped(self) -> bool:
        return self.injected.startswith(SKIPPED)

    @property
    def broken(self) -> list[str]:
        return self.found.broken


def callers(fleet: Fleet, lab: str) -> list[Caller]:
    """Those who may, those with a small budget, the one who may pass without a store, and those who must never get through."""
    secrets = fleet.secrets
    chatbot = Caller("chatbot-prod", secrets["chatbot-prod"], SMALL)
    return [
        chatbot,
        Caller("chatbot-prod", secrets["chatbot-prod"], SMALL, stream=True),
        # At most 10 of these are under way at once: the budget is what holds them.
        Caller(lab, secrets[lab], OPEN, max_tokens=8_000),
        Caller(lab, secrets[lab], OPEN, max_tokens=8_000, stream=True),
        Caller(OPEN_KEY, secrets[OPEN_KEY], SMALL),
        Caller("chatbot-prod, not a model of this team", secrets["chatbot-prod"], OPEN, may=False),
        Caller("a key that nobody issued", "authz_" + "0" * 40, SMALL, may=False),
    ]


def run(plan: Plan, faults: Iterable[Fault], seconds: float) -> Iterator[Row]:
    """A row for each fault that this kind of store can have, as it comes."""
    groups: dict[tuple[str, ...], list[Fault]] = {}
    for each in faults:
        if plan.kind in each.on:
            groups.setdefault(each.program, []).append(each)
    for program, group in groups.items():
        with Fleet(structs.replace(plan, program=program)) as fleet, Watch(fleet) as watch:
            for number, fault in enumerate(group):
                yield strike(fleet, watch, fault, capped(number % CAPPED), seconds)


def strike(fleet: Fleet, watch: Watch, fault: Fault, lab: str, seconds: float) -> Row:
    """One fault under load, and what is true afterwards."""
    before = len(fleet.groq.received())
    broken = []
    with Load(fleet.url, callers(fleet, lab)) as load:
        pause(_BEFORE_S)
        try:
            injected = fault.inject(fleet, seconds)
        except Broken as problem:
            injected, broken = fault.name, [str(problem)]
        healed_s = time.monotonic()
        pause(_AFTER_S)
    back_s = _until_answered(load.sent, healed_s)
    found = audit(fleet, load.sent, fleet.groq.received()[before:], watch)
    found.broken += broken
    return _row(fleet.kind, fault, injected, load.sent, back_s, found)


def _until_answered(sent: list[Sent], healed_s: float) -> float:
    """Seconds from the end of the fault to the first answer of a request that began afterwards; below 0 where none came."""
    ends = [each.ended_s for each in sent if each.began_s >= healed_s and each.status == 200 and not each.code]
    return min(ends, default=healed_s - 1) - healed_s


def _row(kind: Kind, fault: Fault, injected: str, sent: list[Sent], back_s: float, found: Findings) -> Row:
    groups = Counter(_group(each) for each in sent)
    refused = [each.took_s for each in sent if each.status >= 400]
    return Row(
        store=kind.value,
        fault=fault.name,
        injected=injected,
        sent=len(sent),
        answered=groups["answered"],
        held_back=groups["held_back"],
        refused=groups["refused"],
        unavailable=groups["unavailable"],
        upstream=groups["upstream"],
        no_answer=groups["no_answer"],
        codes=dict(Counter(each.code for each in sent if each.code)),
        slowest_s=max(refused, default=0.0),
        back_s=back_s,
        found=found,
    )


_HELD_BACK = ("spend_cap_reached", "rate_limit_exceeded", "too_many_in_flight")
_UNAVAILABLE = ("authz_unavailable", "store_unavailable", "overloaded")


def _group(sent: Sent) -> str:
    if not sent.status:
        return "no_answer"
    if not sent.code:
        return "answered"
    if sent.code in _UNAVAILABLE:
        return "unavailable"
    if not sent.caller.may:
        return "refused"
    return "held_back" if sent.status in (403, 429) and sent.code in _HELD_BACK else "upstream"


def named(names: Iterable[str]) -> list[Fault]:
    """The faults whose names hold one of these texts; all without any. Raises ValueError for one that names none."""
    wanted = list(names)
    for text in wanted:
        if not any(text in each.name for each in FAULTS):
            raise ValueError(f"no fault is called `{text}`, expected one of: {', '.join(each.name for each in FAULTS)}")
    return [each for each in FAULTS if not wanted or any(text in each.name for text in wanted)]
