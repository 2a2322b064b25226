"""`authz.yaml`: the settings of a sidecar or of a library that opens the same engine."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Final, Literal
from urllib.parse import urlsplit

from msgspec import Meta, Struct, field, structs

from authz.errors import ConfigError
from authz.listening import Listen, SidecarTls, check_listen
from authz.yamlfile import Source, read_yaml

_MOST_NAMES: Final = 1_000
UNIX: Final = "unix:"


class UpstreamKeyFront(Struct, frozen=True, forbid_unknown_fields=True):
    """One of several keys: exactly one of `key_env` and `key_file` names where it is. It is for the requests of `teams`;
    without any, for those of every team that has no key of its own in order."""

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    key_env: str = ""
    key_file: str = ""
    teams: tuple[str, ...] = ()


class Upstream(Struct, frozen=True, forbid_unknown_fields=True):
    """Groq, and the key that it gets: one, named by `key_env` or `key_file`, or several `keys`.

    batch_poll_s  how often a batch is asked after until it has ended, 1 or more
    """

    host: str = "api.groq.com"
    port: int = 443
    tls: bool = True
    key_env: str = ""
    key_file: str = ""
    keys: tuple[UpstreamKeyFront, ...] = ()
    batch_poll_s: Annotated[int, Meta(ge=1, le=3600)] = 30

    @property
    def url(self) -> str:
        """Where requests go, without a path."""
        return f"{'https' if self.tls else 'http'}://{self.host}:{self.port}"


class TlsFront(Struct, frozen=True, forbid_unknown_fields=True):
    """Paths of Envoy's own certificate and key; and where nobody is to get in without a certificate, of the authorities that
    sign those, with the trust domain of their SPIFFE ids."""

    certificate: str
    key: str
    client_ca: str = ""
    trust_domain: str = ""


class EnvoyFront(Struct, frozen=True, forbid_unknown_fields=True):
    """What `authz envoy-config` writes of Envoy's own listener.

    trace_to  the collector beside Envoy that takes its spans, OTLP over gRPC, such as `127.0.0.1:4317`; empty for no tracing
    sidecar   what Envoy shows to a sidecar that listens on TCP, and what it wants to see
    """

    listen: str = "127.0.0.1:8080"
    admin_socket: str = "run/envoy-admin.sock"
    max_body_bytes: int = 1024 * 1024
    tls: TlsFront | None = None
    trace_to: str = ""
    sidecar: SidecarTls | None = None


class Reload(Struct, frozen=True, forbid_unknown_fields=True):
    """watch: put a changed bundle in force when it passes · poll_s: how often to look where the kernel tells of no change."""

    watch: bool = True
    poll_s: float = 5.0


class MetricsFront(Struct, frozen=True, forbid_unknown_fields=True):
    """What is counted of `authz serve`; a library counts with its host's own provider.

    listen  where Prometheus scrapes, a loopback address such as `127.0.0.1:9464`; empty for nowhere
    names   how many teams, models and budgets get a series to themselves; the other teams and models are counted as `other`
    """

    listen: str = ""
    names: int = 100


class Otlp(Struct, frozen=True, forbid_unknown_fields=True):
    """A collector that takes OTLP over gRPC.

    endpoint     `https://host:4317`; `http://` to a loopback address, or anywhere with `insecure: true`; empty for none
    headers_env  the environment variable with what to send along, such as `authorization=Bearer …,x-tenant=a`
    ca_file      who vouches for the collector, in PEM; empty for those whom the machine trusts
    traces, metrics, records  what it gets; of traces and metrics only what `authz serve` has: a library's are its host's
    every_s      how often it gets metrics
    sample       the share of decisions to trace where nobody before us has decided that, 0 to 1
    """

    endpoint: str = ""
    insecure: bool = False
    headers_env: str = ""
    ca_file: str = ""
    traces: bool = True
    metrics: bool = True
    records: bool = True
    every_s: float = 10.0
    sample: float = 0.01


class WebhookFront(Struct, frozen=True, forbid_unknown_fields=True):
    """Where alerts are posted: exactly one of the address itself and the environment variable that holds it, because it may be
    a secret · format: our own JSON, or what Slack's incoming webhooks take."""

    url: str = ""
    url_env: str = ""
    format: Literal["generic", "slack"] = "generic"


class Alerts(Struct, frozen=True, forbid_unknown_fields=True):
    """Who is told that a budget has reached a threshold."""

    webhooks: tuple[WebhookFront, ...] = ()


class Records(Struct, frozen=True, forbid_unknown_fields=True):
    """file: where records of decisions and settlements go, one JSON line each; `-` is standard output, empty is nowhere.

    max_bytes  a new file is begun before one grows larger, and `keep` older ones stay beside it; 0 for never
    """

    file: str = "-"
    max_bytes: int = 0
    keep: int = 10


class AdminSecret(Struct, frozen=True, forbid_unknown_fields=True):
    """A secret that signs a user of the directory in, by its digest: `authz admin secret` makes one."""

    user: Annotated[str, Meta(min_length=1)]
    digest: Annotated[str, Meta(pattern="^sha256:[0-9a-f]{64}$")]


class Oidc(Struct, frozen=True, forbid_unknown_fields=True):
    """Sign-in at an identity provider: one of the directory's `issuers`, by what its tokens have for `iss`.

    authorize, token   the provider's endpoints
    client_id          ours there: the audience of the tokens that sign in, and no audience of requests for inference
    client_secret_env  the environment variable with our secret there; empty for a public client, which PKCE proves
    """

    issuer: str
    authorize: str
    token: str
    client_id: Annotated[str, Meta(min_length=1)]
    client_secret_env: str = ""
    scope: str = "openid"


class AdminFront(Struct, frozen=True, forbid_unknown_fields=True):
    """The admin API and its page, of `authz serve`.

    listen  a loopback address such as `127.0.0.1:9901`, or `unix:run/admin.sock`; empty for none
    url     where browsers find it, if a proxy with TLS stands before it: `https://authz.example.com`
    """

    listen: str = ""
    url: str = ""
    secrets: tuple[AdminSecret, ...] = ()
    oidc: Oidc | None = None


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """bundle: the folder with schema, policies, directory, models and quotas · store: `sqlite:///…`.

    reservation_ttl_s  after it the estimate of a request that nobody reported on is posted; longer than any stream may take
    retention_days     how long ended reservations and single journal entries are kept; balances and usage stay
    replicas           how many processes share the limits of a quota with `on_store_error: share` while the store is gone
    operator           the user of the directory for whom the command line acts where it is not told otherwise
    Paths are relative to the file's own folder.
    """

    bundle: str = "policies"
    store: str = "sqlite:///var/authz.db"
    upstream: Upstream = field(default_factory=lambda: Upstream(key_env="GROQ_API_KEY"))
    listen: Listen = Listen()
    envoy: EnvoyFront = EnvoyFront()
    records: Records = Records()
    reload: Reload = Reload()
    metrics: MetricsFront = MetricsFront()
    otlp: Otlp = Otlp()
    alerts: Alerts = Alerts()
    admin: AdminFront = AdminFront()
    reservation_ttl_s: int = 900
    retention_days: int = 90
    replicas: int = 1
    operator: str = ""


def read_settings(path: Path) -> Settings:
    """Reads and checks the file; relative paths come back as absolute ones. Raises `ConfigError`."""
    source = read_yaml(path)
    settings = _convert(source)
    base = path.resolve().parent
    _check_upstream(source, settings.upstream)
    if settings.reservation_ttl_s < 1:
        raise source.fail(("reservation_ttl_s",), "reservation_ttl_s: expected at least 1 second")
    if settings.retention_days < 1:
        raise source.fail(("retention_days",), "retention_days: expected at least 1 day")
    if settings.replicas < 1:
        raise source.fail(("replicas",), "replicas: expected at least 1")
    for index, webhook in enumerate(settings.alerts.webhooks):
        if bool(webhook.url) == bool(webhook.url_env):  # without the line: a secret may stand in it
            raise ConfigError(str(path), f"alerts.webhooks[{index}]: expected exactly one of `url` and `url_env`")
    if settings.reload.poll_s < 0.1:
        raise source.fail(("reload", "poll_s"), "reload.poll_s: expected at least 0.1 seconds")
    _check_telemetry(source, settings)
    check_listen(source, settings.listen, settings.envoy.sidecar)
    _check_admin(source, settings.admin)
    if settings.envoy.max_body_bytes < 1024:
        raise source.fail(("envoy", "max_body_bytes"), "envoy.max_body_bytes: expected at least 1024 bytes")
    return Settings(
        bundle=_absolute(base, settings.bundle),
        store=_absolute_uri(base, settings.store, str(path)),
        upstream=Upstream(
            host=settings.upstream.host,
            port=settings.upstream.port,
            tls=settings.upstream.tls,
            key_env=settings.upstream.key_env,
            key_file=_absolute(base, settings.upstream.key_file),
            keys=tuple(structs.replace(key, key_file=_absolute(base, key.key_file)) for key in settings.upstream.keys),
            batch_poll_s=settings.upstream.batch_poll_s,
        ),
        listen=settings.listen.below(base),
        envoy=EnvoyFront(
            listen=settings.envoy.listen,
            admin_socket=_absolute(base, settings.envoy.admin_socket),
            max_body_bytes=settings.envoy.max_body_bytes,
            tls=_absolute_tls(base, settings.envoy.tls),
            trace_to=settings.envoy.trace_to,
            sidecar=settings.envoy.sidecar.below(base) if settings.envoy.sidecar is not None else None,
        ),
        records=structs.replace(
            settings.records, file="-" if settings.records.file == "-" else _absolute(base, settings.records.file)
        ),
        reload=settings.reload,
        metrics=settings.metrics,
        otlp=structs.replace(settings.otlp, ca_file=_absolute(base, settings.otlp.ca_file)),
        alerts=settings.alerts,
        admin=structs.replace(settings.admin, listen=_absolute_listen(base, settings.admin.listen)),
        reservation_ttl_s=settings.reservation_ttl_s,
        retention_days=settings.retention_days,
        replicas=settings.replicas,
        operator=settings.operator,
    )


def of_worker(settings: Settings, number: int) -> Settings:
    """Of one of the workers that `listen.workers` says: with sockets and a port for metrics of its own, and its share of what
    replicas share. The first has the admin page, which signs people in in its own memory. Raises `ConfigError`."""
    count = settings.listen.workers
    if settings.store == "sqlite:///:memory:":
        raise ConfigError("settings", f"store: expected a file or Redis for {count} workers, found one process's own memory")
    host, _, port = settings.metrics.listen.rpartition(":")
    return structs.replace(
        settings,
        listen=settings.listen.each()[number],
        metrics=structs.replace(settings.metrics, listen=f"{host}:{int(port) + number}" if host else ""),
        admin=settings.admin if number == 0 else AdminFront(),
        replicas=settings.replicas * count,
    )


def _convert(source: Source) -> Settings:
    try:
        return source.convert(Settings)
    except ConfigError as error:
        if not error.problem.startswith("alerts"):
            raise
        # Without the line itself: a webhook's address stands in it, and with it a secret.
        raise ConfigError(error.file, error.problem, line=error.line, column=error.column) from None


def _check_upstream(source: Source, upstream: Upstream) -> None:
    if sum(map(bool, (upstream.key_env, upstream.key_file, upstream.keys))) != 1:
        raise source.fail(("upstream",), "upstream: expected exactly one of `key_env` and `key_file`, or `keys`")
    names = [key.name for key in upstream.keys]
    for index, key in enumerate(upstream.keys):
        at = f"upstream.keys[{index}]"
        if bool(key.key_env) == bool(key.key_file):
            raise source.fail(("upstream", "keys", index), f"{at}: expected exactly one of `key_env` and `key_file`")
        if key.name in names[:index]:
            raise source.fail(("upstream", "keys", index), f"{at}: `{key.name}` stands twice")


def _check_telemetry(source: Source, settings: Settings) -> None:
    metrics, otlp, records = settings.metrics, settings.otlp, settings.records
    if metrics.listen and not _is_loopback(metrics.listen):
        raise source.fail(("metrics", "listen"), "metrics.listen: expected a loopback address and port, like `127.0.0.1:9464`")
    if not 0 <= metrics.names <= _MOST_NAMES:
        raise source.fail(("metrics", "names"), f"metrics.names: expected 0 to {_MOST_NAMES}")
    url = urlsplit(otlp.endpoint)
    if otlp.endpoint and (url.scheme not in ("http", "https") or not url.hostname or "@" in url.netloc):
        raise source.fail(("otlp", "endpoint"), "otlp.endpoint: expected a URL like `https://host:4317`")
    if url.scheme == "http" and not otlp.insecure and not _is_loopback(url.netloc.replace("localhost", "127.0.0.1")):
        problem = "otlp.endpoint: expected https, a loopback address and port, or `insecure: true` beside it"
        raise source.fail(("otlp", "endpoint"), problem)
    if not 0 <= otlp.sample <= 1:
        raise source.fail(("otlp", "sample"), "otlp.sample: expected 0 to 1")
    if otlp.every_s < 1:
        raise source.fail(("otlp", "every_s"), "otlp.every_s: expected at least 1 second")
    if records.max_bytes < 0 or records.keep < 1:
        raise source.fail(("records",), "records: expected max_bytes of 0 or more and a keep of 1 or more")
    if settings.envoy.trace_to and not _is_loopback(settings.envoy.trace_to):
        raise source.fail(("envoy", "trace_to"), "envoy.trace_to: expected a loopback address and port, like `127.0.0.1:4317`")


def _check_admin(source: Source, admin: AdminFront) -> None:
    if admin.listen and not admin.listen.startswith(UNIX) and not _is_loopback(admin.listen):
        problem = "admin.listen: expected a loopback address and port, like `127.0.0.1:9901`, or `unix:PATH`"
        raise source.fail(("admin", "listen"), problem)
    url = urlsplit(admin.url)
    if admin.url and (url.scheme not in ("http", "https") or not url.hostname or f"{url.scheme}://{url.netloc}" != admin.url):
        raise source.fail(("admin", "url"), "admin.url: expected an origin like `https://authz.example.com`, without a path")
    if url.scheme == "http" and not _is_loopback(url.netloc.replace("localhost", "127.0.0.1")):
        raise source.fail(("admin", "url"), "admin.url: expected https, or a loopback address and port")
    if admin.oidc is not None:
        for name in ("authorize", "token"):
            address = urlsplit(getattr(admin.oidc, name))
            if address.scheme != "https" and not (address.scheme == "http" and _is_loopback(address.netloc)):
                raise source.fail(("admin", "oidc", name), f"admin.oidc.{name}: expected an address with https://")
        if not admin.url and admin.listen.startswith(UNIX):
            raise source.fail(("admin",), "admin: expected `url`, where the identity provider sends browsers back to")


def _is_loopback(listen: str) -> bool:
    host, _, port = listen.rpartition(":")
    try:
        return ip_address(host.strip("[]")).is_loopback and 0 < int(port) < 65_536
    except ValueError:
        return False


def _absolute_listen(base: Path, listen: str) -> str:
    return f"{UNIX}{base / listen.removeprefix(UNIX)}" if listen.startswith(UNIX) else listen


def _absolute(base: Path, path: str) -> str:
    return str(base / path) if path else ""


def _absolute_tls(base: Path, tls: TlsFront | None) -> TlsFront | None:
    if tls is None:
        return None
    paths = {name: _absolute(base, getattr(tls, name)) for name in ("certificate", "key", "client_ca")}
    return structs.replace(tls, **paths)


def _absolute_uri(base: Path, uri: str, name: str) -> str:
    scheme, found, path = uri.partition("://")
    if found and scheme in ("redis", "rediss", "unix", "redis+sentinel", "rediss+sentinel", "redis+cluster", "rediss+cluster"):
        return uri
    if scheme != "sqlite" or len(path) < 2 or not path.startswith("/"):
        # What was found is not repeated: an address may hold a password.
        raise ConfigError(name, "store: expected `sqlite:///PATH`, `sqlite:///:memory:` or an address such as `redis://HOST`")
    path = path[1:]
    return uri if path == ":memory:" or path.startswith("/") else f"sqlite:////{str(base / path).lstrip('/')}"
