"""Small uploads of every format, made here: their headers say what a test wants them to say."""

from __future__ import annotations

import io
import struct
import wave
import zlib


def wav(seconds: float, *, rate: int = 8000, channels: int = 1) -> bytes:
    """Silence in plain PCM of 16 bits."""
    made = io.BytesIO()
    with wave.open(made, "wb") as file:
        file.setnchannels(channels)
        file.setsampwidth(2)
        file.setframerate(rate)
        file.writeframes(bytes(int(seconds * rate) * channels * 2))
    return made.getvalue()


def mp3(frames: int) -> bytes:
    """So many frames of MPEG-1 layer III, 128 kbit/s at 44.1 kHz: 1152 samples in 417 bytes each."""
    return (b"\xff\xfb\x90\x00" + bytes(413)) * frames


def flac(seconds: float, *, rate: int = 16_000, padding: int = 0) -> bytes:
    """A header that claims so many seconds of 16 bits, one channel, and bytes behind it."""
    samples = int(seconds * rate)
    packed = rate << 44 | 0 << 41 | 15 << 36 | samples
    info = struct.pack(">HH3s3sQ16s", 4096, 4096, b"", b"", packed, b"")
    return b"fLaC" + b"\x80" + len(info).to_bytes(3, "big") + info + bytes(padding)


def opus(seconds: float, *, padding: int = 0) -> bytes:
    """An Ogg stream whose last page says so many seconds."""
    head = b"OpusHead" + struct.pack("<BBHIhB", 1, 1, 0, 48_000, 0, 0)
    tags = b"OpusTags" + struct.pack("<I", 0) + struct.pack("<I", 0)
    pages = [(2, 0, head), (0, 0, tags)]
    pages += [(0, 48_000, bytes(200)) for _ in range(padding // 200)]
    pages.append((4, int(seconds * 48_000), bytes(20)))
    return b"".join(_page(kind, granule, number, data) for number, (kind, granule, data) in enumerate(pages))


def _page(kind: int, granule: int, number: int, data: bytes) -> bytes:
    header = struct.pack("<4sBBqIIIB", b"OggS", 0, kind, granule, 1, number, 0, 1) + bytes([len(data)])
    return header[:22] + struct.pack("<I", zlib.crc32(header + data)) + header[26:] + data


def mp4(seconds: float) -> bytes:
    """An MP4 whose movie header says so many seconds."""
    mvhd = _box(b"mvhd", bytes(12) + struct.pack(">II", 1000, int(seconds * 1000)) + bytes(80))
    return _box(b"ftyp", b"M4A \0\0\0\0M4A ") + _box(b"moov", mvhd) + _box(b"mdat", bytes(100))


def _box(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content) + 8) + name + content
