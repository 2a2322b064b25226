"""The address of a Redis or Valkey, as the operator writes it. None of it ever stands in an error: it may hold a password."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, unquote

from msgspec import Struct

from authz.model import Secret

_PORT: Final = 6379
_SENTINEL_PORT: Final = 26379


class Topology(StrEnum):
    SINGLE = "single"
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


SCHEMES: Final = {
    "redis": (Topology.SINGLE, False, "redis://[user:password@]host[:port][/db]"),
    "rediss": (Topology.SINGLE, True, "rediss://[user:password@]host[:port][/db]"),
    "unix": (Topology.SINGLE, False, "unix://[user:password@]/path/to/socket[?db=0]"),
    "redis+sentinel": (Topology.SENTINEL, False, "redis+sentinel://[user:password@]host[:port],…/service[/db]"),
    "rediss+sentinel": (Topology.SENTINEL, True, "rediss+sentinel://[user:password@]host[:port],…/service[/db]"),
    "redis+cluster": (Topology.CLUSTER, False, "redis+cluster://[user:password@]host[:port],…"),
    "rediss+cluster": (Topology.CLUSTER, True, "rediss+cluster://[user:password@]host[:port],…"),
}
_OPTIONS: Final = (
    "organisation",
    "db",
    "password_file",
    "sentinel_username",
    "sentinel_password_file",
    "ca_file",
    "cert_file",
    "key_file",
)


class Login(Struct, frozen=True):
    username: str = ""
    password: Secret | None = None


class Tls(Struct, frozen=True):
    """Files; without `ca_file` the system's own certificates are trusted. The name in the certificate is always checked."""

    ca_file: str = ""
    cert_file: str = ""
    key_file: str = ""


class Options(Struct, frozen=True):
    """Where and how.

    hosts           of the server, the sentinels, or some nodes of the cluster; none for a Unix socket
    service         what the sentinels call the server
    organisation    whose keys these are: all of them carry its digest as their hash tag, so that several share one Redis
    wait_s          the longest that an operation takes, connecting included
    """

    topology: Topology
    hosts: tuple[tuple[str, int], ...] = ()
    socket: str = ""
    service: str = ""
    db: int = 0
    login: Login = Login()
    sentinel_login: Login = Login()
    tls: Tls | None = None
    organisation: str = ""
    wait_s: float = 0.25


def parse_uri(uri: str, *, wait_s: float = 0.25) -> Options:
    """Any form of `SCHEMES`. Raises `ValueError` that says what was expected, and nothing of what was found.

    Options after a `?`: organisation, db, password_file, sentinel_username, sentinel_password_file, ca_file, cert_file and
    key_file.
    """
    scheme, _, rest = uri.partition("://")
    topology, tls, form = SCHEMES[scheme]
    place, _, query = rest.partition("?")
    authority, _, path = place.partition("/")
    login_text, _, hosts_text = authority.rpartition("@")
    options = _query(query, form)
    username, _, password = (unquote(part) for part in login_text.partition(":"))
    if "password_file" in options:
        _expect(not password, "a password or a `password_file`, not both")
        password = _read(options["password_file"])
    unix = scheme == "unix"
    service, db = "", options.get("db", "")
    if unix:
        _expect(bool(path) and not hosts_text, f"`{form}`")
    elif topology is Topology.SENTINEL:
        service, _, in_path = path.partition("/")
        _expect(bool(service), f"`{form}`")
        db = in_path or db
    else:
        db = path or db
    _expect(not db or (db.isascii() and db.isdecimal() and len(db) <= 5), "a db of digits")
    _expect(topology is not Topology.CLUSTER or int(db or 0) == 0, f"`{form}`: a cluster has one db")
    port = _SENTINEL_PORT if topology is Topology.SENTINEL else _PORT
    hosts = () if unix else tuple(_host(text, port, form) for text in hosts_text.split(","))
    _expect(len(hosts) <= 1 or topology is not Topology.SINGLE, f"`{form}`")
    sentinel_password = options.get("sentinel_password_file")
    certificates = Tls(options.get("ca_file", ""), options.get("cert_file", ""), options.get("key_file", ""))
    _expect(tls or certificates == Tls(), "a `rediss` scheme where there are certificates")
    return Options(
        topology=topology,
        hosts=hosts,
        socket=unquote(f"/{path}") if unix else "",
        service=unquote(service),
        db=int(db or 0),
        login=Login(username, Secret(password) if password else None),
        sentinel_login=Login(
            options.get("sentinel_username", ""), Secret(_read(sentinel_password)) if sentinel_password else None
        ),
        tls=certificates if tls else None,
        organisation=options.get("organisation", ""),
        wait_s=wait_s,
    )


def _query(text: str, form: str) -> dict[str, str]:
    found = dict(parse_qsl(text, keep_blank_values=True))
    known = ", ".join(_OPTIONS)
    _expect(set(found) <= set(_OPTIONS) and all(found.values()), f"`{form}`, with none but these options: {known}")
    return found


def _host(text: str, default_port: int, form: str) -> tuple[str, int]:
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        _expect(bool(bracket) and (not rest or rest.startswith(":")), f"`{form}`")
        port = rest[1:]
    else:
        host, _, port = text.partition(":")
    _expect(bool(host) and host.isprintable() and " " not in host, f"`{form}`")
    _expect(not port or (port.isascii() and port.isdecimal() and 0 < int(port[:9]) < 65_536), "a port of 1 to 65535")
    return host, int(port or default_port)


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError):
        raise ValueError(f"found no text in the password file `{path}`, expected one that can be read") from None


def _expect(holds: bool, expected: str) -> None:
    if not holds:
        raise ValueError(f"found another form of address, expected {expected}")
