"""The table of endpoints. What is not in it, byte for byte, does not exist here and is denied.

| method and path              | action      | body      | metered       | bounded by                   | settles on           |
|------------------------------|-------------|-----------|---------------|------------------------------|----------------------|
| POST /chat/completions       | chat        | JSON      | tokens        | bytes, output ceiling        | the upstream's usage |
| POST /responses              | respond     | JSON      | tokens        | bytes, output ceiling        | the upstream's usage |
| POST /embeddings             | embed       | JSON      | tokens        | bytes                        | the upstream's usage |
| POST /audio/transcriptions   | transcribe  | multipart | audio seconds | the upload's length and size | the same             |
| POST /audio/translations     | translate   | multipart | audio seconds | the upload's length and size | the same             |
| POST /audio/speech           | speak       | JSON      | characters    | the text                     | the same             |
| GET /models, /models/{id}    | list_models | none      | nothing       | –                            | answered here        |
| any /batches, /files         | –           | –         | –             | –                            | denied, and told so  |

Where the upstream says nothing that can be believed, a request settles on its bound.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from msgspec import Struct

from authz.errors import Refused
from authz.inference import chat, embeddings, responses, speech
from authz.inference.fields import shown
from authz.model import Ask, Request
from authz.reasons import Reason

PREFIX: Final = "/openai/v1"
MODELS: Final = f"{PREFIX}/models"

_NOT_HERE: Final = (f"{PREFIX}/batches", f"{PREFIX}/files")


class Endpoint(Struct, frozen=True):
    """One row: what Groq serves here, which Cedar action that is, and who reads the request."""

    name: str
    action: str
    read: Callable[[Request], Ask]


def read(request: Request) -> Ask:
    """What the request asks for. Raises `Refused`: an unknown URL, media type, size or body."""
    # The path still has its query: a match of the whole text leaves no room for `..`, `%2F`, `;` or a second `?`.
    endpoint = TABLE.get((request.method, request.path))
    if endpoint is None and request.method == "GET" and request.path.startswith(f"{MODELS}/") and "?" not in request.path:
        endpoint = ONE_MODEL  # the rest of the path is a model's name, which is looked up exactly
    if endpoint is None:
        raise _unknown(request)
    if any(value.strip().lower() != "identity" for value in request.header("content-encoding")):
        raise Refused(Reason.UNSUPPORTED_MEDIA_TYPE, "Content-Encoding is not supported: send the body as it is.")
    return endpoint.read(request)


def _unknown(request: Request) -> Refused:
    where = f"{shown(request.method, 120)} {shown(request.path, 120)}"
    if any(request.path == path or request.path.startswith((f"{path}/", f"{path}?")) for path in _NOT_HERE):
        problem = "Batches and files are not allowed here, since nothing bounds what a batch will cost"
        return Refused(Reason.UNKNOWN_URL, f"{problem}: {where}. Send the requests one by one.", private=where)
    return Refused(Reason.UNKNOWN_URL, f"Unknown request URL: {where}. Please check the URL for typos.", private=where)


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
        from authz.inference import multipart, upload

        boundary = multipart.boundary_of(_content_type(request))
        if boundary is None:
            raise Refused(
                Reason.UNSUPPORTED_MEDIA_TYPE, "Expected one Content-Type header: multipart/form-data with a plain boundary."
            )
        return upload.read(_whole_body(request), boundary, endpoint=name, action=action)

    return Endpoint(name, action, read_upload)


def _list_models(request: Request) -> Ask:
    _refuse_body(request)
    return Ask(endpoint="models.list", action="list_models", models=())


def _retrieve_model(request: Request) -> Ask:
    _refuse_body(request)
    return Ask(endpoint="models.retrieve", action="list_models", models=(request.path.removeprefix(f"{MODELS}/"),))


def _refuse_body(request: Request) -> None:
    if _whole_body(request):
        raise Refused(Reason.INVALID_REQUEST, "Expected no request body.")


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
    ("GET", MODELS): Endpoint("models.list", "list_models", _list_models),
}
ONE_MODEL: Final = Endpoint("models.retrieve", "list_models", _retrieve_model)
