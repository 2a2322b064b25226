"""A bundle takes the place of the one in the folder, by somebody who may, and on record as their deed.

First it is proved: permitted, good, without a forbid that is lost. Then it is put on record, and last into the folder, so that
a sidecar that sees it there finds it told of already.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from authz import audit
from authz.administration import PUBLISH, Administrator
from authz.bundle import Bundle
from authz.bundle.current import refuse_lost_forbids
from authz.bundle.files import read_parts
from authz.errors import ConfigError
from authz.identity.issuing import record
from authz.identity.keys import IssuedKey, KeyStore
from authz.published import act
from authz.review import gate

NEXT: Final = ".next"
BEFORE: Final = ".before"
"""Beside the folder: what is about to take its place, and what it was before, for whoever has to go back."""

Planned = tuple[tuple[IssuedKey, ...], audit.Act]


def publish(
    new: Path, place: Path, current: Bundle, store: KeyStore, administrator: Administrator, *, login: str, why: str
) -> Bundle:
    """What is in `place` from now on; the same bundle as before changes nothing and is not recorded.

    place    the folder of the settings. One that is a link is turned to a new folder in one step; any other is moved aside, and
             a sidecar that looks at that very moment keeps the bundle that it has
    current  the bundle that is there: its policies decide who may
    Raises `NotPermitted`, `ConfigError` for a bundle that is not good or a folder that cannot be written, `StoreUnavailable`.
    """
    administrator.require(PUBLISH, current.directory.organisation)
    bundle = gate.admit(new)
    refuse_lost_forbids(new, current, bundle)
    if bundle.digest == current.digest:
        return current
    staged = _staged(new, place, bundle)
    try:

        def planned(before: Bundle, after: Bundle, why: str) -> Callable[[], Planned]:
            who, now_ns = str(administrator.uid), administrator.now_ns
            said = act(before, after, before.digest, at_ns=now_ns, who=who, login=login, why=why)
            return lambda: ((), said)

        record(store, planned(current, bundle, why))
        try:
            _put(staged, place, bundle)
        except OSError as error:
            record(store, planned(bundle, current, "it could not be put in its place"))
            raise _unwritable(place, error) from None
    finally:
        shutil.rmtree(staged, ignore_errors=True)
    return bundle


def _staged(new: Path, place: Path, bundle: Bundle) -> Path:
    """A copy of what was proved and of nothing else, beside its place. Whoever publishes at the same time is refused here."""
    staged = _beside(place, NEXT)
    try:
        staged.mkdir()
    except FileExistsError:
        raise ConfigError(
            str(staged), "is there already: another publishes at this moment, or was cut off; then remove it"
        ) from None
    except OSError as error:
        raise _unwritable(place, error) from None
    try:
        parts = read_parts(new)
        if parts.digest != bundle.digest:
            raise ConfigError(str(new), "changed while it was read")
        for name, text in parts.texts.items():
            file = staged / name
            file.parent.mkdir(exist_ok=True)
            file.write_bytes(text.encode())
    except OSError as error:
        shutil.rmtree(staged, ignore_errors=True)
        raise _unwritable(place, error) from None
    except ConfigError:
        shutil.rmtree(staged, ignore_errors=True)
        raise
    return staged


def _put(staged: Path, place: Path, bundle: Bundle) -> None:
    if place.is_symlink():
        versioned = _beside(place, f".{bundle.digest.removeprefix('sha256:')[:12]}")
        shutil.rmtree(versioned, ignore_errors=True)
        staged.rename(versioned)
        link = _beside(place, ".link")
        link.unlink(missing_ok=True)
        link.symlink_to(versioned.name)
        link.replace(place)
        return
    before = _beside(place, BEFORE)
    shutil.rmtree(before, ignore_errors=True)
    place.rename(before)
    try:
        staged.rename(place)
    except OSError:
        before.rename(place)
        raise


def _beside(place: Path, suffix: str) -> Path:
    return place.with_name(place.name + suffix)


def _unwritable(place: Path, error: OSError) -> ConfigError:
    return ConfigError(str(place), f"cannot be replaced: {(error.strerror or str(error)).lower()}")
