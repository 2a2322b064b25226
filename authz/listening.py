"""Where a sidecar listens, and whom it lets in: a part of the settings."""

from __future__ import annotations

from pathlib import Path
from typing import Final, Literal, TypeVar

from msgspec import Struct, structs

from authz.errors import ConfigError
from authz.yamlfile import Source

MAX_WORKERS: Final = 64
_MOST_WAITING: Final = 100_000

Files = TypeVar("Files", bound=Struct)


class ListenTls(Struct, frozen=True, forbid_unknown_fields=True):
    """Paths, PEM: the sidecar's certificate and key, and the authority whose certificates get in. Every one of them does, so
    it signs for Envoys of ours and for nobody else."""

    certificate: str
    key: str
    client_ca: str

    def below(self, base: Path) -> ListenTls:
        return _below(self, base, ("certificate", "key", "client_ca"))


class SidecarTls(Struct, frozen=True, forbid_unknown_fields=True):
    """Paths, PEM: Envoy's certificate and key, and the authority that signed the sidecar's; `name` is the DNS name or address
    in that one, by default the host of `listen.address`."""

    certificate: str
    key: str
    ca: str
    name: str = ""

    def below(self, base: Path) -> SidecarTls:
        return _below(self, base, ("certificate", "key", "ca"))


class Listen(Struct, frozen=True, forbid_unknown_fields=True):
    """Where Envoy finds this process.

    socket     a Unix socket, made with mode 0600: health, our own services, Check and the access log
    transport  `native`: Envoy asks on a socket beside it, with a server of ours; `grpcio`: all is on one
    workers    processes of `authz serve`, each with sockets of its own
    queue      how many Checks may wait for a decision, counted once for every 64 KiB of body; who comes then is a 503
    drain_s    how long NOT_SERVING is shown before the stop · grace_s: how long it then waits for what is under way
    address    for an Envoy on another machine: host and port, beside the sockets, for whom `tls` lets in
    insecure   lets everybody in who reaches the address: whoever can ask a Check there gets the upstream key
    """

    socket: str = "run/authz.sock"
    transport: Literal["native", "grpcio"] = "native"
    workers: int = 1
    queue: int = 1024
    drain_s: float = 2.0
    grace_s: float = 5.0
    address: str = ""
    tls: ListenTls | None = None
    insecure: bool = False

    @property
    def check_socket(self) -> str:
        """Where Envoy asks, and tells its log: of `run/authz.sock`, `run/authz.check.sock`."""
        return self.socket if self.transport == "grpcio" else _beside(self.socket, "check")

    def below(self, base: Path) -> Listen:
        """With its paths in that folder."""
        tls = self.tls.below(base) if self.tls is not None else None
        return structs.replace(self, socket=str(base / self.socket), tls=tls)

    def each(self) -> tuple[Listen, ...]:
        """Of each worker: of `run/authz.sock`, `run/authz.0.sock` and so on; a process that is alone has it as it stands."""
        if self.workers == 1:
            return (self,)
        return tuple(
            structs.replace(self, socket=_beside(self.socket, str(number)), workers=1) for number in range(self.workers)
        )


def check_listen(source: Source, listen: Listen, sidecar: SidecarTls | None) -> None:
    """Raises `ConfigError` at what cannot be, or would let in anybody without being told so."""

    def fail(name: str, problem: str) -> ConfigError:
        return source.fail(("listen", name), f"listen.{name}: {problem}")

    if not 1 <= listen.workers <= MAX_WORKERS:
        raise fail("workers", f"expected 1 to {MAX_WORKERS}")
    if not 8 <= listen.queue <= _MOST_WAITING:
        raise fail("queue", f"expected 8 to {_MOST_WAITING}")
    if not listen.address:
        for name, value in (("tls", listen.tls), ("insecure", listen.insecure)):
            if value:
                raise fail(name, "expected an `address` beside it")
        return
    host, _, port = listen.address.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65_536:
        raise fail("address", "expected a host and a port, like `127.0.0.1:9191`")
    if listen.workers != 1:
        raise fail("workers", "expected 1 where there is an `address`: each process has one of its own")
    if bool(listen.tls) == listen.insecure:
        raise fail("address", "expected `tls` beside it, or `insecure: true`: whoever reaches it gets the upstream key")
    if bool(listen.tls) != bool(sidecar):
        raise source.fail(("envoy", "sidecar"), "envoy.sidecar: expected where `listen.tls` is, and only there")


def _below(files: Files, base: Path, names: tuple[str, ...]) -> Files:
    return structs.replace(files, **{name: str(base / getattr(files, name)) for name in names})


def _beside(socket: str, word: str) -> str:
    path = Path(socket)
    return str(path.with_name(f"{path.stem}.{word}{path.suffix}"))
