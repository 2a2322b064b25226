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

from authz.bundle import Bundle, load_bundle, problems
from authz.errors import ConfigError
from authz.review import suite

_TESTS: Final = "tests"
_NO_TESTS: Final = "no-tests"
_ALL: Final = "all"
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
    """What the child says: a digest, or what is wrong, the first of it or all."""

    digest: str = ""
    problems: tuple[Problem, ...] = ()


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
    finding = _ask(folder, _TESTS if tests else _NO_TESTS)
    for problem in finding.problems:
        raise _error(problem)
    return finding.digest


def wrong(folder: Path) -> tuple[ConfigError, ...]:
    """Everything that a child process finds wrong with a folder, its cases aside; nothing of a good bundle."""
    try:
        return tuple(map(_error, _ask(folder, _ALL).problems))
    except ConfigError as error:
        return (error,)


def _error(problem: Problem) -> ConfigError:
    return ConfigError(**msgspec.structs.asdict(problem))


def _ask(folder: Path, mode: str) -> Finding:
    try:
        done = subprocess.run(  # noqa: S603  # our own interpreter and module; the folder is one argument
            [sys.executable, "-m", "authz.review.gate", mode, str(folder)],
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
        return msgspec.json.decode(done.stdout, type=Finding)
    except msgspec.DecodeError:
        raise ConfigError(str(folder), f"reading it failed with exit code {done.returncode}") from None


def examine(folder: Path, mode: str) -> Finding:
    """What the child does."""
    if mode == _ALL:
        return Finding(problems=tuple(map(_problem, problems(folder))))
    try:
        bundle = load_bundle(folder)
        if mode == _TESTS:
            suite.refuse_failures(suite.run(bundle))
    except ConfigError as error:
        return Finding(problems=(_problem(error),))
    return Finding(digest=bundle.digest)


def _problem(error: ConfigError) -> Problem:
    return Problem(error.file, error.problem, error.line, error.column, error.excerpt)


def main() -> None:
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_S, _CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    mode, folder = sys.argv[1:]
    sys.stdout.buffer.write(msgspec.json.encode(examine(Path(folder), mode)))


if __name__ == "__main__":
    main()
