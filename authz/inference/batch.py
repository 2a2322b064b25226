"""Batches: the file of requests that one is made from, the call that makes it, and what names a file or a batch by its id.

A file is read as strictly as the requests in it would be alone: every line is one JSON object on one line for every reader,
with exactly the four keys below, and its body goes through the same reader as the endpoint's own. All lines ask one endpoint
and one model, since a batch is one reservation and a reservation has one price.

    {"custom_id": "…", "method": "POST", "url": "/v1/chat/completions", "body": {…}}
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from msgspec import structs

from authz.errors import Refused
from authz.inference import chat, embeddings, responses
from authz.inference.fields import refuse_unknown, shown, wrong
from authz.inference.jsonbody import read_object
from authz.model import Ask
from authz.reasons import Reason

if TYPE_CHECKING:
    from authz.inference.multipart import Part

MAX_FILE_BYTES: Final = 3 * 1024 * 1024
"""Of JSON: what a parser reads while others wait."""

MAX_LINES: Final = 2_000
"""Every line is authorised for itself, while others wait."""

MAX_ID: Final = 128
CREATE: Final = "batches.create"
UPLOAD: Final = "files.create"

_URLS: Final[dict[str, Callable[[dict[str, Any], int], Ask]]] = {
    "/v1/chat/completions": chat.of,
    "/v1/responses": responses.of,
    "/v1/embeddings": embeddings.of,
}
"""Whose cost is in tokens. Audio in a batch comes as an address, and nothing bounds what stands behind one."""

_EXPECTED_URL: Final = f"expected {', '.join(_URLS)}"
_LINE_KEYS: Final = frozenset({"body", "custom_id", "method", "url"})
_CREATE_KEYS: Final = frozenset({"completion_window", "endpoint", "input_file_id", "metadata"})
_ID: Final = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz-_")
_OTHER_BREAKS: Final = ("\r", "\v", "\f", "\x1c", "\x1d", "\x1e", "\x85", "\u2028", "\u2029")
"""What some readers take for the end of a line and others do not. In JSON text each can be written as an escape."""

_UNITS_S: Final = {"h": 3600, "d": 86_400}
_MAX_WINDOW_S: Final = 7 * 86_400


def read_upload(body: bytes, boundary: str) -> Ask:
    """The ask of `POST /files`: one file, to be a batch. Raises `Refused` with the part, and the line, at fault."""
    from authz.inference.multipart import read_parts  # who never takes an upload never loads what reads one

    found: dict[str, Part] = {}
    for part in read_parts(body, boundary):
        if part.name not in ("file", "purpose"):
            raise wrong(shown(part.name), "expected `file` and `purpose` and nothing else")
        if part.name in found:
            raise wrong(part.name, "stands twice")
        found[part.name] = part
    if "purpose" not in found or found["purpose"].filename is not None or found["purpose"].content != b"batch":
        raise wrong("purpose", "expected `batch`: other files are not taken here")
    if "file" not in found or found["file"].filename is None:
        raise wrong("file", "expected one file with a name")
    return _file(found["file"].content)


def read_create(body: bytes) -> Ask:
    """The ask of `POST /batches`. Raises `Refused` with the parameter at fault."""
    fields = read_object(body)
    refuse_unknown(fields, _CREATE_KEYS)
    file = fields.get("input_file_id")
    if not isinstance(file, str) or not is_id(file):
        raise wrong("input_file_id", "expected the id of a file")
    url = fields.get("endpoint")
    if not isinstance(url, str) or url not in _URLS:
        raise wrong("endpoint", _EXPECTED_URL)
    metadata = fields.get("metadata")
    if metadata is not None and not isinstance(metadata, dict):
        raise wrong("metadata", "expected an object")
    return Ask(CREATE, "batch", (), named=file, url=url, window_s=_window_s(fields.get("completion_window")))


def is_id(text: str) -> bool:
    """Whether a file or a batch can be called so: nothing that a path or another reader could take for more."""
    return 0 < len(text) <= MAX_ID and _ID.issuperset(text)


def _window_s(given: Any) -> int:
    if isinstance(given, str) and given[-1:] in _UNITS_S and given[:-1].isascii() and given[:-1].isdigit() and len(given) <= 4:
        seconds = int(given[:-1]) * _UNITS_S[given[-1]]
        if 3600 <= seconds <= _MAX_WINDOW_S:
            return seconds
    raise wrong("completion_window", "expected a time from `1h` to `7d`, as `24h`")


def _file(content: bytes) -> Ask:
    if len(content) > MAX_FILE_BYTES:
        problem = f"`file`: larger than {MAX_FILE_BYTES // 1024 // 1024} MiB, make several batches of it."
        raise Refused(Reason.REQUEST_TOO_LARGE, problem, param="file")
    rows = content.removesuffix(b"\n").split(b"\n")
    if len(rows) > MAX_LINES:
        problem = f"`file`: more than {MAX_LINES} lines, make several batches of it."
        raise Refused(Reason.REQUEST_TOO_LARGE, problem, param="file")
    ids: set[str] = set()
    lines: list[Ask] = []
    for number, row in enumerate(rows, 1):
        try:
            line = _line(row.removesuffix(b"\r"), ids)
            if lines and (line.url, line.models) != (lines[0].url, lines[0].models):
                raise wrong("model", "another endpoint or model than in the first line: make a batch of each")
        except Refused as refused:
            raise at_line(number, refused) from None
        lines.append(line)
    return Ask(UPLOAD, "batch", lines[0].models, lines=tuple(lines))


def _line(row: bytes, ids: set[str]) -> Ask:
    fields = read_object(row)
    if any(each in row.decode() for each in _OTHER_BREAKS):
        raise wrong("file", "a character that some readers take for the end of a line: write it as an escape")
    if fields.keys() != _LINE_KEYS:
        raise wrong("file", "expected exactly `custom_id`, `method`, `url` and `body`")
    custom_id, url, body = fields["custom_id"], fields["url"], fields["body"]
    if not isinstance(custom_id, str) or not 0 < len(custom_id) <= 512 or custom_id in ids:
        raise wrong("custom_id", "expected a name of 1 to 512 characters that no other line has")
    ids.add(custom_id)
    if fields["method"] != "POST":
        raise wrong("method", "expected POST")
    if not isinstance(url, str) or url not in _URLS:
        raise wrong("url", _EXPECTED_URL)
    if not isinstance(body, dict):
        raise wrong("body", "expected an object")
    if body.get("service_tier") is not None:
        raise wrong("service_tier", "a batch has a price of its own")
    ask = _URLS[url](body, len(row))
    if ask.stream:
        raise wrong("stream", "nothing streams in a batch")
    return structs.replace(ask, url=url)


def at_line(number: int, refused: Refused) -> Refused:
    """The same of one line of a file."""
    return Refused(
        refused.reason,
        f"Line {number}: {refused.message}",
        param=refused.param,
        kind=refused.kind,
        retry_after_s=refused.retry_after_s,
        private=refused.private,
    )
