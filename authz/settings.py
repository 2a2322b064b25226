"""`authz.yaml`: the settings of a sidecar or of a library that opens the same engine."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct, field

from authz.errors import ConfigError
from authz.yamlfile import read_yaml


class Upstream(Struct, frozen=True, forbid_unknown_fields=True):
    """Groq, and the key that it gets. Exactly one of `key_env` and `key_file` names where the key is."""

    host: str = "api.groq.com"
    port: int = 443
    tls: bool = True
    key_env: str = ""
    key_file: str = ""


class Listen(Struct, frozen=True, forbid_unknown_fields=True):
    """socket: the Unix socket of this process, made with mode 0600 · drain_s: how long NOT_SERVING is shown before the stop."""

    socket: str = "run/authz.sock"
    drain_s: float = 2.0
    grace_s: float = 5.0


class EnvoyFront(Struct, frozen=True, forbid_unknown_fields=True):
    """What `authz envoy-config` writes of Envoy's own listener."""

    listen: str = "127.0.0.1:8080"
    admin_socket: str = "run/envoy-admin.sock"
    max_body_bytes: int = 1024 * 1024


class Records(Struct, frozen=True, forbid_unknown_fields=True):
    """file: where decision records go, one JSON line each; `-` is standard output, empty is nowhere."""

    file: str = "-"


class Settings(Struct, frozen=True, forbid_unknown_fields=True):
    """bundle: the folder with schema, policies, directory, models and quotas · store: `sqlite:///…`.

    reservation_ttl_s  after it the estimate of a request that nobody reported on is posted; longer than any stream may take
    retention_days     how long ended reservations and single journal entries are kept; balances and usage stay
    Paths are relative to the file's own folder.
    """

    bundle: str = "policies"
    store: str = "sqlite:///var/authz.db"
    upstream: Upstream = field(default_factory=lambda: Upstream(key_env="GROQ_API_KEY"))
    listen: Listen = Listen()
    envoy: EnvoyFront = EnvoyFront()
    records: Records = Records()
    reservation_ttl_s: int = 900
    retention_days: int = 90


def read_settings(path: Path) -> Settings:
    """Reads and checks the file; relative paths come back as absolute ones. Raises `ConfigError`."""
    source = read_yaml(path)
    settings = source.convert(Settings)
    base = path.resolve().parent
    if bool(settings.upstream.key_env) == bool(settings.upstream.key_file):
        raise source.fail(("upstream",), "upstream: expected exactly one of `key_env` and `key_file`")
    if settings.reservation_ttl_s < 1:
        raise source.fail(("reservation_ttl_s",), "reservation_ttl_s: expected at least 1 second")
    if settings.retention_days < 1:
        raise source.fail(("retention_days",), "retention_days: expected at least 1 day")
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
        ),
        listen=Listen(
            socket=_absolute(base, settings.listen.socket), drain_s=settings.listen.drain_s, grace_s=settings.listen.grace_s
        ),
        envoy=EnvoyFront(
            listen=settings.envoy.listen,
            admin_socket=_absolute(base, settings.envoy.admin_socket),
            max_body_bytes=settings.envoy.max_body_bytes,
        ),
        records=Records(file=settings.records.file if settings.records.file == "-" else _absolute(base, settings.records.file)),
        reservation_ttl_s=settings.reservation_ttl_s,
        retention_days=settings.retention_days,
    )


def _absolute(base: Path, path: str) -> str:
    return str(base / path) if path else ""


def _absolute_uri(base: Path, uri: str, name: str) -> str:
    scheme, found, path = uri.partition(":///")
    if scheme != "sqlite" or not found or not path:
        raise ConfigError(name, f"store: expected `sqlite:///PATH` or `sqlite:///:memory:`, got `{uri}`")
    return uri if path == ":memory:" or path.startswith("/") else f"sqlite:////{str(base / path).lstrip('/')}"
