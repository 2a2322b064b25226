"""`POST /embeddings`: texts to be embedded, each on its own."""

from __future__ import annotations

from typing import Any, Final

from authz.inference.fields import model_of, refuse_unknown, wrong
from authz.inference.jsonbody import read_object
from authz.model import Ask

MAX_INPUTS: Final = 2048

_FREE: Final = frozenset({"dimensions", "encoding_format", "user"})
_READ: Final = frozenset({"input", "model"})
_KNOWN: Final = _FREE | _READ


def read(body: bytes) -> Ask:
    """The ask of an embedding. Raises `Refused` with the parameter at fault."""
    return of(read_object(body), len(body))


def of(fields: dict[str, Any], size: int) -> Ask:
    """The same from its fields, which were `size` bytes at most."""
    refuse_unknown(fields, _KNOWN)
    return Ask(
        endpoint="embeddings",
        action="embed",
        models=(model_of(fields),),
        input_bytes=size,
        inputs=_inputs(fields.get("input")),
    )


def _inputs(given: Any) -> int:
    """How many texts there are. Lists of token numbers are not taken: what a number stands for is the upstream's to say."""
    if isinstance(given, str) and given:
        return 1
    if not isinstance(given, list) or not 1 <= len(given) <= MAX_INPUTS or not all(isinstance(each, str) for each in given):
        raise wrong("input", f"expected text or a list of 1 to {MAX_INPUTS} texts")
    return len(given)
