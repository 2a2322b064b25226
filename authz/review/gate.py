"""The gate that a bundle passes before it is in force: read, checked and tested as a whole, first where a crash hurts nobody.

A parser that is fed a hostile or broken text can end its process (deep nesting is the known way, and is bounded; the unknown
ways are why this exists). So the whole of it happens in a child first. Only bytes that the child has taken are read here, and
the digest says that they are the same.
"""

from __future__ import annotations

import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec
from msgspec import Struct

from authz.bundle import Bundle, load_bundle
from authz.errors import ConfigError
from authz.review import suite

_TESTS: Final = "tests"
_NO_TESTS: Final = "no-tests"
_TIMEOUT_S: Final = 120
_CPU_S: Final = 100
_MEMORY_BYTES: Final = 4 * 1024**3


class Problem(Struct, frozen=True):
    file: str
    problem: str
    line: int
    column: int
    excerpt: str


class Finding(Struct, frozen=True):
    """What the child says: a digest, or the problem."""

    digest: str = ""
    problem: Problem | None = None


def admit(folder: Path) -> Bundle:
    """The folder's bundle, proved good. Raises `ConfigError`; a parser that crashes is one."""
    return _proved(folder, tests=True)


def load(folder: Path) -> Bundle:
    """The same without its cases: for commands that show what is wrong with them."""
    return _proved(folder, tests=False)


def _proved(folder: Path, *, tests: bool) -> Bundle:
    digest = prove(folder, tests=tests)
    bundle = load_bundle(folder)
    if bundle.digest != digest:
        raise ConfigError(str(folder), "changed while it was read, and is read again")
    return bundle


def prove(folder: Path, *, tests: bool) -> str:
    """The digest of a bundle that a child process has loaded, and tested where `tests` says so. Raises `ConfigError`."""
    try:
        done = subprocess.run(  # noqa: S603  # our own interpreter and module; the folder is one argument
            [sys.executable, "-m", "authz.review.gate", _TESTS if tests else _NO_TESTS, str(folder)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            timeout=_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise ConfigError(str(folder), f"not read within {_TIMEOUT_S} seconds") from None
    if done.returncode < 0:
        raise ConfigError(str(folder), f"reading it ended the process: {signal.Signals(-done.returncode).name}")
    try:
        finding = msgspec.json.decode(done.stdout, type=Finding)
    except msgspec.DecodeError:
        raise ConfigError(str(folder), f"reading it failed with exit code {done.returncode}") from None
    if finding.problem is not None:
        raise ConfigError(**msgspec.structs.asdict(finding.problem))
    return finding.digest


def examine(folder: Path, *, tests: bool) -> Finding:
    """What the child does."""
    try:
        bundle = load_bundle(folder)
        if tests:
            suite.refuse_failures(suite.run(bundle))
    except ConfigError as error:
        return Finding(problem=Problem(error.file, error.problem, error.line, error.column, error.excerpt))
    return Finding(digest=bundle.digest)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    mode, folder = sys.argv[1:]
    sys.stdout.buffer.write(msgspec.json.encode(examine(Path(folder), tests=mode == _TESTS)))


if __name__ == "__main__":
    main()
