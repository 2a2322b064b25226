"""What is kept in Redis and what the scripts take and answer, as bytes on one side and values on the other."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Final

import msgspec

from authz.model import Meter
from authz.quota.ledger import Alert, Charge, Hold, Reservation, State, Terms
from authz.quota.windows import NS, Kind, Tally, Window
from authz.store import accounts
from authz.store.accounts import Account

STATES: Final = (State.PENDING, State.SETTLED, State.VOIDED, State.EXPIRED, State.CORRECTED)
"""By the numbers that the scripts have for them."""

_HEADER: Final = 27
"""A counter's value before its tally: id, and the moment at which its newest bucket ends."""

_LAST_NS: Final = 10**19 - 1


class Body(msgspec.Struct, frozen=True, array_like=True):
    """What was asked for; equal bytes mean the same request."""

    charges: tuple[Charge, ...]
    terms: Terms


class AlertRow(msgspec.Struct, frozen=True):
    """bucket, at_ns  of the period, and when it was reached"""

    quota: str
    scope: str
    counter: str
    meter: Meter
    window: Window
    threshold: int
    limit: int
    posted: int
    organisation: str
    bucket: int
    at_ns: str

    @property
    def alert(self) -> Alert:
        return Alert(
            quota=self.quota,
            scope=self.scope,
            meter=self.meter,
            window=self.window.name,
            threshold=self.threshold,
            limit=self.limit,
            posted=self.posted,
            organisation=self.organisation,
        )


encode: Final = msgspec.msgpack.Encoder().encode
decode_body: Final = msgspec.msgpack.Decoder(Body).decode
decode_alert: Final = msgspec.msgpack.Decoder(AlertRow).decode
decode_mixed: Final = msgspec.msgpack.Decoder(list[int | str]).decode
decode_integers: Final = msgspec.msgpack.Decoder(list[int]).decode
decode_strings: Final = msgspec.msgpack.Decoder(list[str]).decode


def encode_body(hold: Hold) -> bytes:
    return encode(Body(hold.charges, hold.terms))


def moment(now_ns: int) -> str:
    """A time as the scripts have it: digits, all of one length, in the order of time."""
    return f"{min(max(now_ns, 0), _LAST_NS):019d}"


def counters(windows: Mapping[str, Window], near_ns: int) -> list[list[object]]:
    """Counters, by name, as `window.lua` takes them. Calendar windows bring the periods around `near_ns`."""
    rows: list[list[object]] = []
    for name, window in windows.items():
        if window.kind is Kind.SLIDING:
            rows.append([name, 1, window.sub_bucket_us])
        elif window.kind is Kind.CALENDAR:
            rows.append([name, 2, *_periods(window, window.bucket(near_ns))])
        else:
            rows.append([name, 0])
    return rows


@lru_cache(maxsize=1024)
def _periods(window: Window, bucket: int) -> tuple[int, ...]:
    """The first seconds of the period before, of this one, of the next one and of the one after that."""
    ends_s = (window.ends_ns(bucket) or 0) // NS
    after_s = (window.ends_ns(ends_s) or 0) // NS
    return window.bucket((bucket - 1) * NS), bucket, ends_s, after_s


class Standing(msgspec.Struct):
    """A counter as it stood when the script came to it, and what was added by hand to the limits of its period."""

    tally: Tally
    raised: int


def standing(names: Iterable[str], values: list[bytes | None], raised: bytes) -> dict[str, Standing]:
    return {
        name: Standing(counter_tally(value) if value is not None else Tally(), int(by))
        for name, value, by in zip(names, values, raised.split(), strict=True)
    }


def opened(known: Mapping[str, Standing], found: Mapping[str, tuple[Charge, int]], now_ns: int) -> dict[str, Account]:
    """The counters of one hold as they stand now. Their tallies are those that are known."""
    result: dict[str, Account] = {}
    for name, (charge, amount) in found.items():
        stands, window = known[name], charge.window
        bucket, used = stands.tally.standing(window, now_ns)
        result[name] = Account(0, window, stands.tally, amount, bucket, used, stands.raised)
    return result


def counter_id(value: bytes) -> int:
    return int.from_bytes(value[:8], "little")


def counter_tally(value: bytes) -> Tally:
    return Tally(value[_HEADER:])


def held_lines(head: bytes, charges: tuple[Charge, ...]) -> list[tuple[str, int, int]]:
    """Of a reservation's head: counter, bucket, and what is reserved in it."""
    numbers = decode_mixed(head)[5:]
    names = accounts.amounts_by_counter(charges)
    return [(name, int(numbers[4 * at + 1]), int(numbers[4 * at + 2])) for at, name in enumerate(names)]


def reservation(found: list[bytes]) -> Reservation | None:
    """What `find.lua` answers."""
    if not found:
        return None
    identity, packed_head, packed_body = found
    state, _, created, deadline, *_ = decode_mixed(packed_head)
    body = decode_body(packed_body)
    return Reservation(identity.decode(), STATES[int(state)], int(created), int(deadline), body.charges, body.terms)
