"""A process that spends: `python -m tests.store.spender URI NAME COUNT`.

It says `ready`, waits for a line, reserves 0.10 USD of 5 USD `COUNT` times, and says how often it was admitted.
"""

from __future__ import annotations

import sys

from authz.errors import StoreUnavailable
from authz.model import Meter
from authz.quota.ledger import Held, Hold
from authz.store import Store, open_store
from tests.store.builders import NOW, charge, hold

USD = 1_000_000_000


def ten_cents(name: str) -> Hold:
    return hold(charge(Meter.REQUESTS, 1, 10_000), charge(Meter.SPEND, USD // 10, 5 * USD), id=name)


def admitted(store: Store, wanted: Hold, now_ns: int = NOW) -> bool:
    """The store may be busy for longer than it waits. The caller asks again, under the same id: nothing is charged twice."""
    while True:
        try:
            return isinstance(store.reserve(wanted, now_ns), Held)
        except StoreUnavailable as error:
            assert str(error).endswith(("locked", "thread", "timed out"))  # noqa: PT017  # any other failure ends the test


def main(uri: str, name: str, times: int) -> None:
    store = open_store(uri)
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    taken = sum(admitted(store, ten_cents(f"{name}-{number}"), NOW + number) for number in range(times))
    sys.stdout.write(f"{taken}\n")
    store.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
