"""The composition root: the one place where objects are built from settings, and where a clock and random ids come from."""

from __future__ import annotations

import logging
import os
import pwd
import random
import secrets
import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from authz.alerts import Deliverer, Format, Webhook, WebhookError
from authz.bundle import Bundle, BundleSource
from authz.bundle.watch import Watcher
from authz.clock import Clock, system_clock
from authz.collecting import Collector, Reader
from authz.errors import ConfigError, StoreUnavailable
from authz.fallback import Fallback
from authz.identity.authentication import Authenticator
from authz.identity.credentials import KeyRing
from authz.identity.jwks import KeySets, fetch
from authz.identity.tokens import TokenReader
from authz.identity.upstream import UpstreamKey, Upstreams, UpstreamSource, named
from authz.inference.endpoints import PREFIX
from authz.model import Meter, Outcome, QuotaState, Receipt, Secret, UpstreamLimit, UpstreamRoom
from authz.pdp import Pdp
from authz.published import Published
from authz.quota.calibration import Calibration, Observed
from authz.quota.headroom import Headroom
from authz.quota.ledger import Change
from authz.quota.path import applied_to
from authz.review import gate
from authz.settings import Alerts, Settings, Upstream
from authz.settlement import Settler
from authz.store import Store, open_store
from authz.telemetry.exporters import open_telemetry
from authz.telemetry.metrics import watch
from authz.telemetry.upstream import UpstreamMetrics
from authz.telemetry.watch import Watched

TICK_S: Final = 0.5
"""How often the sweeper runs."""

KEYS_S: Final = 0.4
"""How often issued keys are read again: well within the second in which a revocation is promised."""

BATCHES_S: Final = 1.0
"""How often it is looked for batches that are due."""

_SWEEP: Final = 500
_CATCH_UP: Final = 5_000
_TICKS_TO_LEARN: Final = 10
_TICKS_TO_PRUNE: Final = 20
"""Forgetting takes the write lock, and nothing waits for it: every ten seconds is soon enough."""

_JWKS_S: Final = 1.0
_UNAUTHORIZED: Final = 401
_LATE: Final = 100_000
_log = logging.getLogger(__name__)


class _Ids:
    """Ids of 128 random bits, drawn from the system 64 at a time: a decision needs two, and a system call for each would let go
    of the interpreter's lock. A forked child draws its own."""

    def __init__(self) -> None:
        self._ready: deque[str] = deque()
        os.register_at_fork(after_in_child=self._ready.clear)

    def __call__(self) -> str:
        while True:
            try:
                return self._ready.pop()
            except IndexError:
                drawn = os.urandom(64 * 16).hex()
                self._ready.extend(drawn[at : at + 32] for at in range(0, len(drawn), 32))


new_id: Final = _Ids()


class Engine:
    """Everything one process needs to decide and settle, opened from settings; close it, or use it in a `with`.

    Raises `ConfigError` or `StoreUnavailable` on opening: a process starts only on a good bundle and a store that answers.

    load     reads a bundle's folder; by default through the gate, which proves it in a child process first
    serving  this process is the sidecar: metrics and traces go where the settings say, and not to a host's providers
    """

    def __init__(
        self,
        settings: Settings,
        *,
        environ: Mapping[str, str],
        clock: Clock | None = None,
        load: Callable[[Path], Bundle] = gate.admit,
        serving: bool = False,
    ) -> None:
        clock = clock or system_clock()
        self._clock = clock
        self.upstream = settings.upstream
        self._ticks = 0
        self._keep_ns = settings.retention_days * 86_400 * 1_000_000_000
        self._late: deque[Receipt] = deque(maxlen=_LATE)
        self._closing = threading.Event()
        self._most_budgets = settings.metrics.names
        folder = Path(settings.bundle)
        with ExitStack() as stack:
            self.source = BundleSource(folder, load, clock=clock, reloaded=lambda outcome: metrics.reloaded(outcome))
            telemetry = open_telemetry(
                settings,
                environ=environ,
                instance=secrets.token_hex(8),
                chance=random.Random(secrets.randbits(128)).random,  # noqa: S311  # what is traced is no secret
                bundle=self._bundle_state,
                serving=serving,
                stack=stack,
            )
            metrics = self._metrics = telemetry.metrics
            self.headroom = Headroom()
            upstream_metrics = UpstreamMetrics(telemetry.meters, self.upstream_rooms)
            self._upstreams = Upstreams(upstream_sources(settings.upstream), environ, refused=metrics.refused_upstream)
            self._watcher = Watcher(self.source, folder, poll_s=settings.reload.poll_s) if settings.reload.watch else None
            self.store: Store = open_store(settings.store)
            stack.callback(self.store.close)
            local = open_store("sqlite:///:memory:")
            stack.callback(local.close)
            self.fallback = Fallback(self.store, local, replicas=settings.replicas, admitted=metrics.degraded)
            self.calibration = Calibration(self.store)
            self.calibration.refresh()
            webhooks = _webhooks(settings.alerts, environ)
            self._deliverer = Deliverer(self.store, webhooks, clock=clock, told=metrics.delivered) if webhooks else None
            self.key_sets = KeySets(fetch)
            self._ring = KeyRing(self.store)
            self._ring.refresh()
            self._published = Published(self.store, clock=clock, login=_login())
            self.watched = Watched(lambda record: telemetry.tell(record, clock()))
            self.authenticator = Authenticator(self._ring, TokenReader(self.key_sets), excess=metrics.too_many_invalid)
            self.pdp = Pdp(
                self,
                self.authenticator,
                self.fallback,
                clock=clock,
                new_id=new_id,
                record=self.watched.record,
                metrics=metrics,
                ttl_ns=settings.reservation_ttl_s * 1_000_000_000,
                expect=self.calibration.find,
                headroom=self.headroom,
                tracer=telemetry.tracer,
            )
            self.settler = Settler(
                self.fallback,
                clock=clock,
                record=self.watched.record,
                observe=self._observe,
                alerted=lambda alert: metrics.alerted(alert.quota),
                doubted=lambda doubt: metrics.doubted(doubt.value),
                refused=upstream_metrics.refused,
                limited=self._learn_limits,
                unknown=metrics.unknown_reservation,
            )
            scheme = "https" if self.upstream.tls else "http"
            reader = Reader(f"{scheme}://{self.upstream.host}:{self.upstream.port}{PREFIX}")
            stack.callback(reader.close)
            self.collector = Collector(
                self.store,
                self.settler,
                read=reader,
                key=self._secret,
                clock=clock,
                every_ns=self.upstream.batch_poll_s * 1_000_000_000,
            )
            watch(telemetry.meters, keys=lambda: len(self._ring), waiting=lambda: len(self._late), budgets=self._budgets)
            self._ticker = threading.Thread(target=self._run, name="authz-ticker", daemon=True)
            self._key_reader = threading.Thread(target=self._read_keys, name="authz-keys", daemon=True)
            self._fetcher = threading.Thread(target=self._fetch_keys, name="authz-jwks", daemon=True)
            self._batch_keeper = threading.Thread(target=self._collect_batches, name="authz-batches", daemon=True)
            self._resources = stack.pop_all()

    @property
    def bundle(self) -> Bundle:
        """The one in force. Read once for a decision."""
        return self.source.current

    def upstream_key(self, team: str, now_ns: int) -> UpstreamKey | None:
        """The one that a team's next request goes with."""
        return self._upstreams.find(team, now_ns)

    def _secret(self, team: str, now_ns: int) -> Secret | None:
        found = self._upstreams.find(team, now_ns)
        return found.secret if found is not None else None

    @property
    def clock(self) -> Clock:
        return self._clock

    def upstream_rooms(self) -> tuple[UpstreamRoom, ...]:
        """What this process knows of the upstream's own limits."""
        return self.headroom.rooms(self._clock())

    def _learn_limits(self, upstream: str, model: str, limits: tuple[UpstreamLimit, ...]) -> None:
        self.headroom.learn(named(upstream), model, limits)

    def _bundle_state(self) -> tuple[str, bool]:
        status = self.source.status
        return status.digest, bool(status.refused)

    def _observe(self, observed: Observed) -> None:
        self.calibration.observe(observed)
        self._metrics.learned()

    def _budgets(self) -> tuple[QuotaState, ...]:
        """How the budgets stand that are one counter each; nothing while the store does not say."""
        quotas = [quota for quota in self.bundle.quotas.quotas if quota.meter is Meter.SPEND and quota.per is None]
        charges = tuple(applied_to(quota, None).charge(0) for quota in quotas[: self._most_budgets])
        if self._closing.is_set():
            return ()  # a host's provider collects for as long as the host lives
        try:
            return self.store.look(charges, self._clock()) if charges else ()
        except StoreUnavailable:
            self._metrics.store_failed("background")
            return ()

    def start(self) -> Self:
        """Begins the background work: keys are read again, late receipts and overdue reservations are settled, alerts are
        delivered, and the bundle's folder is watched."""
        self._ticker.start()
        self._key_reader.start()
        self._fetcher.start()
        self._batch_keeper.start()
        if self._deliverer is not None:
            self._deliverer.start()
        if self._watcher is not None:
            self._watcher.start()
        return self

    def close(self) -> None:
        if self._watcher is not None:
            self._watcher.stop()
        self._closing.set()
        for thread in (self._ticker, self._key_reader, self._fetcher, self._batch_keeper):
            if thread.is_alive():
                thread.join()
        with suppress(StoreUnavailable):
            # What stands in this process's memory only, as far as the store takes it now.
            self._catch_up(self._clock())
            self._ring.flush()
            self.calibration.flush(self._clock())
        if self._deliverer is not None:
            self._deliverer.close()
        self._resources.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def settle(self, receipt: Receipt) -> Change | None:
        """Settles now, or once the store answers again (None). A receipt that is lost all the same ends as the estimate."""
        return self.settle_many((receipt,))[0]

    def settle_many(self, receipts: Sequence[Receipt]) -> tuple[Change | None, ...]:
        """Each as by `settle`, in order: what was reported together shares the cost of the store."""
        for receipt in receipts:
            if receipt.status == _UNAUTHORIZED and receipt.outcome is Outcome.UPSTREAM_ERROR:
                self._upstreams.refuse(receipt.upstream, self._clock())
        changes = self.settler.settle_many(receipts)
        for receipt, change in zip(receipts, changes, strict=True):
            if isinstance(change, StoreUnavailable):
                _log.error("a settlement waits for the store", extra={"error": str(change)})
                self._metrics.store_failed("settlement")
                self._late.append(receipt)
        return tuple(None if isinstance(change, StoreUnavailable) else change for change in changes)

    def tick(self) -> None:
        """One round of the background work. Raises `StoreUnavailable`; the next round goes on where this one stopped."""
        now_ns = self._clock()
        self._metrics.flush()
        self._upstreams.refresh()
        self.fallback.tidy(now_ns, _CATCH_UP)  # needs no store, and is needed most where there is none
        self._ring.refresh()  # for who calls this by hand; a process that has started does not wait for its turn here
        self._catch_up(now_ns)
        expired = _SWEEP
        while expired == _SWEEP:
            expired = self.settler.expire(_SWEEP)
            self._metrics.expired(expired)
        self._ticks += 1
        if self._ticks % _TICKS_TO_LEARN == 0:
            self._ring.flush()
            self.calibration.flush(now_ns)
            self.calibration.refresh()
        if self._ticks % _TICKS_TO_PRUNE == 0:
            self.store.prune(now_ns, self._keep_ns, _SWEEP)
        self.store.checkpoint()
        self._published.tell(self.bundle)

    def _catch_up(self, now_ns: int) -> None:
        """What was admitted, and what was settled, while the store did not answer."""
        self.settler.tell(self.fallback.catch_up(now_ns, _CATCH_UP))
        while self._late:
            self.settler.settle(self._late[0])
            self._late.popleft()

    def _read_keys(self) -> None:
        """Beside the other background work: however much there is to settle, it holds up no revocation."""
        while not self._closing.wait(KEYS_S):
            try:
                self._ring.refresh()
            except StoreUnavailable as error:
                _log.error("issued keys cannot be read", extra={"error": str(error)})

    def _fetch_keys(self) -> None:
        """Beside the other background work: an issuer that is slow to answer holds up no revocation."""
        while True:
            self.key_sets.refresh(self.bundle.directory.issuers.values(), self._clock())
            if self._closing.wait(_JWKS_S):
                return

    def _collect_batches(self) -> None:
        """Beside the other background work: an upstream that is slow to answer holds nothing up."""
        while not self._closing.wait(BATCHES_S):
            try:
                while self.collector.collect() and not self._closing.is_set():
                    continue
            except StoreUnavailable as error:
                _log.error("batches cannot be settled", extra={"error": str(error)})

    def _run(self) -> None:
        while not self._closing.wait(TICK_S):
            try:
                self.tick()
            except StoreUnavailable as error:
                _log.error("the store does not answer", extra={"error": str(error)})
                self._metrics.store_failed("background")


def _login() -> str:
    """The operating system's name of this process's user; a container's need not have one."""
    try:
        return pwd.getpwuid(os.getuid()).pw_name
    except KeyError:
        return str(os.getuid())


def _webhooks(alerts: Alerts, environ: Mapping[str, str]) -> tuple[Webhook, ...]:
    """Never says an address: there may be a secret in it."""
    found = []
    for index, row in enumerate(alerts.webhooks):
        where = f"alerts.webhooks[{index}]"
        address = row.url or environ.get(row.url_env, "").strip()
        if not address:
            raise ConfigError(where, f"the environment variable `{row.url_env}` is not set, expected the webhook's address")
        try:
            found.append(Webhook.at(address, Format(row.format)))
        except WebhookError as error:
            raise ConfigError(where, str(error)) from None
    return tuple(found)


def upstream_sources(upstream: Upstream) -> tuple[UpstreamSource, ...]:
    """Where the settings say that the upstream keys are."""
    if not upstream.keys:
        return (UpstreamSource("default", upstream.key_env, upstream.key_file),)
    return tuple(UpstreamSource(key.name, key.key_env, key.key_file, key.teams) for key in upstream.keys)


def open_engine(settings: Settings, *, serving: bool = False) -> Engine:
    """The engine of this process, with its environment."""
    return Engine(settings, environ=os.environ, serving=serving)
