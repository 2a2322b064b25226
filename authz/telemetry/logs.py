"""The process log: one JSON object a line on standard error, so that client text can never start a line of its own."""

from __future__ import annotations

import logging
import sys

from pythonjsonlogger.json import JsonFormatter

from authz.errors import redacted


class _Formatter(JsonFormatter):
    """No log of ours names a secret; what a library quotes of its input is not ours to know."""

    def format(self, record: logging.LogRecord) -> str:
        return redacted(super().format(record))


def configure(level: str = "INFO") -> None:
    """Sends everything that is logged to standard error as JSON lines."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _Formatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields={"asctime": "time", "levelname": "level"})
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
