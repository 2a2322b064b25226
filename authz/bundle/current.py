"""The bundle in force, and how another takes its place."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from msgspec import Struct

from authz.bundle import files
from authz.bundle.bundle import Bundle
from authz.bundle.files import Fingerprint
from authz.clock import Clock
from authz.errors import ConfigError
from authz.policy import Effect, Mode

_log = logging.getLogger(__name__)


class Status(Struct, frozen=True):
    """refused  why what the folder holds now is not in force; empty where it is"""

    digest: str
    since_ns: int
    refused: str = ""
    refused_ns: int = 0


class BundleSource:
    """Holds one good bundle of a folder, and swaps it for another good one.

    `current` is one reference: whoever reads it once for a decision sees one bundle, whole. Making one raises `ConfigError`:
    nothing starts on a bad bundle. Afterwards a bad one leaves the last good one in force.

    load      reads, checks and tests the folder; raises `ConfigError`
    reloaded  is told `swapped` or `refused`
    """

    def __init__(
        self,
        folder: Path,
        load: Callable[[Path], Bundle],
        *,
        clock: Clock,
        reloaded: Callable[[str], None] = lambda outcome: None,
    ) -> None:
        self._folder, self._load, self._clock, self._reloaded = folder, load, clock, reloaded
        self._refreshing = threading.Lock()
        self._seen: Fingerprint | None = files.fingerprint(folder)
        self.current: Bundle = load(folder)
        self.status = Status(self.current.digest, clock())

    def refresh(self) -> bool:
        """Looks at the folder; True where another bundle came into force. Cheap where nothing changed, and never raises."""
        with self._refreshing:
            # Taken before the bytes are read: a change in between is seen as one next time.
            seen = files.fingerprint(self._folder)
            if seen == self._seen:
                return False
            self._seen = seen
            try:
                digest = files.read_parts(self._folder).digest
                if digest == self.current.digest:
                    self.status = Status(digest, self.status.since_ns)
                    return False
                bundle = self._load(self._folder)
                refuse_lost_forbids(self._folder, self.current, bundle)
            except ConfigError as error:
                self._refuse(str(error))
                return False
            before, self.current = self.current.digest, bundle
            self.status = Status(bundle.digest, self._clock())
            self._reloaded("swapped")
            _log.info("a new bundle is in force", extra={"bundle": bundle.digest, "before": before})
            return True

    def _refuse(self, problem: str) -> None:
        self.status = Status(self.status.digest, self.status.since_ns, problem, self._clock())
        self._reloaded("refused")
        _log.error(
            "the bundle is refused, the last good one stays in force",
            extra={"alert": "bundle_refused", "problem": problem, "bundle": self.status.digest},
        )


def forbids(bundle: Bundle) -> frozenset[str]:
    """Ids of the forbids that are enforced."""
    return frozenset(policy.id for policy in bundle.policies if policy.effect is Effect.FORBID and policy.mode is Mode.ENFORCE)


def refuse_lost_forbids(folder: Path, before: Bundle, after: Bundle) -> None:
    """A forbid that is missing is a file that is missing until somebody says otherwise: without it everything still loads.

    Raises `ConfigError`.
    """
    lost = sorted(forbids(before) - forbids(after) - after.retired)
    if lost:
        names = ", ".join(f"`{name}`" for name in lost)
        raise ConfigError(str(folder), f"the forbid {names} is missing: if it is meant to be, say why in `{files.RETIRED}`")
