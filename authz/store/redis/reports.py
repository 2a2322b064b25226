"""Reports, the books as a whole, and the pruning of what nobody needs any more."""

from __future__ import annotations

import struct
from collections import defaultdict

from authz.model import Meter
from authz.quota.ledger import DELIVER_WITHIN_NS, UsageRow
from authz.quota.windows import NS
from authz.store.housekeeping import Balances
from authz.store.redis import rows
from authz.store.redis.connection import Server


def usage(server: Server, first_day: str, last_day: str) -> tuple[UsageRow, ...]:
    names, settled, pending = server.run("usage", first_day, last_day)
    found: dict[tuple[str, ...], list[int]] = {}
    for name, packed in zip(names, settled, strict=True):
        found[tuple(rows.decode_strings(name))] = [*struct.unpack("<6q", packed), 0, 0]
    for packed in pending:
        terms = rows.decode_body(packed).terms
        if first_day <= terms.day <= last_day:
            key = (terms.day, terms.organisation, terms.team, terms.user, terms.key, terms.model)
            figures = found.setdefault(key, [0] * 8)
            figures[6] += 1
            figures[7] += terms.at_most.get(Meter.SPEND, 0)
    return tuple(_row(name, figures) for name, figures in sorted(found.items()))


def _row(name: tuple[str, ...], figures: list[int]) -> UsageRow:
    day, organisation, team, user, key, model = name
    return UsageRow(day, organisation, team, user, key, model, *figures)


def balances(server: Server) -> Balances:
    counters, _, _ = server.run("books")
    found: Balances = {}
    for name, value in _pairs(counters):
        cells = {bucket: cell for bucket, cell in rows.counter_tally(value).buckets.items() if cell != (0, 0)}
        if cells:
            found[name.decode()] = cells
    return found


def replay(server: Server) -> Balances:
    counters, opening, journal = server.run("books")
    sums: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for counter, packed in _pairs(opening):
        numbers = rows.decode_integers(packed)
        for at in range(0, len(numbers), 3):
            sums[(int(counter), numbers[at])] = numbers[at + 1 : at + 3]
    for packed in journal:
        entry = rows.decode_mixed(packed)
        for at in range(3, len(entry), 4):
            counter_id, bucket, posted, pending = (int(number) for number in entry[at : at + 4])
            cell = sums[(counter_id, bucket)]
            cell[0] += posted
            cell[1] += pending
    kept = {rows.counter_id(value): (name.decode(), rows.counter_tally(value).buckets) for name, value in _pairs(counters)}
    found: Balances = {}
    for (counter_id, bucket), (posted, pending) in sums.items():
        name, buckets = kept.get(counter_id, ("", {}))
        if bucket in buckets and (posted, pending) != (0, 0):
            found.setdefault(name, {})[bucket] = (posted, pending)
    return found


def prune(server: Server, keep_ns: int, at_most: int, counters_from: str, moment: str) -> tuple[int, str]:
    """Answers how many rows were forgotten, and where the walk over the counters goes on."""
    keep_s, keep_rest_ns = divmod(keep_ns, NS)
    gone, next_from = server.run("prune", moment, keep_s, keep_rest_ns, at_most, counters_from, DELIVER_WITHIN_NS // NS)
    return gone, next_from.decode()


def _pairs(flat: list[bytes]) -> list[tuple[bytes, bytes]]:
    return list(zip(flat[::2], flat[1::2], strict=True))
