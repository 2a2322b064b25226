"""The table of endpoints. What is not in it, byte for byte, does not exist here and is denied.

| method and path              | action      | body      | metered       | bounded by                   | settles on           |
|------------------------------|-------------|-----------|---------------|------------------------------|----------------------|
| POST /chat/completions       | chat        | JSON      | tokens        | bytes, output ceiling        | the upstream's usage |
| POST /responses              | respond     | JSON      | tokens        | bytes, output ceiling        | the upstream's usage |
| POST /embeddings             | embed       | JSON      | tokens        | bytes                        | the upstream's usage |
| POST /audio/transcriptions   | transcribe  | multipart | audio seconds | the upload's length and size | the same             |
| POST /audio/translations     | translate   | multipart | audio seconds | the upload's length and size | the same             |
| POST /audio/speech           | speak       | JSON      | characters    | the text                     | the same             |
| POST /files                  | batch       | multipart | one request   | –                            | the request itself   |
| POST /batches                | batch       | JSON      | every line    | what the lines ask for       | the batch's output   |
| GET /batches/{id}            | batch       | none      | one request   | –                            | the request itself   |
| POST /batches/{id}/cancel    | batch       | none      | one request   | –                            | the request itself   |
| GET, DELETE /files/{id}      | batch       | none      | one request   | –                            | the request itself   |
| GET /files/{id}/content      | batch       | none      | one request   | –                            | the request itself   |
| GET /models, /models/{id}    | list_models | none      | nothing       | –                            | answered here        |
| lists of files and batches   | –           | –         | –             | –                            | denied, and told so  |

Where the upstream says nothing that can be believed, a request settles on its bound.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from msgspec import Struct

from authz.errors import Refused
from authz.inference import batch, chat, embeddings, responses, speech
from authz.inference.fields import shown
from authz.model import Ask, Request
from authz.reasons import Reason

PREFIX: Final = "/openai/v1"
MODELS: Final = f"{PREFIX}/models"

FILES: Final = f"{PREFIX}/files"
BATCHES: Final = f"{PREFIX}/batches"


class Endpoint(Struct, frozen=True):
    """One row: what Groq serves here, which Cedar action that is, and who reads the request."""

    name: str
    action: str
    read: Callable[[Request], Ask]


def read(request: Request) -> Ask:
    """What the request asks for. Raises `Refused`: an unknown URL, media type, size or body."""
    # The path still has its query: a match of the whole text leaves no room for `..`, `%2F`, `;` or a second `?`.
    endpoint = TABLE.get((request.method, request.path)) or _about(request)
    if endpoint is None and request.method == "GET" and request.path.startswith(f"{MODELS}/") and "?" not in request.path:
        endpoint = ONE_MODEL  # the rest of the path is a model's name, which is looked up exactly
    if endpoint is None:
        raise _unknown(request)
    if any(value.strip().lower() != "identity" for value in request.header("content-encoding")):
        raise Refused(Reason.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is not supported: send the body as it is.")
    return endpoint.read(request)


def _unknown(request: Request) -> Refused:
    where = f"{shown(request.method, 120)} {shown(request.path, 120)}"
    if request.path.partition("?")[0] in (FILES, BATCHES):
        problem = "A list would show what is other teams'"
        return Refused(Reason.UNKNOWN_URL, f"{problem}: {where}. Ask for one by its id.", private=where)
    return Refused(Reason.UNKNOWN_URL, f"Unknown request URL: {where}. Please check the URL for typos.", private=where)


def _about(request: Request) -> Endpoint | None:
    """What is asked of one file or batch, by its id."""
    for above, table in ((FILES, _ONE_FILE), (BATCHES, _ONE_BATCH)):
        if request.path.startswith(f"{above}/"):
            identity, slash, rest = request.path.removeprefix(f"{above}/").partition("/")
            endpoint = table.get((request.method, slash + rest))
            return endpoint if endpoint is not None and batch.is_id(identity) else None
    return None


def _json(name: str, action: str, reader: Callable[[bytes], Ask]) -> Endpoint:
    """One JSON content type in UTF-8: any other reading would be a second one."""

    def read_json(request: Request) -> Ask:
        if _content_type(request).lower().replace(" ", "").replace('"', "") not in _JSON_TYPES:
            raise Refused(Reason.UNSUPPORTED_MEDIA_TYPE, "Expected one Content-Type header: application/json, in UTF-8.")
        return reader(_whole_body(request))

    return Endpoint(name, action, read_json)


_JSON_TYPES: Final = frozenset({"application/json", "application/json;charset=utf-8"})


def _upload(name: str, action: str) -> Endpoint:
    def read_upload(request: Request) -> Ask:
        # Here and not above: who never takes an upload never loads what reads one.
        from authz.inference import upload

        return upload.read(_whole_body(request), _boundary(request), endpoint=name, action=action)

    return Endpoint(name, action, read_upload)


def _upload_batch(request: Request) -> Ask:
    return batch.read_upload(_whole_body(request), _boundary(request))


def _by_id(name: str) -> Endpoint:
    def read_none(request: Request) -> Ask:
        _refuse_body(request)
        return Ask(endpoint=name, action="batch", models=(), named=request.path.split("/")[4])

    return Endpoint(name, "batch", read_none)


def _list_models(request: Request) -> Ask:
    _refuse_body(request)
    return Ask(endpoint="models.list", action="list_models", models=())


def _retrieve_model(request: Request) -> Ask:
    _refuse_body(request)
    return Ask(endpoint="models.retrieve", action="list_models", models=(request.path.removeprefix(f"{MODELS}/"),))


def _refuse_body(request: Request) -> None:
    if _whole_body(request):
        raise Refused(Reason.INVALID_REQUEST, "Expected no request body.")


def _boundary(request: Request) -> str:
    from authz.inference import multipart

    boundary = multipart.boundary_of(_content_type(request))
    if boundary is None:
        problem = "Expected one Content-Type header: multipart/form-data with a plain boundary."
        raise Refused(Reason.UNSUPPORTED_MEDIA_TYPE, problem)
    return boundary


def _content_type(request: Request) -> str:
    types = request.header("content-type")
    return types[0] if len(types) == 1 else ""


def _whole_body(request: Request) -> bytes:
    if request.body is None:
        raise Refused(Reason.REQUEST_TOO_LARGE, "The request body could not be read whole.")
    lengths = request.header("content-length")
    if len(lengths) > 1 or any(value != str(len(request.body)) for value in lengths):
        raise Refused(Reason.INVALID_REQUEST, "The request body is not as long as its Content-Length says.")
    return request.body


TABLE: Final[dict[tuple[str, str], Endpoint]] = {
    ("POST", f"{PREFIX}/chat/completions"): _json("chat.completions", "chat", chat.read),
    ("POST", f"{PREFIX}/responses"): _json("responses", "respond", responses.read),
    ("POST", f"{PREFIX}/embeddings"): _json("embeddings", "embed", embeddings.read),
    ("POST", f"{PREFIX}/audio/transcriptions"): _upload("audio.transcriptions", "transcribe"),
    ("POST", f"{PREFIX}/audio/translations"): _upload("audio.translations", "translate"),
    ("POST", f"{PREFIX}/audio/speech"): _json("audio.speech", "speak", speech.read),
    ("POST", FILES): Endpoint(batch.UPLOAD, "batch", _upload_batch),
    ("POST", BATCHES): _json(batch.CREATE, "batch", batch.read_create),
    ("GET", MODELS): Endpoint("models.list", "list_models", _list_models),
}
_ONE_FILE: Final[dict[tuple[str, str], Endpoint]] = {
    ("GET", ""): _by_id("files.retrieve"),
    ("DELETE", ""): _by_id("files.delete"),
    ("GET", "/content"): _by_id("files.content"),
}
_ONE_BATCH: Final[dict[tuple[str, str], Endpoint]] = {
    ("GET", ""): _by_id("batches.retrieve"),
    ("POST", "/cancel"): _by_id("batches.cancel"),
}
ONE_MODEL: Final = Endpoint("models.retrieve", "list_models", _retrieve_model)


def rows() -> Iterator[tuple[str, str, Endpoint]]:
    """Method, path and endpoint of all that there is, for people: what differs in a path is `{id}` there."""
    for (method, path), endpoint in TABLE.items():
        yield method, path, endpoint
    for above, table in ((FILES, _ONE_FILE), (BATCHES, _ONE_BATCH)):
        for (method, rest), endpoint in table.items():
            yield method, f"{above}/{{id}}{rest}", endpoint
    yield "GET", f"{MODELS}/{{id}}", ONE_MODEL
