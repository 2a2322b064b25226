"""`Counters` on Redis: two keys for all of them, one with their values and one with their ends.

A call whose connection broke is repeated once, and may then be counted twice: never too little. With the server's data the
counts are gone as well, and everybody begins anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

from authz.quota.windows import Tally, sliding
from authz.store.counters import KEEP_S, PRUNED_PER_ROW, Hit, Standing, standing
from authz.store.redis import rows
from authz.store.redis.connection import Server
from authz.store.redis.uri import Options

_END: Final = 19
"""A value before its tally: the moment at which it ends."""


class RedisCounters:
    """Safe in threads, and for any number of processes on one server.

    time  whose clock counts: the server's, for all who share it; the caller's is for tests, which turn it
    """

    def __init__(self, options: Options, *, time: Literal["server", "caller"] = "server") -> None:
        self._server = Server(options)
        self._callers_time = time == "caller"

    def close(self) -> None:
        self._server.close()

    def hit(self, hits: Sequence[Hit], now_ns: int) -> bool:
        args = [value for hit in hits for value in (hit.name, sliding(hit.length_s).sub_bucket_us, hit.limit, hit.amount)]
        return bool(self._server.run("limits_hit", self._moment(now_ns), KEEP_S, PRUNED_PER_ROW * len(hits), *args))

    def look(self, name: bytes, length_s: int, now_ns: int) -> Standing:
        now, value = self._server.run("limits_look", self._moment(now_ns), name)
        return standing(value[_END:] if value else None, sliding(length_s), int(now))

    def add(self, name: bytes, length_s: int, amount: int, now_ns: int) -> int:
        return int(self._server.run("limits_add", self._moment(now_ns), KEEP_S, PRUNED_PER_ROW, name, length_s, amount))

    def count(self, name: bytes, now_ns: int) -> Standing:
        now, value = self._server.run("limits_look", self._moment(now_ns), name)
        moment_ns, ends_ns = int(now), int(value[:_END]) if value else 0
        if ends_ns <= moment_ns:
            return Standing(0, moment_ns, moment_ns)
        return Standing(Tally(value[_END:]).used(0), ends_ns, moment_ns)

    def forget(self, names: Sequence[bytes]) -> None:
        self._server.run("limits_forget", *names)

    def forget_all(self) -> int:
        return int(self._server.run("limits_forget_all"))

    def _moment(self, now_ns: int) -> str:
        return rows.moment(now_ns) if self._callers_time else ""
