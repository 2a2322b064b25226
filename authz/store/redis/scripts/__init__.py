"""The Lua scripts: one call a decision. Each says in its first lines which keys it uses and which parts it is built from.

```lua
--! keys: counters meta        these become the locals COUNTERS and META
--! with: moment tally         the text of moment.lua and tally.lua stands in front
```
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from importlib.resources import files
from typing import Final

from msgspec import Struct

_KEYS: Final = "--! keys:"
_WITH: Final = "--! with:"


class Script(Struct, frozen=True):
    """sha is what Redis calls the text; keys are in the order of `KEYS`."""

    text: str
    sha: str
    keys: tuple[str, ...]


@lru_cache(maxsize=64)
def load(name: str) -> Script:
    source = _read(name)
    keys = _words(source, _KEYS)
    declared = f"local {', '.join(key.upper() for key in keys)} = {', '.join(f'KEYS[{at + 1}]' for at in range(len(keys)))}\n"
    text = declared + "".join(_read(part) for part in _words(source, _WITH)) + source
    return Script(text, hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest(), keys)


def _words(source: str, label: str) -> tuple[str, ...]:
    return next((tuple(line.removeprefix(label).split()) for line in source.splitlines() if line.startswith(label)), ())


def _read(name: str) -> str:
    return files(__name__).joinpath(f"{name}.lua").read_text("utf-8")
