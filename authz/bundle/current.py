"""The bundle in force."""

from __future__ import annotations

import threading
from pathlib import Path

from authz.bundle.bundle import Bundle, load_bundle


class BundleSource:
    """Holds one good bundle of a folder, and swaps it for another good one.

    `current` is one reference: whoever reads it once for a decision sees one bundle, whole. Starting raises `ConfigError`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._loading = threading.Lock()
        self.current: Bundle = load_bundle(folder)

    def reload(self) -> bool:
        """Loads the folder again; True where a new bundle is in force. Raises `ConfigError`: then the last good one stays."""
        with self._loading:
            bundle = load_bundle(self._folder)
            if bundle.digest == self.current.digest:
                return False
            self.current = bundle
            return True
