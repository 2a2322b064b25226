"""Uploads, with the content type that they come with: one file and one model, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from email import message_from_bytes
from typing import Final

from authz.errors import Refused
from authz.inference import endpoints
from authz.model import Request
from tests.inference import sounds

_PATHS: Final = ("/openai/v1/audio/transcriptions", "/openai/v1/audio/translations")
_TYPE: Final = b"multipart/form-data; boundary=b"


def _part(name: str, content: bytes, more: str = "") -> bytes:
    return f'--b\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + content + b"\r\n"


def _form(sound: bytes, *more: bytes) -> bytes:
    parts = (_part("model", b"whisper-large-v3"), *more, _part("file", sound, '; filename="a"'))
    return _TYPE + b"\n" + b"".join(parts) + b"--b--\r\n"


SEEDS: Final = (
    _form(sounds.wav(0.01)),
    _form(sounds.mp3(2)),
    _form(sounds.flac(1.0)),
    _form(sounds.wav(0.01), _part("language", b"en"), _part("timestamp_granularities[]", b"word")),
    _form(sounds.wav(0.01), _part("model", b"m")),
    _form(b"not audio"),
    _TYPE + b"\n" + b"--b--\r\n",
    b'multipart/form-data; boundary="a.b"\n--a.b\r\n\r\n',
)


def target() -> Callable[[bytes], str]:
    def one(data: bytes) -> str:
        """A content type, a line feed, a body."""
        kind, _, body = data.partition(b"\n")
        text = kind.decode("latin-1")
        path = _PATHS[len(body) % 2]
        try:
            ask = endpoints.read(Request("POST", path, (("content-type", text),), body))
        except Refused as refused:
            return refused.reason.value
        other = message_from_bytes(b"content-type: " + kind + b"\r\n\r\n" + body)
        models = [
            part.get_payload(decode=True)
            for part in other.walk()
            if part.get_param("name", header="content-disposition") == "model"
        ]
        assert [model.decode() for model in models if isinstance(model, bytes)] == [ask.models[0]], "read in two ways"
        return ask.action

    return one
