"""The files of a bundle, read once: what is parsed is what was digested.

    schema.cedarschema  *.cedar  directory.yaml  models.yaml  quotas.yaml
    links.yaml (optional)  retired.yaml (optional)  tests/*.yaml (optional)

Nothing in the folder is passed over in silence: a file of another name is an error, for it may be a forbid with a slip in its
name. Hidden files and `*.md` are the exception.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final, NamedTuple

from authz.errors import ConfigError
from authz.yamlfile import MAX_BYTES

SCHEMA: Final = "schema.cedarschema"
DIRECTORY: Final = "directory.yaml"
MODELS: Final = "models.yaml"
QUOTAS: Final = "quotas.yaml"
LINKS: Final = "links.yaml"
RETIRED: Final = "retired.yaml"
TESTS: Final = "tests"

_REQUIRED: Final = (SCHEMA, DIRECTORY, MODELS, QUOTAS)
_NAMES: Final = frozenset({*_REQUIRED, LINKS, RETIRED})
_MAX_FILES: Final = 10_000


class Parts(NamedTuple):
    """The texts by name relative to the folder, sorted, and the digest over names and bytes.

    root  the folder as the operator named it, for messages
    """

    root: str
    texts: dict[str, str]
    digest: str

    def shown(self, name: str) -> str:
        return f"{self.root}/{name}"

    def named(self, prefix: str, suffix: str) -> list[str]:
        return [name for name in self.texts if name.startswith(prefix) and name.endswith(suffix)]


Fingerprint = tuple[tuple[str, int, int, int], ...]
"""Name, inode, size and time of the last change of every file: equal means that nothing needs to be read again."""


def fingerprint(folder: Path) -> Fingerprint | None:
    """None where the folder cannot be looked at; links are followed."""
    found: list[tuple[str, int, int, int]] = []
    try:
        for part in (folder, folder / TESTS):
            if part is folder or part.is_dir():
                for entry in part.iterdir():
                    stat = entry.stat()
                    found.append((str(entry.relative_to(folder)), stat.st_ino, stat.st_size, stat.st_ctime_ns))
    except OSError:
        return None
    return tuple(sorted(found))


def read_parts(folder: Path) -> Parts:
    """Raises `ConfigError` for a file that is missing, cannot be read, or does not belong."""
    root = str(folder).rstrip("/")
    names = sorted(_names(folder, root))
    for required in _REQUIRED:
        if required not in names:
            raise ConfigError(root, f"`{required}` is missing")
    if not any(name.endswith(".cedar") for name in names):
        raise ConfigError(root, "there is no `*.cedar`: without a permit nothing is allowed")
    texts: dict[str, str] = {}
    digest = hashlib.sha256()
    for name in names:
        raw = _bytes(folder / name, f"{root}/{name}")
        for part in (name.encode(), raw):  # lengths first, so that no two bundles run together to the same bytes
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
        try:
            texts[name] = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise ConfigError(f"{root}/{name}", f"not UTF-8 at byte {error.start}") from None
    return Parts(root, texts, f"sha256:{digest.hexdigest()}")


def _names(folder: Path, root: str) -> list[str]:
    found: list[str] = []
    for entry in _entries(folder, root):
        if entry.is_dir():
            if entry.name != TESTS:
                raise ConfigError(f"{root}/{entry.name}", f"an unknown folder, expected no other than `{TESTS}`")
            for case in _entries(entry, f"{root}/{TESTS}"):
                if case.suffix != ".yaml":
                    raise ConfigError(f"{root}/{TESTS}/{case.name}", "does not belong here, expected `*.yaml`")
                found.append(f"{TESTS}/{case.name}")
        elif entry.name in _NAMES or entry.suffix == ".cedar":
            found.append(entry.name)
        else:
            raise ConfigError(f"{root}/{entry.name}", f"does not belong to a bundle, expected {_expected()}")
    return found


def _entries(folder: Path, root: str) -> list[Path]:
    try:
        entries = [entry for entry in folder.iterdir() if not entry.name.startswith(".") and entry.suffix != ".md"]
    except OSError as error:
        raise ConfigError(root, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    if len(entries) > _MAX_FILES:
        raise ConfigError(root, f"{len(entries)} files, expected at most {_MAX_FILES}")
    for entry in entries:
        if not entry.name.isprintable():
            raise ConfigError(root, f"a file with the name {entry.name!r}")
    return entries


def _expected() -> str:
    return ", ".join(f"`{name}`" for name in sorted(_NAMES)) + " or `*.cedar`"


def _bytes(path: Path, shown: str) -> bytes:
    try:
        if not path.is_file():  # a pipe or a device would be waited for, a link to nowhere fails below
            path.stat()
            raise ConfigError(shown, "expected a plain file")
        with path.open("rb") as file:
            raw = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(shown, f"cannot be read: {(error.strerror or str(error)).lower()}") from None
    if len(raw) > MAX_BYTES:
        raise ConfigError(shown, f"more than {MAX_BYTES} bytes")
    return raw
