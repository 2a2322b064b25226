"""The figures of a decision in this process: P1, P4, P5 and P6."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import cycle
from pathlib import Path
from time import thread_time_ns
from typing import Final

import cedarpy
from redis import Redis

from authz.inference import endpoints
from authz.model import Uid
from bench.measure import AT_MOST, Figure, Works, in_turns, microseconds, ratios
from bench.world import MODEL, World, opened
from tests.store import redis_server

CHUNK: Final = 8
"""Decisions that arrive together, as many as the sidecar takes at a time."""

IN_CHUNK: Final = "decision in a chunk of 8"
SETTLED: Final = "settlement of 8 in a message"


@contextmanager
def world(*, store: str = "", teams: int = 0) -> Iterator[World]:
    with tempfile.TemporaryDirectory(prefix="authz-bench-") as folder, opened(Path(folder), store=store, teams=teams) as made:
        yield made


def raw_cedar(of: World) -> Works:
    """One bare call of cedarpy with the very policies, entities and request that the decision's own would be."""
    engine = of.engine
    request = of.request()
    asking = engine.authenticator.identify(request, engine.bundle.directory, engine.clock()).principal
    plan = engine.bundle.policy._plan(asking, endpoints.read(request).action, Uid("Model", MODEL))
    if isinstance(plan, str):
        raise AssertionError(plan)
    asked = {**plan.request, "context": "{}"}
    return {"cedar": lambda: cedarpy.is_authorized(asked, plan.enforced.handle, plan.entities)}


def decision_and_cedar(rounds: int, times: int) -> list[Figure]:
    with world() as one:
        works: Works = {"decision": one.decide, **_in_eights(one), **raw_cedar(one)}
        found = in_turns(works, rounds=rounds, times=times, clock=thread_time_ns, between=one.engine.store.checkpoint)
    _each(found)
    parts = microseconds(found)
    return [
        Figure(
            "P1",
            "in-process decision, all quotas on SQLite ÷ one cedarpy call on the same slice",
            ratios(found, "decision", "cedar"),
            3,
            AT_MOST,
            parts,
        ),
        Figure(
            "P1 in chunks",
            "the same, where 8 arrive together: each ÷ one cedarpy call",
            ratios(found, IN_CHUNK, "cedar"),
            3,
            "",
        ),
        Figure(
            "P1 settled",
            "settlement, 8 reported in a message: each ÷ one cedarpy call",
            ratios(found, SETTLED, "cedar"),
            3,
            "",
        ),
    ]


def teams(rounds: int, times: int, *, few: int = 10, many: int = 10_000) -> Figure:
    with world(teams=few) as small, world(teams=many) as large:
        found = _small_and_large(small, large, rounds, times)
    what = f"decision at {many:,} teams with a key, a policy and two quotas each ÷ at {few}"
    return Figure("P4", what, ratios(found, "large", "small"), 1.2, AT_MOST, microseconds(found))


def keys(rounds: int, times: int, *, few: int = 100, many: int = 100_000) -> Figure:
    """Each decision is asked for with another secret."""
    with world() as small, world() as large:
        some, lots = cycle(small.issue(few)), cycle(large.issue(many))
        works: Works = {"small": lambda: small.decide(next(some)), "large": lambda: large.decide(next(lots))}
        found = in_turns(works, rounds=rounds, times=times, clock=thread_time_ns, between=lambda: _checkpoint(small, large))
    what = f"decision at {many:,} keys ÷ at {few}, another key each time"
    return Figure("P5", what, ratios(found, "large", "small"), 1.2, AT_MOST, microseconds(found))


def redis(rounds: int, times: int) -> list[Figure]:
    with ExitStack() as stack:
        server = redis_server.shared()
        stack.callback(redis_server.close_shared)
        client = Redis(unix_socket_path=str(server.socket))
        stack.callback(client.close)
        one = stack.enter_context(world(store=server.uri))
        sha = str(client.script_load("return 1"))
        works: Works = {"decision": one.decide, **_in_eights(one), "EVALSHA": partial(client.evalsha, sha, 0)}
        found = in_turns(works, rounds=rounds, times=times)
    _each(found)
    parts = microseconds(found)
    what = "decision on Redis ÷ one bare EVALSHA by the same client (redis-py)"
    return [
        Figure("P6", what, ratios(found, "decision", "EVALSHA"), 1.5, AT_MOST, parts),
        Figure(
            "P6 in chunks", "the same, where 8 arrive together: each ÷ one EVALSHA", ratios(found, IN_CHUNK, "EVALSHA"), 1.5, ""
        ),
        Figure(
            "P6 settled",
            "settlement on Redis, 8 reported in a message: each ÷ one EVALSHA",
            ratios(found, SETTLED, "EVALSHA"),
            1.5,
            "",
        ),
    ]


def _in_eights(one: World) -> Works:
    return {IN_CHUNK: partial(one.decide_many, CHUNK), SETTLED: partial(one.settle_many, CHUNK)}


def _each(found: dict[str, list[float]]) -> None:
    for name in (IN_CHUNK, SETTLED):
        found[name] = [each / CHUNK for each in found[name]]


def _small_and_large(small: World, large: World, rounds: int, times: int) -> dict[str, list[float]]:
    works = {"small": small.decide, "large": large.decide}
    return in_turns(works, rounds=rounds, times=times, clock=thread_time_ns, between=lambda: _checkpoint(small, large))


def _checkpoint(*worlds: World) -> None:
    for each in worlds:
        each.engine.store.checkpoint()
