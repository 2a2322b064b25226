"""Who fails to say who they are, and how often: in memory of a bounded size, whatever a client does.

A credential that is right always passes. An address may be shared by a whole office, and whoever could lock it out would need
no key for that; a secret of 202 random bits is not found by trying either way. What the limit is for: a client that goes on is
told to stop in words that its libraries understand, and somebody is alerted.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from ipaddress import IPv6Address, ip_address
from typing import Final

from msgspec import Struct

LIMIT: Final = 30
WINDOW_NS: Final = 60_000_000_000
MAX_SOURCES: Final = 10_000
_SLOTS: Final = 6
_NETWORK: Final = (2**64 - 1) << 64


class _Count(Struct):
    """newest: number of the newest slot · slots: failures in it and in those before, the newest last"""

    newest: int
    slots: list[int]
    told: int = -1


class Failures:
    """Counts failures by source in a sliding window of a minute. Safe in threads."""

    def __init__(self, *, limit: int = LIMIT, max_sources: int = MAX_SOURCES) -> None:
        self._limit, self._max_sources = limit, max_sources
        self._counts: OrderedDict[str, _Count] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._counts)

    def count(self, source_ip: str, now_ns: int) -> tuple[bool, bool]:
        """One more. Answers whether that is above the limit, and whether somebody should be told: once a window and source.

        What has no address is not counted: it would be one source with everybody else who has none.
        """
        source = _source(source_ip)
        if not source:
            return False, False
        slot = now_ns * _SLOTS // WINDOW_NS
        with self._lock:
            found = self._counts.get(source)
            if found is None:
                found = self._counts[source] = _Count(slot, [0] * (_SLOTS + 1))
                if len(self._counts) > self._max_sources:
                    self._counts.popitem(last=False)
            self._counts.move_to_end(source)
            passed = max(0, min(slot - found.newest, _SLOTS + 1))
            found.slots[:] = found.slots[passed:] + [0] * passed  # the oldest slot counts in full: never more than the limit
            found.newest = max(slot, found.newest)
            found.slots[-1] += 1
            above = sum(found.slots) > self._limit
            tell = above and (found.told < 0 or slot - found.told > _SLOTS)
            if tell:
                found.told = slot
            return above, tell


def _source(source_ip: str) -> str:
    """The address; of IPv6 the network, because a client has 2^64 addresses in it, unless it only spells one of IPv4."""
    try:
        address = ip_address(source_ip)
    except ValueError:
        return ""
    if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
        address = address.ipv4_mapped
    return str(IPv6Address(int(address) & _NETWORK)) if isinstance(address, IPv6Address) else str(address)
