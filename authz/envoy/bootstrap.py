"""The Envoy configuration that authz writes: `bootstrap.yaml` beside this file, filled in from options."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from ipaddress import ip_address
from string import Template
from typing import Any, Final

from msgspec import Struct

from authz.answers import CLIENT_CREDENTIALS
from authz.envoy.answer import UPSTREAM_CREDENTIAL
from authz.errors import ConfigError
from authz.listening import SidecarTls

SYSTEM_CA_FILE: Final = "/etc/ssl/certs/ca-certificates.crt"
MAX_SOCKET_PATH_BYTES: Final = 107
MAX_BODY_BYTES: Final = 3 * 1024 * 1024
"""Of JSON: what a parser reads while others wait."""

MAX_UPLOAD_BYTES: Final = 60 * 1024 * 1024
"""A Check has to fit into the 64 MiB that the sidecar takes, with its headers."""

MIN_HEAP_BYTES: Final = 64 * 1024 * 1024
UPLOAD_CHECK_TIMEOUT: Final = "5s"


class Upstream(Struct, frozen=True):
    """Where requests go.

    host, port  a name or an address
    tls         False only for a stand-in on this machine: the upstream key would travel in the clear
    sni         the name that the certificate has to carry and the Host header says; empty: `host`
    ca_file     the authorities that may have signed it, PEM
    """

    host: str = "api.groq.com"
    port: int = 443
    tls: bool = True
    sni: str = ""
    ca_file: str = SYSTEM_CA_FILE

    @property
    def name(self) -> str:
        return self.sni or self.host


class Tls(Struct, frozen=True):
    """What clients speak to Envoy.

    certificate, key  its own, PEM
    client_ca         the authorities that sign clients' certificates, PEM: nobody gets in without one. Empty: nobody has one
    trust_domain      the one whose SPIFFE ids `client_ca` vouches for: `acme.example`
    """

    certificate: str
    key: str
    client_ca: str = ""
    trust_domain: str = ""


def _is_host_and_port(text: str) -> bool:
    host, _, port = text.rpartition(":")
    return bool(host) and port.isascii() and port.isdigit() and int(port) < 65_536


class EnvoyOptions(Struct, frozen=True, kw_only=True):
    """What differs between two Envoys. Raises ConfigError for a value that Envoy would refuse or that would weaken it.

    listen                "host:port"; port 0 takes a free one
    admin_socket          path of the admin interface's Unix socket
    sidecar_sockets       one path for each authz process: where it answers Check and takes the access log
    sidecar_address       in place of the sockets: "host:port" of a sidecar on another machine
    sidecar_tls           what is shown and wanted there; None only where that says `insecure`
    tls                   None only for clients on this machine, or behind something that ends TLS: keys travel in the clear
    max_body_bytes        a larger body is a 413
    max_upload_bytes      the same where a body is a file of audio: Groq's 25 MiB and the form around it
    xff_trusted_hops      load balancers of ours before this Envoy
    access_log            path; /dev/stdout is one
    max_heap_bytes        beyond nine tenths of it new requests are a 503 until there is room again
    max_connections       from clients; the same bound holds towards the upstream
    check_timeout_ms      for a decision with its retries, below a second
    check_try_timeout_ms  for one try of it
    upload_timeout_s      for a whole request to arrive
    idle_timeout_s        without a byte in either direction
    max_stream_s          for a whole exchange: a reservation has to live longer
    trace_to              host:port of the collector that takes Envoy's spans, OTLP over gRPC in the clear; empty: no tracing
    trace_share           of the requests that it traces where their sender has not decided that, 0 to 1
    """

    listen: str
    admin_socket: str
    sidecar_sockets: tuple[str, ...] = ()
    sidecar_address: str = ""
    sidecar_tls: SidecarTls | None = None
    tls: Tls | None = None
    upstream: Upstream = Upstream()
    max_body_bytes: int = 1024 * 1024
    max_upload_bytes: int = 25 * 1024 * 1024 + 64 * 1024
    max_heap_bytes: int = 2 * 1024 * 1024 * 1024
    xff_trusted_hops: int = 0
    access_log: str = "/dev/stdout"
    max_connections: int = 20_000
    check_timeout_ms: int = 600
    check_try_timeout_ms: int = 250
    upload_timeout_s: int = 60
    idle_timeout_s: int = 300
    max_stream_s: int = 600
    trace_to: str = ""
    trace_share: float = 0.01

    def __post_init__(self) -> None:
        if not _is_host_and_port(self.listen):
            raise _wrong("listen", "`host:port`", self.listen)
        if self.sidecar_tls is not None and not self.sidecar_address:
            raise _wrong("sidecar_address", "one for sidecar_tls", self.sidecar_address)
        if self.sidecar_address and not _is_host_and_port(self.sidecar_address):
            raise _wrong("sidecar_address", "`host:port`", self.sidecar_address)
        if not self.sidecar_sockets and not self.sidecar_address:
            raise _wrong("sidecar_sockets", "at least one path", self.sidecar_sockets)
        for path in (self.admin_socket, *self.sidecar_sockets):
            if not 0 < len(path.encode()) <= MAX_SOCKET_PATH_BYTES:
                raise _wrong("a socket's path", f"1 to {MAX_SOCKET_PATH_BYTES} bytes", path)
        if self.tls is not None:
            _check_tls(self.tls)
        bounds = {
            "upstream.port": (self.upstream.port, 1, 65535),
            "max_body_bytes": (self.max_body_bytes, 1, MAX_BODY_BYTES),
            "max_upload_bytes": (self.max_upload_bytes, 1, MAX_UPLOAD_BYTES),
            "max_heap_bytes": (self.max_heap_bytes, MIN_HEAP_BYTES, 2**40),
            "xff_trusted_hops": (self.xff_trusted_hops, 0, 10),
            "max_connections": (self.max_connections, 1, 1_000_000),
            "check_timeout_ms": (self.check_timeout_ms, 1, 1000),
            "check_try_timeout_ms": (self.check_try_timeout_ms, 10, self.check_timeout_ms),
            "upload_timeout_s": (self.upload_timeout_s, 1, 3600),
            "idle_timeout_s": (self.idle_timeout_s, 1, 3600),
            "max_stream_s": (self.max_stream_s, 1, 86_400),
        }
        for name, (value, low, high) in bounds.items():
            if not low <= value <= high:
                raise _wrong(name, f"{low} to {high}", value)


def render(options: EnvoyOptions) -> str:
    """A complete bootstrap, as YAML."""
    host, _, port = options.listen.rpartition(":")
    upstream = options.upstream
    mutable = "|".join([UPSTREAM_CREDENTIAL, *CLIENT_CREDENTIALS])
    values: dict[str, Any] = {
        "admin_socket": options.admin_socket,
        "max_connections": options.max_connections,
        "listen_host": host.strip("[]"),  # an IPv6 address wears brackets only beside a port
        "listen_port": int(port),
        "listen_transport": _listen_transport(options.tls),
        "xff_trusted_hops": options.xff_trusted_hops,
        "upload_timeout": f"{options.upload_timeout_s}s",
        "idle_timeout": f"{options.idle_timeout_s}s",
        "max_stream": f"{options.max_stream_s}s",
        "access_log": options.access_log,
        "mutable_headers": f"^({mutable})$",
        "max_body_bytes": options.max_body_bytes,
        "max_upload_bytes": options.max_upload_bytes,
        "max_heap_bytes": options.max_heap_bytes,
        "upload_check_timeout": UPLOAD_CHECK_TIMEOUT,
        "check_timeout": f"{options.check_timeout_ms / 1000:.3f}s",
        "check_try_timeout": f"{options.check_try_timeout_ms / 1000:.3f}s",
        "sidecar_endpoints": _endpoints(options),
        "sidecar_transport": _sidecar_transport(options),
        "upstream_authority": upstream.name,
        "upstream_host": upstream.host,
        "upstream_port": upstream.port,
        "upstream_transport": _transport(upstream),
        "tracing": _tracing(options) if options.trace_to else None,
        **MESSAGES,
    }
    template = Template(files("authz.envoy").joinpath("bootstrap.yaml").read_text(encoding="utf-8"))
    # JSON is YAML, and a string in it cannot end early: an option's value stays a value.
    return template.substitute({name: json.dumps(value) for name, value in values.items()})


MESSAGES: Final[dict[str, str]] = {
    "authz_unavailable": "The authorization service is unavailable. Please try again in 1s.",
    "body_too_large": "The request body is larger than this gateway accepts.",
    "unknown_url": "Unknown request URL. Please check the URL for typos.",
    "upstream_unavailable": "The upstream did not answer, or not in time. Please try again.",
    "bad_request": "The request could not be read.",
}
"""What Envoy's own errors say."""


_PACKAGE: Final = "type.googleapis.com/envoy.extensions.transport_sockets"
_PLAIN: Final[dict[str, Any]] = {
    "name": "envoy.transport_sockets.raw_buffer",
    "typed_config": {"@type": f"{_PACKAGE}.raw_buffer.v3.RawBuffer"},
}
_TRUST_DOMAIN: Final = re.compile(r"[a-z0-9._-]{1,255}")


def _endpoints(options: EnvoyOptions) -> list[dict[str, Any]]:
    if options.sidecar_address:
        host, _, port = options.sidecar_address.rpartition(":")
        address: dict[str, Any] = {"socket_address": {"address": host.strip("[]"), "port_value": int(port)}}
        return [{"endpoint": {"address": address}}]
    return [{"endpoint": {"address": {"pipe": {"path": path}}}} for path in options.sidecar_sockets]


def _sidecar_transport(options: EnvoyOptions) -> dict[str, Any]:
    """mTLS: Envoy shows who it is, and takes nobody else for the sidecar than who has its name."""
    tls = options.sidecar_tls
    if tls is None:
        return _PLAIN
    name = tls.name or options.sidecar_address.rpartition(":")[0].strip("[]")
    kind = "IP_ADDRESS" if _is_address(name) else "DNS"
    context: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_3", "tls_maximum_protocol_version": "TLSv1_3"},
        "alpn_protocols": ["h2"],
        "tls_certificates": [{"certificate_chain": {"filename": tls.certificate}, "private_key": {"filename": tls.key}}],
        "validation_context": {
            "trusted_ca": {"filename": tls.ca},
            "match_typed_subject_alt_names": [{"san_type": kind, "matcher": {"exact": name}}],
        },
    }
    made = {"@type": f"{_PACKAGE}.tls.v3.UpstreamTlsContext", "common_tls_context": context}
    return {"name": "envoy.transport_sockets.tls", "typed_config": made}


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _check_tls(tls: Tls) -> None:
    if not tls.certificate or not tls.key:
        raise _wrong("tls", "`certificate` and `key`", tls.certificate or tls.key)
    if bool(tls.client_ca) != bool(tls.trust_domain):
        raise _wrong("tls", "`client_ca` and `trust_domain`, or neither", tls.client_ca or tls.trust_domain)
    if tls.trust_domain and _TRUST_DOMAIN.fullmatch(tls.trust_domain) is None:
        raise _wrong("tls.trust_domain", "a name such as `acme.example`", tls.trust_domain)


def _listen_transport(tls: Tls | None) -> dict[str, Any]:
    if tls is None:
        return _PLAIN
    context: dict[str, Any] = {
        "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
        "alpn_protocols": ["h2", "http/1.1"],
        "tls_certificates": [
            {"certificate_chain": {"filename": tls.certificate}, "private_key": {"filename": tls.key}},
        ],
    }
    if tls.client_ca:
        # What Envoy reports as the peer is then a URI of this trust domain and never a DNS name or a subject, in which anything
        # may stand. (It turns everybody away who has no certificate, whatever `require_client_certificate` says.)
        context["validation_context"] = {
            "custom_validator_config": {
                "name": "envoy.tls.cert_validator.spiffe",
                "typed_config": {
                    "@type": f"{_PACKAGE}.tls.v3.SPIFFECertValidatorConfig",
                    "trust_domains": [{"name": tls.trust_domain, "trust_bundle": {"filename": tls.client_ca}}],
                },
            }
        }
    made: dict[str, Any] = {"@type": f"{_PACKAGE}.tls.v3.DownstreamTlsContext", "common_tls_context": context}
    if tls.client_ca:
        made["require_client_certificate"] = True
        # A session that is taken up again would not look at the certificate again.
        made |= {"disable_stateless_session_resumption": True, "disable_stateful_session_resumption": True}
    return {"name": "envoy.transport_sockets.tls", "typed_config": made}


def _tracing(options: EnvoyOptions) -> dict[str, Any]:
    """Envoy hands its span on to the sidecar with each Check: a decision's span is below the one of its request."""
    collector = {"google_grpc": {"target_uri": options.trace_to, "stat_prefix": "traces"}, "timeout": "1s"}
    return {
        "random_sampling": {"value": 100 * options.trace_share},
        "provider": {
            "name": "envoy.tracers.opentelemetry",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
                "grpc_service": collector,
                "service_name": "envoy",
            },
        },
    }


def _transport(upstream: Upstream) -> dict[str, Any]:
    if not upstream.tls:
        return _PLAIN
    # Without the name any certificate of any authority in the file would do: the key would go to whoever answers.
    validation = {
        "trusted_ca": {"filename": upstream.ca_file},
        "match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": upstream.name}}],
    }
    tls = {
        "@type": f"{_PACKAGE}.tls.v3.UpstreamTlsContext",
        "sni": upstream.name,
        "common_tls_context": {
            "tls_params": {"tls_minimum_protocol_version": "TLSv1_2"},
            "validation_context": validation,
        },
    }
    return {"name": "envoy.transport_sockets.tls", "typed_config": tls}


def _wrong(name: str, expected: str, found: object) -> ConfigError:
    return ConfigError("envoy options", f"{name}: expected {expected}, found `{found}`")
