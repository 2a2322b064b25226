"""A form is read as every parser would have read it: one file, one model, nothing hidden."""

from __future__ import annotations

from email.message import Message
from email.parser import BytesParser

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from authz.errors import Refused
from authz.inference import endpoints
from authz.inference.multipart import boundary_of, read_parts
from authz.model import Ask, Request
from authz.reasons import Reason
from tests.inference import sounds

B = "bOundary-1"
WAV = sounds.wav(2)
PATH = "/openai/v1/audio/transcriptions"


def part(name: str, content: bytes | str, extra: str = "", more: str = "") -> bytes:
    raw = content.encode() if isinstance(content, str) else content
    return f'--{B}\r\nContent-Disposition: form-data; name="{name}"{extra}\r\n{more}\r\n'.encode() + raw + b"\r\n"


MODEL = part("model", "whisper-large-v3")
FILE = part("file", WAV, '; filename="a.wav"', "Content-Type: audio/wav\r\n")
END = f"--{B}--\r\n".encode()


def ask(body: bytes, content_type: str = f"multipart/form-data; boundary={B}", path: str = PATH) -> Ask:
    return endpoints.read(Request("POST", path, (("content-type", content_type),), body))


def refused(body: bytes, content_type: str = f"multipart/form-data; boundary={B}") -> Refused:
    with pytest.raises(Refused) as caught:
        ask(body, content_type)
    return caught.value


def test_an_upload_is_asked_for_by_its_model_and_its_seconds() -> None:
    found = ask(MODEL + FILE + part("language", "en") + part("timestamp_granularities[]", "word") * 2 + END)
    assert found == Ask(
        "audio.transcriptions", "transcribe", ("whisper-large-v3",), input_bytes=found.input_bytes, audio_seconds=2
    )
    translated = ask(FILE + MODEL + END, path="/openai/v1/audio/translations")
    assert (translated.action, translated.models, translated.audio_seconds) == ("translate", ("whisper-large-v3",), 2)


def test_what_the_clients_library_writes_is_read() -> None:
    request = httpx.Request(
        "POST",
        "http://x",
        data={"model": "whisper-large-v3", "response_format": "json"},
        files={"file": ('a "b" ü.wav', WAV, "audio/wav")},
    )
    assert ask(request.read(), request.headers["content-type"]).models == ("whisper-large-v3",)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        (MODEL + MODEL + FILE + END, "model"),
        (MODEL + FILE + FILE + END, "file"),
        (FILE + END, "model"),
        (MODEL + END, "file"),
        (part("model", "") + FILE + END, "model"),
        (MODEL + FILE + part("Model", "x") + END, "Model"),
        (MODEL + FILE + part("model ", "x") + END, "model "),
        (MODEL + FILE + part("_charset_", "utf-7") + END, "_charset_"),
        (MODEL + FILE + part("language", "en") * 2 + END, "language"),
        (MODEL + FILE + part("prompt", "x" * 5000) + END, "prompt"),
        (part("model", b"\xff\xfe") + FILE + END, "model"),
        (part("model", "whisper-large-v3", '; filename="m"') + FILE + END, "model"),
        (part("model", "whisper-large-v3", more="Content-Type: text/plain; charset=utf-16\r\n") + FILE + END, "model"),
        (MODEL + part("file", WAV) + END, "file"),
        (MODEL + part("file", b"not audio", '; filename="a.wav"') + END, "file"),
        (MODEL + part("file", WAV, '; filename="a"', "Content-Type: multipart/mixed; boundary=x\r\n") + END, "file"),
    ],
)
def test_a28_a_part_too_many_too_few_or_of_the_wrong_kind_is_400(body: bytes, param: str) -> None:
    found = refused(body)
    assert (found.reason, found.param) == (Reason.INVALID_REQUEST, param)


def test_a6_a_file_above_25_mib_is_413() -> None:
    sound = sounds.wav(297, rate=44_100)
    sound += bytes(25 * 1024 * 1024 - len(sound))
    assert ask(MODEL + part("file", sound, '; filename="a.wav"') + END).audio_seconds == 297
    found = refused(MODEL + part("file", sound + b"\0", '; filename="a.wav"') + END)
    assert (found.reason, found.param) == (Reason.REQUEST_TOO_LARGE, "file")


def test_a31_an_address_is_not_bounded() -> None:
    assert refused(MODEL + part("url", "http://x/a.wav") + END).reason is Reason.MODEL_NOT_PRICED


TRICKS = {
    "no end": MODEL + FILE,
    "half an end": MODEL + FILE + END[:-3],
    "a preamble": b"hello\r\n" + MODEL + FILE + END,
    "a line before": b"\r\n" + MODEL + FILE + END,
    "an epilogue": MODEL + FILE + END + MODEL,
    "two line ends": MODEL + FILE + END + b"\r\n",
    "bare line feeds": (MODEL + FILE + END).replace(b"\r\n", b"\n"),
    "one bare line feed": MODEL.replace(b"\r\n\r\n", b"\n\n") + FILE + END,
    "padding behind the boundary": MODEL.replace(b"bOundary-1\r\n", b"bOundary-1 \r\n") + FILE + END,
    "the boundary inside, without its line break": MODEL + part("prompt", f"x--{B}\r\n") + FILE + END,
    "a longer boundary": MODEL + f"--{B}x\r\n".encode() + FILE + END,
    "a folded header": MODEL.replace(b"form-data;", b"form-data;\r\n ") + FILE + END,
    "a tab after the colon": MODEL.replace(b": form", b":\tform") + FILE + END,
    "two spaces after the colon": MODEL.replace(b": form", b":  form") + FILE + END,
    "no space after the colon": MODEL.replace(b": form", b":form") + FILE + END,
    "two dispositions": MODEL.replace(b"\r\n\r\n", b'\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n') + FILE + END,
    "a transfer encoding": MODEL.replace(b"\r\n\r\n", b"\r\nContent-Transfer-Encoding: base64\r\n\r\n") + FILE + END,
    "no disposition": f"--{B}\r\n\r\nx\r\n".encode() + MODEL + FILE + END,
    "two names": MODEL + part("prompt", "x", '; name="model"') + FILE + END,
    "a name within a filename": MODEL + part("file", WAV, '; filename="a\\"; name=\\"model"') + END,
    "an encoded name": MODEL.replace(b'name="model"', b"name*=utf-8''model") + FILE + END,
    "a name without quotes": MODEL.replace(b'"model"', b"model") + FILE + END,
    "a name in other quotes": MODEL.replace(b'"model"', b"'model'") + FILE + END,
    "an encoded filename beside it": MODEL + part("file", WAV, "; filename=\"a\"; filename*=utf-8''b") + END,
    "an escaped end of a filename": MODEL + part("file", WAV, '; filename="a\\"') + END,
    "two content types": MODEL + part("file", WAV, '; filename="a"', "Content-Type: a/b\r\ncontent-type: c/d\r\n") + END,
    "a NUL in a header": MODEL.replace(b'"model"', b'"model\0"') + FILE + END,
    "a header that is not UTF-8": MODEL + part("file", WAV, '; filename="a"').replace(b'"a"', b'"\xff"') + END,
    "too many headers": MODEL.replace(b"\r\n\r\n", b"\r\nA: b\r\nA: b\r\nA: b\r\nA: b\r\n\r\n") + FILE + END,
    "a large header": MODEL + part("file", WAV, f'; filename="{"a" * 600}"') + END,
    "too many parts": MODEL + FILE + part("timestamp_granularities[]", "word") * 15 + END,
    "nothing": b"",
    "only an end": END,
    "JSON": b'{"model":"whisper-large-v3"}',
}


@pytest.mark.parametrize("name", TRICKS)
def test_a28_what_parsers_disagree_on_is_400(name: str) -> None:
    assert refused(TRICKS[name]).reason is Reason.INVALID_REQUEST


SAID = {
    "two line ends": "it is not in the form that every parser reads alike: no preamble, no padding, lines end in CR LF, an end",
    "the boundary inside, without its line break": "the boundary stands where no part begins or ends",
    "a transfer encoding": "a part has a header other than one Content-Disposition and one Content-Type",
    "a header that is not UTF-8": "a part's header is not UTF-8",
    "no disposition": 'expected parts with `Content-Disposition: form-data; name="…"`, a file with `; filename="…"` after it',
    "too many parts": "it has more than 16 parts",
    "a preamble": "it is not multipart/form-data: expected boundary character 45, got 104 at index 2",
}


@pytest.mark.parametrize("name", SAID)
def test_a_refusal_says_what_is_wrong(name: str) -> None:
    body = MODEL + TRICKS[name] if name == "a header that is not UTF-8" else TRICKS[name]
    with pytest.raises(Refused) as caught:
        read_parts(body, B)
    assert caught.value.message == f"We could not parse the body of your request: {SAID[name]}."


@pytest.mark.parametrize("end", [b"--", b"--\r\n"])
def test_both_ends_that_clients_write_are_taken(end: bytes) -> None:
    assert [each.content for each in read_parts(part("model", "") + part("prompt", "x") + f"--{B}".encode() + end, B)] == [
        b"",
        b"x",
    ]


def test_as_many_headers_as_a_part_may_have_and_no_more() -> None:
    with pytest.raises(Refused, match="it is not multipart"):
        read_parts(MODEL.replace(b"\r\n\r\n", b"\r\n" + b"A: b\r\n" * 4 + b"\r\n") + END, B)


@pytest.mark.parametrize(
    "content_type",
    [
        "",
        "application/json",
        "multipart/form-data",
        "multipart/mixed; boundary=" + B,
        "multipart/form-data; boundary=",
        "multipart/form-data; boundary=" + "b" * 71,
        "multipart/form-data; boundary=b b",
        'multipart/form-data; boundary="b\\"b"',
        "multipart/form-data; boundary=a; boundary=b",
        "multipart/form-data; boundary=a,b",
        "multipart/form-data; charset=utf-8; boundary=a",
        "multipart/form-data; boundary*=utf-8''a",
        'multipart/form-data; boundary="a',
    ],
)
def test_a27_a_content_type_that_can_be_read_in_two_ways_is_415(content_type: str) -> None:
    assert refused(MODEL + FILE + END, content_type).reason is Reason.UNSUPPORTED_MEDIA_TYPE


def test_the_usual_ways_to_write_a_boundary_are_taken() -> None:
    for written in (B, f'"{B}"', f"{B} "):
        assert boundary_of(f"Multipart/Form-Data;  Boundary={written}") == B
    assert boundary_of("multipart/form-data; boundary=" + "b" * 70) == "b" * 70
    assert boundary_of('multipart/form-data; boundary="b"') == "b"
    for empty in ('"', '""', "a=b"):
        assert boundary_of(f"multipart/form-data; boundary={empty}") is None
    assert boundary_of("multipart/form-data; x=boundary=b") is None
    assert boundary_of("multipart/form-data;XXboundary=b") is None


_names = st.sampled_from(["model", "file", "prompt", "x"])
_piece = st.sampled_from([b"\r\n", b"\n", b"--", b"--" + B.encode(), MODEL, END, b"\0", b'"', b": ", b" "]) | st.binary(
    max_size=8
)


@given(st.lists(st.tuples(_names, st.binary(max_size=40)), min_size=1, max_size=4), st.integers(0, 400), _piece)
def test_whatever_it_reads_another_parser_reads_alike(fields: list[tuple[str, bytes]], place: int, piece: bytes) -> None:
    """The standard library's parser of mail is as lenient as any: what ours takes at all, that one takes the same way."""
    body = b"".join(part(name, content) for name, content in fields) + END
    body = body[:place] + piece + body[place:]
    try:
        found = read_parts(body, B)
    except Refused:
        return
    head = f"Content-Type: multipart/form-data; boundary={B}\r\n\r\n".encode()
    parsed = BytesParser().parsebytes(head + body)
    assert [each.name for each in found] == [_name(other) for other in parsed.walk() if other is not parsed]


def _name(other: Message) -> object:
    return other.get_param("name", header="content-disposition")
