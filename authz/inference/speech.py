"""`POST /audio/speech`: text to be spoken. What it costs stands in the request itself."""

from __future__ import annotations

from typing import Final

from authz.inference.fields import model_of, refuse_unknown, wrong
from authz.inference.jsonbody import read_object
from authz.model import Ask

_FREE: Final = frozenset({"response_format", "sample_rate", "speed"})
_READ: Final = frozenset({"input", "model", "voice"})
_KNOWN: Final = _FREE | _READ


def read(body: bytes) -> Ask:
    """The ask of a speech. Raises `Refused` with the parameter at fault."""
    fields = read_object(body)
    refuse_unknown(fields, _KNOWN)
    model = model_of(fields)
    text = fields.get("input")
    if not isinstance(text, str) or not text:
        raise wrong("input", "expected text")
    if not isinstance(fields.get("voice"), str):
        raise wrong("voice", "expected the name of a voice as text")
    return Ask(endpoint="audio.speech", action="speak", models=(model,), input_bytes=len(body), characters=_characters(text))


def _characters(text: str) -> int:
    """UTF-16 code units: what most languages call a character, and never fewer than there are code points."""
    return len(text.encode("utf-16-le")) // 2
