"""The length of an upload is the upload's own, and never less than its size allows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.errors import Refused
from authz.inference import audio
from authz.reasons import Reason
from tests.inference import sounds

ID3 = b"ID3\x04\x00\x00\x00\x00\x00\x0a" + bytes(10)


@pytest.mark.parametrize(
    ("upload", "expected"),
    [
        (sounds.wav(3), 3),
        (sounds.wav(3.01), 4),
        (sounds.wav(0.01), 1),
        (sounds.wav(2, rate=44_100, channels=2), 2),
        (sounds.mp3(100), 3),  # 2.61 s
        (ID3 + sounds.mp3(100), 3),
        (sounds.flac(12.5), 13),
        (sounds.opus(7.2), 8),
        (sounds.mp4(61.5), 62),
    ],
)
def test_seconds_are_those_of_the_upload_rounded_up(upload: bytes, expected: int) -> None:
    assert audio.seconds(upload) == expected


@pytest.mark.parametrize(
    ("upload", "at_least"),
    [
        (sounds.flac(1, padding=3_200_000), 100),  # 32,000 bytes a second without any coding
        (sounds.opus(1, padding=640_000), 10),
        (sounds.mp4(1) + bytes(640_000), 10),
        (sounds.wav(50)[:40] + (16_000).to_bytes(4, "little") + bytes(800_000), 50),  # its header says one second
    ],
)
def test_a_header_cannot_say_less_than_the_size(upload: bytes, at_least: int) -> None:
    assert audio.seconds(upload) >= at_least


@pytest.mark.parametrize(
    "upload",
    [
        b"",
        b"hello",
        b"\x1a\x45\xdf\xa3" + bytes(400),  # webm
        b"FORM\0\0\0\x20AIFF" + bytes(40),
        b"RIFF\x24\0\0\0WAVE",
        # ADPCM: more seconds than its bytes say
        sounds.wav(1).replace(b"\x01\x00\x01\x00", b"\x11\x00\x01\x00", 1) + b"fact\x04\0\0\0\x40\x1f\0\0",
        sounds.wav(1) + b"fmt \x10\0\0\0" + sounds.wav(1, rate=192_000, channels=8)[20:36],  # described twice
        sounds.wav(1)[:24] + (2**31).to_bytes(4, "little") + sounds.wav(1)[28:],  # 2 GHz: no time at all
        sounds.flac(0),
        sounds.flac(1, rate=1),
        sounds.mp4(0),
        sounds.mp4(4_000_000),
        ID3 + sounds.flac(1),  # a tag before another format: two readers, two formats
        ID3 + sounds.flac(1000) + sounds.mp3(100),
        ID3,
        (b"\xff\xfd\x90\x00" + bytes(413)) * 100,  # layer II
        b"\xff\xf1\x50\x80" + bytes(400),  # ADTS AAC
        b"OggS" + bytes(100),
        b"fLaC",
    ],
)
def test_what_cannot_be_read_is_denied(upload: bytes) -> None:
    with pytest.raises(Refused) as caught:
        audio.seconds(upload)
    assert (caught.value.reason, caught.value.param) == (Reason.INVALID_REQUEST, "file")


@pytest.mark.parametrize(
    "crumbs",
    [
        b"fLaC" + b"\x01\0\0\0" * 500_000,
        b"RIFF\0\0\0\0WAVE" + b"junk\0\0\0\0" * 500_000,
        sounds.opus(1) + sounds.opus(0)[-48:] * 200_000,
        sounds.mp3(1) + b"\xff" * 2_000_000,
    ],
)
def test_a_file_of_crumbs_is_denied_before_it_holds_everybody_up(crumbs: bytes) -> None:
    with pytest.raises(Refused, match="length cannot be read"):
        audio.seconds(crumbs)


_STARTS = [
    sounds.wav(0.1),
    sounds.mp3(4),
    sounds.flac(1),
    sounds.opus(1),
    sounds.mp4(1),
    b"RIFF",
    b"fLaC",
    b"OggS",
    b"\0\0\0 ftyp",
]


@given(st.sampled_from(_STARTS), st.integers(0, 400), st.binary(max_size=60), st.binary(max_size=60))
def test_any_bytes_have_a_length_or_one_declared_refusal(start: bytes, place: int, middle: bytes, end: bytes) -> None:
    upload = start[:place] + middle + start[place + len(middle) :] + end
    try:
        outcome: object = audio.seconds(upload)
    except Refused as refused:
        outcome = refused.reason
    assert outcome is Reason.INVALID_REQUEST or (isinstance(outcome, int) and 1 <= outcome <= audio.MAX_SECONDS)
