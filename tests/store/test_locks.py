"""SQLite's locks are POSIX locks: nothing of ours may drop them while a connection is open."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from authz.identity.keys import IssuedKey
from authz.store import open_store
from tests.issued import put

OTHER = "import sys; from authz.store import open_store; s = open_store(sys.argv[1]); s.keys_since(0); s.close()"


def test_another_process_that_leaves_does_not_take_the_log_away(tmp_path: Path) -> None:
    path = tmp_path / "authz.db"
    uri = f"sqlite:///{path}"
    store = open_store(uri)
    again = open_store(uri)  # a second connection of the same process, while the first one is in use
    try:
        put(store, IssuedKey("a" * 64, "alpha", 1))
        subprocess.run([sys.executable, "-c", OTHER, uri], check=True)
        assert path.with_name("authz.db-wal").exists()
        put(store, IssuedKey("b" * 64, "beta", 2))
        third = open_store(uri)
        try:
            assert [row.key for row in third.keys_since(0)] == ["alpha", "beta"]
        finally:
            third.close()
    finally:
        again.close()
        store.close()
