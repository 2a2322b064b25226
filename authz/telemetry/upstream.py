"""What is counted of the upstream: its refusals and its limits."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from opentelemetry.metrics import CallbackOptions, MeterProvider, Observation

from authz.model import UpstreamRoom
from authz.telemetry.counts import Counts

_TOO_MANY: Final = 429
_SERVER: Final = 500


class UpstreamMetrics:
    """The instruments of one process. `rooms` gives what is known of the upstream's limits at the moment.

    Every label is a name of the settings or of the price book, or one of a few words of ours.
    """

    def __init__(self, provider: MeterProvider, rooms: Callable[[], tuple[UpstreamRoom, ...]]) -> None:
        meter = provider.get_meter("authz")
        self._errors = Counts(
            meter,
            "authz.upstream.errors",
            ("status",),
            "Requests that the upstream refused, by kind of status: given back in full.",
        )
        self._rooms = rooms
        meter.create_observable_gauge(
            "authz.upstream.limit", [self._limits], description="The upstream's own limit, as its answers say it."
        )
        meter.create_observable_gauge(
            "authz.upstream.left", [self._left], description="What is left of the upstream's own limit, by estimate."
        )

    def refused(self, status: int) -> None:
        self._errors.add("429" if status == _TOO_MANY else "5xx" if status >= _SERVER else "4xx")

    def _limits(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(room.limit, _labels(room)) for room in self._rooms()]

    def _left(self, options: CallbackOptions) -> Iterable[Observation]:
        return [Observation(room.left, _labels(room)) for room in self._rooms()]


def _labels(room: UpstreamRoom) -> dict[str, str]:
    return {"upstream": room.upstream, "model": room.model, "meter": room.meter.value}
