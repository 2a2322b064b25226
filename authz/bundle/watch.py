"""Watches a bundle's folder: whatever wakes it up, it asks the source to look."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Final

from watchfiles import watch

from authz.bundle.current import BundleSource
from authz.bundle.files import TESTS

_QUIET_MS: Final = 200
_PATIENCE_MS: Final = 2000
"""Changes are taken together until nothing has moved for `_QUIET_MS`: editors and `git pull` write one file after another."""


class Watcher(threading.Thread):
    """A thread that runs until `stop`. The kernel's events wake it at once, and a look every `poll_s` seconds is for the file
    systems that have none: network mounts, some container layers, links to files elsewhere."""

    def __init__(self, source: BundleSource, folder: Path, *, poll_s: float) -> None:
        super().__init__(name="authz-bundle-watch", daemon=True)
        self._source, self._folder, self._poll_s = source, folder, poll_s
        self._stopping = threading.Event()

    def stop(self) -> None:
        self._stopping.set()
        if self.is_alive():
            self.join()

    def run(self) -> None:
        while not self._stopping.is_set():
            self._watch(roots(self._folder))

    def _watch(self, places: tuple[Path, ...]) -> None:
        """Until what is to be watched is somewhere else: a link was swapped, the folder was replaced."""
        if not places:
            self._stopping.wait(self._poll_s)
            self._source.refresh()
            return
        try:
            for _ in watch(
                *places,
                watch_filter=None,
                recursive=False,
                step=_QUIET_MS,
                debounce=_PATIENCE_MS,
                rust_timeout=round(self._poll_s * 1000),
                yield_on_timeout=True,
                stop_event=self._stopping,
                raise_interrupt=False,
            ):
                self._source.refresh()
                if roots(self._folder) != places:
                    return
        except FileNotFoundError:
            return  # it went away between the look and the watch: the next round sees what is there then


def roots(folder: Path) -> tuple[Path, ...]:
    """The real folders to watch: the bundle's own, its tests', and those of every link on the way, where a swap happens."""
    found: dict[Path, None] = {}
    for path in (folder.absolute(), *folder.absolute().parents):
        if path.is_symlink():
            found[path.parent.resolve()] = None
    for path in (folder, folder / TESTS):
        if path.is_dir():
            found[path.resolve()] = None
    return tuple(found)
