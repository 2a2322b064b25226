"""Whose the files and batches at the upstream are.

All teams share one organisation there, and whoever knows an id may read or cancel what it names. So an id is of use here only
to the team that it was given to: it is kept when the upstream's answer names it, by the reservation of the request that asked.
"""

from __future__ import annotations

from typing import Protocol

from msgspec import Struct

from authz.model import Work


class Belonging(Struct, frozen=True):
    """A file or a batch at the upstream.

    organisation, team  whose it is: the first that is said counts
    model               the name that its requests have for it
    work                of a file of requests; None of any other
    reservation         of a batch, which its end will settle; "" of a file
    made_ns             when it was first heard of
    """

    id: str
    organisation: str
    team: str
    model: str
    work: Work | None
    reservation: str
    made_ns: int


class Belongings(Protocol):
    """The contract of a store. Every method raises `StoreUnavailable` where it cannot answer."""

    def keep(self, belonging: Belonging) -> None:
        """From now on known by its id. One that is known stays as it is. A batch is due at once."""
        ...

    def belonging(self, identity: str) -> Belonging | None: ...

    def due_batches(self, now_ns: int, next_ns: int, at_most: int) -> tuple[Belonging, ...]:
        """Up to `at_most` batches that somebody has to look after, the longest overdue first. They are the caller's until
        `next_ns`; then, unless `batch_ended` came, they are due again."""
        ...

    def batch_ended(self, identity: str) -> None:
        """It is due no more; idempotent."""
        ...
