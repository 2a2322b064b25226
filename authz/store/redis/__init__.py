"""The shared store on Redis or Valkey: for replicas on several machines.

Nearly all of it happens in scripts (`scripts/*.lua`), because a script runs alone: what it has read stays true until it has
written. All keys carry one hash tag, a digest of the organisation, so that a script may use them together in a cluster too; the
names of counters, reservations and keys are fields inside these, never parts of a key's name.

Promise 4 holds as far as Redis keeps its own: with `appendonly yes` and `appendfsync always` nothing acknowledged is lost. With
`everysec` the end of the process, or of the machine, may lose up to two seconds, for Redis answers before its log is written. A
fail-over may lose what had not reached the replica, or what the old primary took while it did not know (`min-replicas-to-write`
bounds that). A server that comes back without any data admits nobody until a store is opened anew.

All that a user of ours may: `~authz:* +@hash +@sortedset +@list +@set +eval +evalsha +time +select` (and `+cluster|slots`).
"""

from __future__ import annotations

from authz.store.redis.store import RedisStore
from authz.store.redis.uri import SCHEMES, Options, parse_uri

__all__ = ["SCHEMES", "Options", "RedisStore", "parse_uri"]
