"""The upstream's own limits: how much its answers say is left of them, and who may have it once that is little.

Groq counts for the whole organisation, by model. What is left of a limit is worked out from the last answer: what that said,
what has flowed back since, less what has been admitted since. While more than a fifth is left, or only one team is asking,
nobody is held back. Below that a team may go on up to its fair share of the window, the limit divided by the teams that are
asking; one that is above its share waits. So the last fifth is there for those who have had less than theirs, and one team
cannot starve the others, however much it asks for. What was used elsewhere (by another gateway, say) comes off everybody alike.

Each process knows what it has admitted itself and what the receipts that reached it said: with several processes each divides
what it sees, and Groq's own 429 has the last word. Nothing here is kept over a restart. Memory is bounded by the price book's
models, the settings' upstream keys and the directory's teams; pools beyond `MAX_POOLS` are not watched.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterable
from typing import Final

from msgspec import Struct

from authz.model import Meter, UpstreamLimit, UpstreamRoom

LOW_PERCENT: Final = 20
MAX_POOLS: Final = 4096
MAX_TAKEN: Final = 1024
MAX_WAIT_S: Final = 60

WINDOW_NS: Final[dict[Meter, int]] = {Meter.REQUESTS: 86_400 * 10**9, Meter.TOKENS: 60 * 10**9}
"""What Groq's headers speak of: requests of a day, tokens of a minute."""

_SLOTS: Final = 12
_REQUESTS: Final = Meter.REQUESTS
_TOKENS: Final = Meter.TOKENS


class Crowded(Struct, frozen=True):
    """Little is left, and this team has had its share: it may try again in `wait_s`. Amounts in the meter's unit."""

    meter: Meter
    limit: int
    left: int
    used: int
    share: int
    wait_s: int


class _Team:
    """What a team has used of one limit in the window, in twelfths of it; asking alone counts as being there."""

    __slots__ = ("_amounts", "_slot", "asked_ns")

    def __init__(self) -> None:
        self._amounts = [0] * _SLOTS
        self._slot = 0
        self.asked_ns = 0

    def used(self, slot: int) -> int:
        self._turn(slot)
        return sum(self._amounts)

    def take(self, slot: int, amount: int) -> None:
        self._turn(slot)
        self._amounts[self._slot % _SLOTS] += amount

    def _turn(self, slot: int) -> None:
        if slot <= self._slot:
            return
        for passed in range(self._slot + 1, min(slot, self._slot + _SLOTS) + 1):
            self._amounts[passed % _SLOTS] = 0
        self._slot = slot


class _Pool:
    """One limit of one upstream key on one model."""

    def __init__(self, meter: Meter) -> None:
        self.meter: Final = meter
        self.window_ns: Final = WINDOW_NS[meter]
        self.said: UpstreamLimit | None = None
        self._taken: deque[tuple[int, int]] = deque()
        self._teams: dict[str, _Team] = {}

    def learn(self, said: UpstreamLimit) -> None:
        """Receipts come in any order: the answer that was given last counts."""
        if self.said is not None and said.at_ns < self.said.at_ns:
            return
        self.said = said
        self._forget_taken(said.at_ns)

    def left(self, now_ns: int) -> int:
        """Of the limit, at this moment; 0 where nothing was said."""
        said = self.said
        if said is None:
            return 0
        missing, since_ns = max(0, said.limit - said.remaining), max(0, now_ns - said.at_ns)
        back = missing if since_ns >= said.reset_ns else missing * since_ns // said.reset_ns
        self._forget_taken(now_ns - self.window_ns)
        return max(0, min(said.limit, said.limit - missing + back - sum(amount for _, amount in self._taken)))

    def asking(self, now_ns: int) -> int:
        """How many teams have asked within the window; the others are forgotten."""
        self._teams = {name: team for name, team in self._teams.items() if team.asked_ns > now_ns - self.window_ns}
        return len(self._teams)

    def crowded(self, team: str, amount: int, now_ns: int) -> Crowded | None:
        asks = self._asks(team, now_ns)
        said = self.said
        if said is None or now_ns - said.at_ns >= self.window_ns:
            return None  # what was said so long ago says nothing of now
        low, left = said.limit * LOW_PERCENT // 100, self.left(now_ns)
        if left - amount >= low:
            return None
        teams, used = self.asking(now_ns), asks.used(self._slot(now_ns))
        share = said.limit // teams
        if teams == 1 or used + amount <= share:
            return None
        wait_s = -(-(low + amount - left) * self.window_ns // (max(1, said.limit) * 10**9))
        return Crowded(self.meter, said.limit, left, used, share, min(MAX_WAIT_S, max(1, wait_s)))

    def take(self, team: str, amount: int, now_ns: int) -> None:
        self._asks(team, now_ns).take(self._slot(now_ns), amount)
        if len(self._taken) < MAX_TAKEN:
            self._taken.append((now_ns, amount))
        else:  # one entry stands for several: they are forgotten together, at the time of the last
            _, last = self._taken.pop()
            self._taken.append((now_ns, last + amount))

    def _asks(self, team: str, now_ns: int) -> _Team:
        asks = self._teams.get(team)
        if asks is None:
            asks = self._teams[team] = _Team()
        if asks.asked_ns < now_ns:
            asks.asked_ns = now_ns
        return asks

    def _forget_taken(self, before_ns: int) -> None:
        while self._taken and self._taken[0][0] <= before_ns:
            self._taken.popleft()

    def _slot(self, now_ns: int) -> int:
        return now_ns * _SLOTS // self.window_ns


class Headroom:
    """What is left of the upstream's limits. Pure but for its own memory; safe in threads; `upstream` is a key's name.

    What two requests find at the same instant neither has taken yet, so the last fifth may be overrun by what is being decided.
    """

    def __init__(self) -> None:
        self._pools: dict[tuple[str, str, Meter], _Pool] = {}
        self._lock = threading.Lock()

    def look(self, upstream: str, model: str, team: str, tokens: int, now_ns: int) -> Crowded | None:
        """None where the team may go ahead with a request that is expected to use so many tokens."""
        worst: Crowded | None = None
        with self._lock:
            for pool, amount in self._of(upstream, model, tokens):  # every one of them, so that each knows who asks
                found = pool.crowded(team, amount, now_ns)
                if found is not None and (worst is None or found.wait_s > worst.wait_s):
                    worst = found
        return worst

    def take(self, upstream: str, model: str, team: str, tokens: int, now_ns: int) -> None:
        """The request goes ahead."""
        with self._lock:
            for pool, amount in self._of(upstream, model, tokens):
                pool.take(team, amount, now_ns)

    def learn(self, upstream: str, model: str, said: Iterable[UpstreamLimit]) -> None:
        """What an answer of the upstream said."""
        with self._lock:
            for limit in said:
                pool = self._pool(upstream, model, limit.meter)
                if pool is not None:
                    pool.learn(limit)

    def rooms(self, now_ns: int) -> tuple[UpstreamRoom, ...]:
        """Every limit that is known, sorted; for people and metrics."""
        with self._lock:
            return tuple(
                UpstreamRoom(upstream, model, meter, pool.said.limit, pool.left(now_ns), pool.asking(now_ns), pool.said.at_ns)
                for (upstream, model, meter), pool in sorted(self._pools.items())
                if pool.said is not None
            )

    def _of(self, upstream: str, model: str, tokens: int) -> list[tuple[_Pool, int]]:
        requests = self._pool(upstream, model, _REQUESTS)
        found = [(requests, 1)] if requests is not None else []
        pool = self._pool(upstream, model, _TOKENS) if tokens else None
        if pool is not None:
            found.append((pool, tokens))
        return found

    def _pool(self, upstream: str, model: str, meter: Meter) -> _Pool | None:
        pool = self._pools.get((upstream, model, meter))
        if pool is None and meter in WINDOW_NS and len(self._pools) < MAX_POOLS:
            pool = self._pools[upstream, model, meter] = _Pool(meter)
        return pool
