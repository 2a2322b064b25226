"""Whose the files and batches at the upstream are, in Redis."""

from __future__ import annotations

from authz.quota.belongings import Belonging
from authz.quota.windows import NS
from authz.store.belongings import decode, encode
from authz.store.redis import rows
from authz.store.redis.connection import Server


class BelongingRows:
    """`Belongings`."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def keep(self, belonging: Belonging) -> None:
        due = 1 if belonging.reservation else 0
        self._server.run("keep", belonging.id, encode(belonging), rows.moment(belonging.made_ns), due)

    def find(self, identity: str) -> Belonging | None:
        found = self._server.run("belonging", identity)
        return decode(found) if found is not None else None

    def due(self, for_ns: int, at_most: int, moment: str) -> tuple[Belonging, ...]:
        return tuple(decode(row) for row in self._server.run("due_batches", moment, max(1, for_ns // NS), at_most))

    def ended(self, identity: str) -> None:
        self._server.run("batch_ended", identity)
