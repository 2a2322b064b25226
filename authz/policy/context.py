"""What a policy sees of a request beside who and what: `context`, made from typed values and nothing else.

Every field has one type and one place. A client's text only ever becomes the content of a JSON string, so a value that looks
like `{"__entity": …}` stays a string; the one extension value, the source address, is written from an address that was parsed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache
from ipaddress import IPv6Address, ip_address
from typing import Final, NamedTuple, assert_never
from zoneinfo import ZoneInfo

import msgspec
from msgspec import Struct

from authz.policy.actions import Kind

_NANOS: Final = 1_000_000_000
_MINUTE_S: Final = 60
_MAX_LONG: Final = 2**63 - 1
_ADDRESSES: Final = 4096


class Percents(Struct, frozen=True):
    """How full something is at each scope on the path, in whole per cent, rounded down; 0 where nothing is limited.

    May be above 100: what was settled above its estimate stays counted.
    """

    org: int = 0
    team: int = 0
    user: int = 0
    key: int = 0


class Context(Struct, frozen=True):
    """The facts of an inference request.

    input_tokens       a bound on the input, in tokens
    max_output_tokens  a bound on the output, in tokens
    source_ip          as the enforcement point reports it; what is no address is left out
    spend, window      the fullest budget and the fullest rate window; they may be a second old
    """

    input_tokens: int
    max_output_tokens: int
    stream: bool
    endpoint: str
    service_tier: str
    tools: bool
    source_ip: str
    now_ns: int
    spend: Percents = Percents()
    window: Percents = Percents()


class AdminContext(Struct, frozen=True):
    """The facts of what is done in the console or on the command line."""

    source_ip: str
    now_ns: int


class _Minute(NamedTuple):
    date: int
    hour: int
    minute: int
    weekday: int


Facts = frozenset[str]
"""Names of context fields: those that some policy in reach looks at. Of the time also single parts, as `time.hour`."""

ALL: Final[dict[Kind, Facts]] = {
    Kind.INFERENCE: frozenset(
        {
            "input_tokens",
            "max_output_tokens",
            "stream",
            "endpoint",
            "service_tier",
            "tools",
            "source_ip",
            "spend",
            "window",
            "time",
        }
    ),
    Kind.ADMIN: frozenset({"source_ip", "time"}),
}

QUOTA_FACTS: Final = frozenset({"spend", "window"})

_TIME_PARTS: Final = ("epoch_s", "date", "hour", "minute", "weekday")
TIMES: Final = frozenset(f"time.{part}" for part in _TIME_PARTS)
_AS_IT_STANDS: Final = ("input_tokens", "max_output_tokens", "stream", "endpoint", "service_tier", "tools")
_ENCODE: Final[Callable[[object], bytes]] = msgspec.json.Encoder().encode


class ContextWriter:
    """Contexts as the JSON text that Cedar takes, with the time of day in the organisation's zone. Safe in threads."""

    def __init__(self, zone: ZoneInfo) -> None:
        self._minute: Callable[[int], _Minute] = lru_cache(maxsize=8)(_minute_in(zone))

    def write(self, context: Context | AdminContext, facts: Facts) -> str:
        """The fields named by `facts`: Cedar takes some 3 µs for each that it is given, looked at or not.

        Raises `ValueError` for an amount that Cedar's Long does not hold.
        """
        if not facts:
            return "{}"
        found: dict[str, object] = {}
        if isinstance(context, Context):
            for name in _AS_IT_STANDS:
                if name in facts:
                    found[name] = getattr(context, name)
            for amount in (context.input_tokens, context.max_output_tokens):
                if not 0 <= amount <= _MAX_LONG:
                    raise ValueError(f"{amount} tokens, expected 0 to {_MAX_LONG}")
            if "spend" in facts:
                found["spend"] = _scopes(context.spend)
            if "window" in facts:
                found["window"] = _scopes(context.window)
        if parts := _TIME_PARTS if "time" in facts else [part for part in _TIME_PARTS if f"time.{part}" in facts]:
            time = self._time(context.now_ns // _NANOS)
            found["time"] = {part: time[part] for part in parts}
        if "source_ip" in facts and (address := _address(context.source_ip)) is not None:
            found["source_ip"] = {"__extn": {"fn": "ip", "arg": address}}
        return _ENCODE(found).decode()

    def _time(self, epoch_s: int) -> dict[str, int]:
        at = self._minute(epoch_s // _MINUTE_S)
        return {"epoch_s": epoch_s, "date": at.date, "hour": at.hour, "minute": at.minute, "weekday": at.weekday}


def samples(kind: Kind) -> tuple[Context | AdminContext, ...]:
    """The two shapes that a context of this kind can have, for checking a schema: with and without an address."""
    match kind:
        case Kind.ADMIN:
            return AdminContext("192.0.2.1", 0), AdminContext("", 0)
        case Kind.INFERENCE:
            full = Context(1, 1, True, "chat.completions", "on_demand", False, "2001:db8::1", 0)
            return full, msgspec.structs.replace(full, source_ip="")
        case _:
            assert_never(kind)


def _minute_in(zone: ZoneInfo) -> Callable[[int], _Minute]:
    def minute(epoch_minutes: int) -> _Minute:
        at = datetime.fromtimestamp(epoch_minutes * _MINUTE_S, zone)
        return _Minute(at.year * 10_000 + at.month * 100 + at.day, at.hour, at.minute, at.isoweekday())

    return minute


def _scopes(percents: Percents) -> dict[str, dict[str, int]]:
    return {
        "org": {"percent": percents.org},
        "team": {"percent": percents.team},
        "user": {"percent": percents.user},
        "key": {"percent": percents.key},
    }


@lru_cache(maxsize=_ADDRESSES)
def _address(text: str) -> str | None:
    """The address as Cedar reads it, or None.

    An IPv4 address in an IPv6 wrapping is that IPv4 address: a policy about a network must not miss it.
    """
    try:
        address = ip_address(text)
    except ValueError:
        return None
    if isinstance(address, IPv6Address):
        if address.scope_id is not None:
            return None
        address = address.ipv4_mapped or address
    return address.compressed
