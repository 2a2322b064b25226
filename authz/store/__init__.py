"""Where balances, reservations and issued keys live. One package, and the one place of I/O in a decision."""

from __future__ import annotations

from authz.store.sqlite import SqliteStore, open_store

__all__ = ["SqliteStore", "open_store"]
