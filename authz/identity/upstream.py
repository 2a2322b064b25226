"""Upstream keys: which of Groq's keys a team's requests go with, read again whenever its file changes.

A team's own keys come first, in the order of the settings, then those that all teams share. A key that Groq has refused is
passed over for a while, as long as there is another; a new one in its file is taken at once. Requests under way keep the key
that they left with, so that an old one drains by itself. A key is named by what the settings call it and how often it has been
read, and shows in no other way.
"""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from msgspec import Struct

from authz.errors import ConfigError
from authz.model import Secret

REFUSED_FOR_NS: Final = 60_000_000_000
_MAX_BYTES: Final = 4096
_log = logging.getLogger(__name__)


class UpstreamSource(Struct, frozen=True):
    """Where a key is. Exactly one of `key_env` and `key_file` is given; `teams` is empty for all who have none of their own."""

    name: str
    key_env: str = ""
    key_file: str = ""
    teams: tuple[str, ...] = ()


class UpstreamKey(Struct, frozen=True):
    """id: `name/3`, the third key that was read under this name"""

    id: str
    secret: Secret

    @property
    def name(self) -> str:
        return named(self.id)


def named(key_id: str) -> str:
    """What the settings call the key of this id."""
    return key_id.rpartition("/")[0]


_Stamp = tuple[int, int, int]


class _Slot:
    """One source and what was last read of it. `stamp` tells one state of a file from another."""

    def __init__(self, source: UpstreamSource) -> None:
        self.source: Final = source
        self.key: UpstreamKey | None = None
        self.reads = 0
        self.stamp: _Stamp | None = None
        self.refused_until_ns = 0
        self.unreadable = False

    def put(self, text: str) -> None:
        if self.key is None or self.key.secret.reveal() != text:
            self.reads += 1
            self.key = UpstreamKey(f"{self.source.name}/{self.reads}", Secret(text))
            self.refused_until_ns = 0


class Upstreams:
    """Gives keys out. Safe in threads. Raises `ConfigError` on opening for a key that cannot be read or is none.

    refused  is told the name of a key that Groq has refused: for the metric
    """

    def __init__(
        self,
        sources: tuple[UpstreamSource, ...],
        environ: Mapping[str, str],
        *,
        refused: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._slots = tuple(_Slot(source) for source in sources)
        self._tell = refused
        self._lock = threading.Lock()
        for slot in self._slots:
            if slot.source.key_file:
                slot.stamp = _stamp(slot.source.key_file)
                slot.put(_read(slot.source.key_file))
            elif value := environ.get(slot.source.key_env, "").strip():
                slot.put(_checked(value, slot.source.key_env))
            else:
                _log.error("an upstream key is not set", extra={"upstream": slot.source.name})
        shared = tuple(slot for slot in self._slots if not slot.source.teams)
        own = {
            team: tuple(slot for slot in self._slots if team in slot.source.teams) for each in sources for team in each.teams
        }
        self._shared, self._by_team = shared, {team: slots + shared for team, slots in own.items()}
        if not any(slot.key for slot in self._slots):
            _log.error("there is no upstream key: every request is denied")

    def find(self, team: str, now_ns: int) -> UpstreamKey | None:
        """The key for a team's next request; None where it has none.

        Where all are refused it is the one whose time is up first: one answer of Groq's is no reason to stop everybody, and
        what Groq says of the next request is how its recovery is noticed.
        """
        slots = self._by_team.get(team, self._shared)
        first = slots[0] if slots else None
        if first is not None and first.key is not None and first.refused_until_ns <= now_ns:
            return first.key
        order = sorted(
            (max(slot.refused_until_ns - now_ns, 0), index) for index, slot in enumerate(slots) if slot.key is not None
        )
        return slots[order[0][1]].key if order else None

    def refuse(self, key_id: str, now_ns: int) -> None:
        """Groq has refused the key of this id. Of one that a newer has replaced already nothing follows."""
        with self._lock:
            slot = next((slot for slot in self._slots if slot.key is not None and slot.key.id == key_id), None)
            if slot is None or slot.refused_until_ns > now_ns:
                return
            slot.refused_until_ns = now_ns + REFUSED_FOR_NS
        _log.error("Groq refuses an upstream key", extra={"alert": "upstream_key_refused", "upstream": slot.source.name})
        self._tell(slot.source.name)

    def refresh(self) -> None:
        """Reads the files that have changed. One that cannot be read leaves the key that was known, and is told of once."""
        for slot in self._slots:
            if not slot.source.key_file:
                continue
            try:
                stamp = _stamp(slot.source.key_file)
                if stamp == slot.stamp:
                    continue
                text = _read(slot.source.key_file)
            except ConfigError as error:
                if not slot.unreadable:
                    extra = {"alert": "upstream_key_unreadable", "upstream": slot.source.name, "problem": error.problem}
                    _log.error("an upstream key cannot be read", extra=extra)
                slot.unreadable = True
                continue
            with self._lock:
                slot.stamp, slot.unreadable = stamp, False
                slot.put(text)
            _log.info("an upstream key was read again", extra={"upstream": slot.source.name})


def _stamp(path: str) -> _Stamp:
    try:
        found = os.stat(path)
    except OSError as error:
        raise _unreadable(path, error) from None
    return found.st_ino, found.st_size, found.st_mtime_ns


def _read(path: str) -> str:
    try:
        with Path(path).open("rb") as file:
            raw = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise _unreadable(path, error) from None
    if len(raw) > _MAX_BYTES:
        raise ConfigError(path, f"more than {_MAX_BYTES} bytes, expected an upstream key")
    return _checked(raw.decode("latin-1").strip(), path)


def _unreadable(path: str, error: OSError) -> ConfigError:
    return ConfigError(path, f"the upstream key cannot be read: {(error.strerror or '').lower()}")


def _checked(value: str, where: str) -> str:
    """What was found is never repeated: it may be most of a key."""
    if not value or not value.isascii() or not value.isprintable() or " " in value:
        raise ConfigError(where, "the upstream key is not one printable ASCII word")
    return value
