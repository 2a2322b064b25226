"""The library's face: the same engine, without a proxy in between.

with Authorizer.open("authz.yaml") as authorizer:
    decision = authorizer.decide(chat_request(api_key, body))
    match decision:
        case Allow(): ...                       # send it upstream with `decision.upstream_key`
        case Deny(): ...                        # answer with `decision.status` and its body
    authorizer.settle(decision.reservation_id, Usage(input_tokens=12, output_tokens=40))
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from authz.compose import Engine, open_engine
from authz.model import Decision, Outcome, Receipt, Request, Usage
from authz.settings import Settings, read_settings


class Authorizer:
    """Decides and settles in this process. Safe in threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    @classmethod
    def open(cls, settings: Settings | str | Path) -> Self:
        """From settings, or from the file that holds them. Raises `ConfigError`, `StoreUnavailable`."""
        if not isinstance(settings, Settings):
            settings = read_settings(Path(settings))
        return cls(open_engine(settings).start())

    def decide(self, request: Request) -> Decision:
        """Allow or Deny; an allow holds a reservation until `settle`, `void` or its deadline. Never raises for the request."""
        return self._engine.pdp.decide(request)

    def settle(self, reservation_id: str, usage: Usage | None) -> None:
        """What the upstream says was used, or None where it said nothing: the estimate is then posted. Idempotent."""
        self._engine.settle(Receipt(reservation_id, "", Outcome.ANSWERED, 200, usage))

    def void(self, reservation_id: str) -> None:
        """The request never reached the upstream, or was refused there: everything is given back. Idempotent."""
        self._engine.settle(Receipt(reservation_id, "", Outcome.NOT_SENT, 0, None))

    def close(self) -> None:
        self._engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def chat_request(api_key: str, body: Mapping[str, Any] | bytes, *, request_id: str = "", source_ip: str = "") -> Request:
    """A `POST /chat/completions` as the enforcement point would hand it over; a mapping is encoded as JSON."""
    return Request(
        method="POST",
        path="/openai/v1/chat/completions",
        headers=(("authorization", f"Bearer {api_key}"), ("content-type", "application/json")),
        body=body if isinstance(body, bytes) else msgspec.json.encode(body),
        request_id=request_id,
        source_ip=source_ip,
    )
