"""Where to ask, so that "always", "sometimes" and "never" can be said of a policy without proving anything of it.

What policies answer can change only where one of their comparisons changes. So every fact that the policies in reach look at
takes the values at, just below and just above each constant that it is compared with. Values between which no comparison
changes are of one class and answer alike; the probes are all combinations of one of each class. Where even those are too many
it is single values and pairs of them, and the result says that it is a sample.

A probe is a `Context` that a request can have: facts of time come from one instant, tokens stay below the model's ceilings.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from functools import cached_property, partial
from ipaddress import ip_address, ip_network
from itertools import combinations, islice, pairwise, product
from math import prod
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo

from msgspec import Struct

from authz.inference.endpoints import TABLE
from authz.policy import AdminContext, Context, Kind, Percents
from authz.policy.actions import ACTIONS
from authz.policy.context import ALL
from authz.policy.literals import PERCENTS, SCOPES, TIMES, Linear, Reading, sums

MAX_PROBES: Final = 512
_MAX_SOLVED: Final = 64
"""How many combinations of the other facts of one sum are tried when it is solved for one fact."""

_MAX_EDGES: Final = 4
"""Edges that are told of one axis."""

_DAY_S: Final = 86_400

_MONDAY: Final = date(2026, 1, 5)
_BASE: Final[dict[str, int]] = {
    "input_tokens": 1,
    "max_output_tokens": 1,
    **dict.fromkeys(PERCENTS, 0),
    "time.epoch_s": 0,
    "time.date": 20260105,
    "time.hour": 12,
    "time.minute": 0,
    "time.weekday": 1,
}
_RANGE: Final[dict[str, tuple[int, int]]] = {
    **dict.fromkeys(PERCENTS, (0, 2**31)),
    "time.epoch_s": (1, 2**37),
    "time.date": (0, 99_991_231),
    "time.hour": (0, 23),
    "time.minute": (0, 59),
    "time.weekday": (1, 7),
}
_TIERS: Final = ("auto", "flex", "on_demand", "performance")
_ELSEWHERE: Final = "203.0.113.7"
_KINDS_OF_ADDRESS: Final = ("127.0.0.1", "224.0.0.1", "::1", "ff02::1")

Value = int | str | bool
Index = tuple[int, ...]
"""A probe by its class on each axis."""


class Axis(Struct, frozen=True):
    """One thing that varies: a fact, or `time` with instants in seconds.

    values   ascending where they have an order
    classes  of each value its class, numbered from 0 as they come: within one, no comparison changes
    """

    name: str
    values: tuple[Value, ...]
    classes: tuple[int, ...]


class Edge(NamedTuple):
    """Two neighbouring values on an axis, all else being equal."""

    fact: str
    holds: Value
    not_: Value


class Ceilings(Struct, frozen=True):
    """What a request for a model can ask at most, in tokens."""

    input_tokens: int
    max_output_tokens: int


class Probes:
    """The contexts to ask at, the first being the plainest. Equal only to itself, and so a key of what was found with it.

    sampled  these are not all the combinations, or not all constants could be read
    """

    def __init__(self, kind: Kind, axes: Sequence[Axis], *, complete: bool) -> None:
        self.kind, self.axes = kind, tuple(axes)
        cut = prod(max(axis.classes) + 1 for axis in axes) > MAX_PROBES
        self.sampled = cut or not complete
        self.indices: tuple[Index, ...] = tuple(islice(_sample(axes), MAX_PROBES) if cut else _all(axes))

    @cached_property
    def contexts(self) -> tuple[Context | AdminContext, ...]:
        return tuple(self.context(self.values(index)) for index in self.indices)

    def context(self, values: Mapping[str, Value]) -> Context | AdminContext:
        """With these values by axis, and plain ones of everything else."""
        return _context(self.kind, values)

    def edges(self, holds: Sequence[bool]) -> tuple[Edge, ...]:
        """Where an answer turns, all else being equal: by axis, neighbours of which one has it and the other has not.

        holds  the answer at each probe, in order
        """
        found: list[Edge] = []
        for at in range(len(self.axes)):
            found += islice(_telling(list(self._edges(at, holds))), _MAX_EDGES)
        return tuple(found)

    def _edges(self, at: int, holds: Sequence[bool]) -> Iterator[Edge]:
        axis, alike = self.axes[at], defaultdict[Index, dict[int, bool]](dict)
        for index, held in zip(self.indices, holds, strict=True):
            alike[index[:at] + index[at + 1 :]][index[at]] = held
        turning = next((found for found in alike.values() if len(set(found.values())) == 2), {})
        known = [(value, turning[number]) for value, number in zip(axis.values, axis.classes, strict=True) if number in turning]
        for (before, held_before), (after, held_after) in pairwise(known):
            if held_before is not held_after:
                yield Edge(axis.name, before, after) if held_before else Edge(axis.name, after, before)

    def values(self, index: Index) -> dict[str, Value]:
        return {axis.name: axis.values[axis.classes.index(at)] for axis, at in zip(self.axes, index, strict=True)}


def make(
    readings: Iterable[Reading],
    action: str,
    zones: Sequence[ZoneInfo],
    *,
    ceilings: Ceilings | None = None,
    attributes: Sequence[Mapping[str, int]] = ({},),
) -> Probes:
    """For everything that these conditions look at; `zones` are those in which they read the time.

    ceilings    the model's, where the resource is one
    attributes  the resource's integers, for conditions that compare with them; as each bundle has them
    """
    readings, kind = list(readings), ACTIONS[action].kind
    read = [sums(reading, given) for reading in readings for given in attributes]
    facts = {fact for reading in readings for fact in reading.facts if fact.partition(".")[0] in ALL[kind]}
    networks = {network for reading in readings for network in reading.networks}
    limits = _RANGE | {
        "input_tokens": (0, ceilings.input_tokens if ceilings else 2**53),
        "max_output_tokens": (0, ceilings.max_output_tokens if ceilings else 2**53),
    }
    linears = [linear for found, _ in read for linear in found]
    values = _solved(facts, linears, limits)
    complete = all(complete for _, complete in read)
    axes = [
        _axis(fact, values, action, networks, _own(linears, {fact}) if complete else None)
        for fact in sorted(facts - set(TIMES))
    ]
    if not facts.isdisjoint(TIMES):
        instants = _instants(facts, values, zones)
        axes.append(_classed("time", instants, _clock(_own(linears, set(TIMES)) if complete else None, zones)))
    return Probes(kind, axes, complete=complete)


def _own(linears: Sequence[Linear], facts: set[str]) -> list[Linear] | None:
    """The sums that hang on nothing but these facts; None where one hangs on others too: then no two values are known alike."""
    found = []
    for linear in linears:
        named = {name for name, factor in linear.items() if name and factor}
        if not named.isdisjoint(facts):
            if not named <= facts:
                return None
            found.append(linear)
    return found


def _signs(linears: Sequence[Linear], facts: Mapping[str, int]) -> tuple[int, ...]:
    sums_ = [sum(factor * (facts[name] if name else 1) for name, factor in linear.items() if factor) for linear in linears]
    return tuple((total > 0) - (total < 0) for total in sums_)


def _classed(name: str, values: Sequence[Value], signature: Callable[[Value], object]) -> Axis:
    numbers: dict[object, int] = {}
    return Axis(name, tuple(values), tuple(numbers.setdefault(signature(value), len(numbers)) for value in values))


def _solved(facts: set[str], sums_: Sequence[Linear], limits: Mapping[str, tuple[int, int]]) -> dict[str, list[int]]:
    """Of each integer fact the values at which a sum is 0, and their neighbours.

    Twice, since one fact's may hang on another's: of `hour * 60 + minute >= 510` the minutes are known once 8 is an hour.
    """
    values = {fact: {min(_BASE[fact], limits[fact][1])} for fact in facts if fact in _BASE}
    for _ in range(2):
        for linear in sums_:
            named = [name for name, factor in linear.items() if name in values and factor]
            for fact in named:
                others = [name for name in named if name != fact]
                low, high = limits[fact]
                for given in islice(product(*(sorted(values[name]) for name in others)), _MAX_SOLVED):
                    rest = linear.get("", 0) + sum(linear[name] * value for name, value in zip(others, given, strict=True))
                    root = -rest // linear[fact]
                    values[fact] |= {value for value in (root - 1, root, root + 1) if low <= value <= high}
    return {fact: sorted(found) for fact, found in values.items()}


def _axis(
    fact: str, values: Mapping[str, list[int]], action: str, networks: set[str], linears: Sequence[Linear] | None
) -> Axis:
    match fact:
        case "stream" | "tools":
            return _classed(fact, (False, True), lambda value: value)
        case "service_tier":
            return _classed(fact, _TIERS, lambda value: value)
        case "endpoint":
            names = sorted(row.name for row in TABLE.values() if row.action == action)
            return _classed(fact, names or ("",), lambda value: value)
        case "source_ip":
            return _classed(fact, _addresses(networks), partial(_network_class, networks))
        case _ if linears is None:
            return _classed(fact, values[fact], lambda value: value)
        case _:
            return _classed(fact, values[fact], lambda value: _signs(linears, {fact: int(value)}))


def _network_class(networks: set[str], value: Value) -> object:
    if not value:
        return None
    address = ip_address(str(value))
    within = tuple(address in ip_network(text, strict=False) for text in sorted(networks))
    return within, address.version, address.is_loopback, address.is_multicast


def _clock(linears: Sequence[Linear] | None, zones: Sequence[ZoneInfo]) -> Callable[[Value], object]:
    def signature(value: Value) -> object:
        return value if linears is None else tuple(_signs(linears, _times(int(value), zone)) for zone in zones)

    return signature


def _times(epoch_s: int, zone: ZoneInfo) -> dict[str, int]:
    at = datetime.fromtimestamp(epoch_s, zone)
    number = at.year * 10_000 + at.month * 100 + at.day
    return dict(zip(TIMES, (epoch_s, number, at.hour, at.minute, at.isoweekday()), strict=True))


def _addresses(networks: set[str]) -> list[str]:
    """None, one that no policy names, one of each kind, and the ends of each range from inside and outside."""
    found = ["", _ELSEWHERE, *(() if networks else _KINDS_OF_ADDRESS)]
    for text in sorted(networks):
        network = ip_network(text, strict=False)
        first, last = network.network_address, network.broadcast_address
        ends = [int(first) - 1, int(first), int(last), int(last) + 1]
        found += [str(type(first)(end)) for end in ends if 0 <= end < 2**first.max_prefixlen]
    return list(dict.fromkeys(found))


def _instants(facts: set[str], values: Mapping[str, list[int]], zones: Sequence[ZoneInfo]) -> tuple[int, ...]:
    """Seconds since 1970, ascending: the days of interest at the times of interest, and instants that are named."""
    epochs = [value for value in values.get("time.epoch_s", []) if value]
    times = [
        time(hour, minute)
        for hour in values.get("time.hour", [_BASE["time.hour"]])
        for minute in values.get("time.minute", [_BASE["time.minute"]])
    ]
    found = set(epochs)
    for zone in zones:
        days = {_MONDAY, *(datetime.fromtimestamp(epoch, zone).date() for epoch in epochs)}
        for number in values.get("time.date", []):
            day = _day_of(number)
            days |= {day, day + timedelta(days=1)}
        if "time.weekday" in facts:
            days |= {near for day in days for weekday in values["time.weekday"] for near in _nearest(day, weekday)}
        found |= {int(datetime.combine(day, at, zone).timestamp()) for day in days for at in times}
    return tuple(sorted(found))


def _day_of(number: int) -> date:
    """20261231 as the day; of a number that is none, the last day below it."""
    year, month, day = number // 10_000, number // 100 % 100, number % 100
    if year < 1971:
        return date(1971, 1, 1)
    if month > 12:
        return date(year, 12, 31)
    if month < 1:
        return date(year - 1, 12, 31)
    first = date(year, month, 1)
    following = date(year + month // 12, month % 12 + 1, 1)
    return first + timedelta(days=min(day, (following - first).days) - 1)


def _nearest(day: date, weekday: int) -> tuple[date, date]:
    """The last such day up to `day` and the first from it on."""
    return day - timedelta(days=(day.isoweekday() - weekday) % 7), day + timedelta(days=(weekday - day.isoweekday()) % 7)


def _all(axes: Sequence[Axis]) -> Iterator[Index]:
    return product(*(range(max(axis.classes) + 1) for axis in axes))


def _sample(axes: Sequence[Axis]) -> Iterator[Index]:
    """All at the first class; then one axis at a time; then two."""
    base = (0,) * len(axes)
    yield base
    for count in (1, 2):
        for chosen in combinations(range(len(axes)), count):
            for places in product(*(range(1, max(axes[at].classes) + 1) for at in chosen)):
                moved = list(base)
                for at, place in zip(chosen, places, strict=True):
                    moved[at] = place
                yield tuple(moved)


def _telling(edges: Sequence[Edge]) -> Iterable[Edge]:
    """Of edges of time those within a day, where there are any, and what turns every day at the same times only once."""
    daily: dict[tuple[int, int], Edge] = {}
    for edge in edges:
        if edge.fact == "time" and int(edge.holds) // _DAY_S == int(edge.not_) // _DAY_S:
            daily.setdefault((int(edge.holds) % _DAY_S, int(edge.not_) % _DAY_S), edge)
    return daily.values() or edges


def _context(kind: Kind, values: Mapping[str, Value]) -> Context | AdminContext:
    plain = datetime.combine(_MONDAY, time(_BASE["time.hour"]), ZoneInfo("UTC"))
    now_ns = int(values.get("time", int(plain.timestamp()))) * 10**9
    source_ip = str(ip_address(str(values["source_ip"]))) if values.get("source_ip") else ""
    if kind is Kind.ADMIN:
        return AdminContext(source_ip, now_ns)
    return Context(
        input_tokens=int(values.get("input_tokens", _BASE["input_tokens"])),
        max_output_tokens=int(values.get("max_output_tokens", _BASE["max_output_tokens"])),
        stream=bool(values.get("stream", False)),
        endpoint=str(values.get("endpoint", "")),
        service_tier=str(values.get("service_tier", "on_demand")),
        tools=bool(values.get("tools", False)),
        source_ip=source_ip,
        now_ns=now_ns,
        spend=_percents("spend", values),
        window=_percents("window", values),
    )


def _percents(kind: str, values: Mapping[str, Value]) -> Percents:
    return Percents(**{scope: int(values.get(f"{kind}.{scope}.percent", 0)) for scope in SCOPES})
