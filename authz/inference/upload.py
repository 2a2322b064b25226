"""`POST /audio/transcriptions` and `/audio/translations`: a form with one file and one model."""

from __future__ import annotations

from typing import Final

from authz.errors import Refused
from authz.inference import audio
from authz.inference.fields import shown, unknown, unpriced, wrong
from authz.inference.multipart import Part, read_parts
from authz.model import Ask
from authz.reasons import Reason

MAX_FILE_BYTES: Final = 25 * 1024 * 1024
"""Groq's own."""

MAX_FIELD_BYTES: Final = 4096

_FREE: Final = frozenset({"language", "prompt", "response_format", "temperature"})
_REPEATED: Final = frozenset({"timestamp_granularities", "timestamp_granularities[]"})
_FIELD_TYPES: Final = frozenset({"", "text/plain", "text/plain;charset=utf-8"})


def read(body: bytes, boundary: str, *, endpoint: str, action: str) -> Ask:
    """The ask of an upload. Raises `Refused` with the part at fault."""
    files: list[bytes] = []
    models: list[str] = []
    once: set[str] = set()
    for part in read_parts(body, boundary):
        if part.name in once:
            raise wrong(shown(part.name), "stands twice")
        if part.name not in _REPEATED:
            once.add(part.name)
        if part.name == "file":
            files.append(_file(part))
        elif part.name == "url":
            raise unpriced("url", "what stands behind an address cannot be bounded here: upload the file")
        elif part.name == "model":
            models.append(_text(part))
        elif part.name in _FREE or part.name in _REPEATED:
            _text(part)
        else:
            raise unknown(part.name)
    if not files:
        raise wrong("file", "expected one file")
    if not models or not models[0]:
        raise wrong("model", "expected the name of a model as text")
    return Ask(
        endpoint=endpoint,
        action=action,
        models=(models[0],),
        input_bytes=len(body),
        audio_seconds=audio.seconds(files[0]),
    )


def _file(part: Part) -> bytes:
    if part.filename is None or part.content_type.lower().startswith(("multipart/", "message/")):
        raise wrong("file", "expected a file with a name")
    if len(part.content) > MAX_FILE_BYTES:
        raise Refused(Reason.REQUEST_TOO_LARGE, f"`file`: larger than {MAX_FILE_BYTES // 1024 // 1024} MiB.", param="file")
    return part.content


def _text(part: Part) -> str:
    if part.filename is not None or part.content_type.lower().replace(" ", "") not in _FIELD_TYPES:
        raise wrong(part.name, "expected a plain field, not a file")
    if len(part.content) > MAX_FIELD_BYTES:
        raise wrong(part.name, f"expected at most {MAX_FIELD_BYTES} bytes")
    try:
        return part.content.decode("utf-8")
    except UnicodeDecodeError:
        raise wrong(part.name, "expected UTF-8 text") from None
