"""How long an upload of audio is, from the upload itself: what is billed by the second is bounded by nothing else.

A library reads the length that the file states. A file may state less than it holds, so its size has a say too: no format has
more bytes a second than its densest coding, hence so many bytes are at least so many seconds, and the longer of the two counts.
What cannot be read, and a format that the library does not know, is denied.

What this does not rule out: a header forged so that a thin coding looks like the densest of its format, an MP3 of 8 kbit/s that
claims 320, or silence in a FLAC. A quota of requests beside the one of seconds bounds what that is worth.
"""

from __future__ import annotations

import io
import math
from typing import Final

from tinytag import TinyTag, TinyTagException

from authz.errors import Refused
from authz.reasons import Reason

MAX_SECONDS: Final = 7 * 24 * 3600
"""Beyond any upload that Groq takes."""

_DENSEST_BYTES_PER_S: Final = {"mp3": 40_000, "ogg": 64_000, "mp4": 64_000}
"""MP3 ends at 320 kbit/s; Opus, Vorbis and AAC at 512 kbit/s for two channels."""

MAX_STEPS: Final = 150_000
"""Far more than a file takes whose pieces have the usual sizes; one of crumbs would hold everybody up for seconds."""

_PCM_RATES: Final = range(8_000, 192_001)
_PCM_CHANNELS: Final = range(1, 9)
_PCM_BITS: Final = frozenset({8, 16, 24, 32})


def seconds(upload: bytes) -> int:
    """Length of the audio, rounded up, at least 1. Raises `Refused` (`invalid_request_error`) where it cannot be read."""
    kind = _kind(upload)
    if kind is None:
        raise _refused("its format is not one whose length can be read: expected flac, mp3, mp4, m4a, ogg, opus or wav")
    try:
        tag = TinyTag.get(file_obj=_Stepped(upload), tags=False, duration=True)
    # The library documents its own errors; on bytes that are not what they claim it also lets Python's own out.
    except (
        TinyTagException,
        ValueError,
        LookupError,
        ArithmeticError,
        OSError,
        TypeError,
        AttributeError,
        MemoryError,
    ) as error:
        raise _refused(f"its length cannot be read ({type(error).__name__})") from None
    stated = tag.duration
    if stated is None or not math.isfinite(stated) or not 0 < stated <= MAX_SECONDS:
        raise _refused("it does not say how long it is")
    per_s = _DENSEST_BYTES_PER_S.get(kind) or _pcm_bytes_per_s(tag, upload if kind == "wav" else b"")
    return max(1, math.ceil(stated), len(upload) // per_s)


class _Stepped(io.BytesIO):
    """A file that can be read in so many steps and no more."""

    steps = 0

    def read(self, size: int | None = -1, /) -> bytes:
        self.steps += 1
        if self.steps > MAX_STEPS:
            raise ValueError("too many pieces")
        return super().read(size)


def _kind(upload: bytes) -> str | None:
    """By the first bytes, as decoders do; a name or a content type says nothing."""
    if upload.startswith(b"RIFF") and upload[8:12] == b"WAVE":
        return "wav"
    if upload.startswith(b"fLaC"):
        return "flac"
    if upload.startswith(b"OggS"):
        return "ogg"
    if upload[4:8] == b"ftyp":
        return "mp4"
    start = 0
    if upload.startswith(b"ID3") and len(upload) > 10:
        # A tag before the audio: its size in four bytes of seven bits. What follows has to be MPEG audio and nothing else.
        start = 10 + sum((byte & 0x7F) << shift for byte, shift in zip(upload[6:10], (21, 14, 7, 0), strict=True))
        start += 10 if upload[5] & 0x10 else 0
    sync = upload[start : start + 2]
    return "mp3" if len(sync) == 2 and sync[0] == 0xFF and sync[1] & 0xE6 == 0xE2 else None  # layer III


def _pcm_bytes_per_s(tag: TinyTag, wav: bytes) -> int:
    """Of the sound without any coding: a WAV is that, and a FLAC is never larger."""
    rate, channels, bits = tag.samplerate or 0, tag.channels or 0, tag.bitdepth or 0
    if wav and (not tag.is_lossless or wav.count(b"fmt ") != 1):
        raise _refused("a wav has to hold plain PCM, described once")
    if rate not in _PCM_RATES or channels not in _PCM_CHANNELS or bits not in _PCM_BITS:
        raise _refused("its rate, channels or sample size are none that audio has")
    return rate * channels * bits // 8


def _refused(problem: str) -> Refused:
    return Refused(Reason.INVALID_REQUEST, f"`file`: {problem}.", param="file")
