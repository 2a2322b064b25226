"""The table of endpoints as it really is: each call of the SDKs through the real Envoy, in each situation, with what it was
charged before and after. `python -m tests.e2e.matrix` prints it; `test_matrix.py` holds every cell of it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import groq
import openai
import yaml
from rich.console import Console
from rich.table import Table

from authz.quota.ledger import State
from authz.store import open_store
from demo.answers import Behaviour, Usage
from demo.stack import Stack, wait_for
from tests.e2e.conftest import Client
from tests.e2e.media import CHAT, COST, EMBEDDER, ENGLISH, PREFIX, WHISPER, up, with_batches
from tests.inference.sounds import wav

MIB: Final = 1024 * 1024
URL: Final = "/v1/chat/completions"
MESSAGES: Final[Any] = [{"role": "user", "content": "Say hello"}]
SOUND: Final = ("a.wav", wav(12.3))
POLLS: Final = "key_env: GROQ_API_KEY, batch_poll_s: 1"


class Ids(NamedTuple):
    """What the rows about files and batches are about: of a batch that has ended; and a file for each SDK to delete."""

    file: str
    batch: str
    output: str
    spare: dict[str, str]


Call = Callable[[Any, Ids], Any]


class Row(NamedTuple):
    """A call of the SDKs.

    cost    what the stand-in's count costs, in nano-dollars; None where the upstream charges nothing
    stream  the same as a stream, where the endpoint has one · large  the same with more than is taken
    here    answered here: nothing is reserved and nothing goes upstream
    """

    sdks: tuple[str, ...]
    call: Call
    cost: Callable[[Usage], int] | None = None
    stream: Call | None = None
    large: Call | None = None
    here: bool = False


BOTH: Final = ("groq", "openai")
TEXT: Final = "x" * 1_100_000


def _line(words: str) -> str:
    body = {"model": CHAT, "messages": [{"role": "user", "content": words}], "max_tokens": 20}
    return json.dumps({"custom_id": "a", "method": "POST", "url": URL, "body": body})


def _chat(content: str) -> Any:
    return [{"role": "user", "content": content}]


ROWS: Final[dict[str, Row]] = {
    "chat.completions": Row(
        BOTH,
        lambda sdk, ids: sdk.chat.completions.create(model=CHAT, messages=MESSAGES),
        COST[CHAT],
        lambda sdk, ids: sdk.chat.completions.create(model=CHAT, messages=MESSAGES, stream=True),
        lambda sdk, ids: sdk.chat.completions.create(model=CHAT, messages=_chat(TEXT)),
    ),
    "responses": Row(
        ("openai",),
        lambda sdk, ids: sdk.responses.create(model=CHAT, input="Say hello"),
        COST[CHAT],
        lambda sdk, ids: sdk.responses.create(model=CHAT, input="Say hello", stream=True),
        lambda sdk, ids: sdk.responses.create(model=CHAT, input=TEXT),
    ),
    "embeddings": Row(
        BOTH,
        lambda sdk, ids: sdk.embeddings.create(model=EMBEDDER, input=["a", "b" * 50]),
        COST[EMBEDDER],
        large=lambda sdk, ids: sdk.embeddings.create(model=EMBEDDER, input=TEXT),
    ),
    "audio.transcriptions": Row(
        BOTH,
        lambda sdk, ids: sdk.audio.transcriptions.create(model=WHISPER, file=SOUND, language="en"),
        COST[WHISPER],
        large=lambda sdk, ids: sdk.audio.transcriptions.create(model=WHISPER, file=("a.wav", bytes(26 * MIB))),
    ),
    "audio.translations": Row(
        ("groq",),  # the other SDK calls it deprecated
        lambda sdk, ids: sdk.audio.translations.create(model=WHISPER, file=SOUND),
        COST[WHISPER],
        large=lambda sdk, ids: sdk.audio.translations.create(model=WHISPER, file=("a.wav", bytes(26 * MIB))),
    ),
    "audio.speech": Row(
        BOTH,
        lambda sdk, ids: sdk.audio.speech.create(model=ENGLISH, input="Hello, wörld", voice="troy").read(),
        COST[ENGLISH],
        large=lambda sdk, ids: sdk.audio.speech.create(model=ENGLISH, input=TEXT, voice="troy"),
    ),
    "files.create": Row(
        BOTH,
        lambda sdk, ids: sdk.files.create(file=("b.jsonl", _line("Say hello").encode()), purpose="batch"),
        large=lambda sdk, ids: sdk.files.create(file=("b.jsonl", bytes(26 * MIB)), purpose="batch"),
    ),
    "batches.create": Row(
        BOTH,
        lambda sdk, ids: sdk.batches.create(input_file_id=ids.file, endpoint=URL, completion_window="24h"),
        lambda used: up(used.prompt_tokens * 37_500 + used.completion_tokens * 150_000, 1000),
        large=lambda sdk, ids: sdk.batches.create(
            input_file_id=ids.file, endpoint=URL, completion_window="24h", metadata={"a": TEXT}
        ),
    ),
    "batches.retrieve": Row(BOTH, lambda sdk, ids: sdk.batches.retrieve(ids.batch)),
    "batches.cancel": Row(BOTH, lambda sdk, ids: sdk.batches.cancel(ids.batch)),
    "files.retrieve": Row(("openai",), lambda sdk, ids: sdk.files.retrieve(ids.file)),
    "files.content": Row(BOTH, lambda sdk, ids: sdk.files.content(ids.output).read()),
    "files.delete": Row(BOTH, lambda sdk, ids: sdk.files.delete(ids.spare[type(sdk).__name__])),
    "models.list": Row(BOTH, lambda sdk, ids: sdk.models.list(), here=True),
    "models.retrieve": Row(BOTH, lambda sdk, ids: sdk.models.retrieve("whisper-large-v3"), here=True),
}

CALLS: Final = [(name, sdk) for name, row in ROWS.items() for sdk in row.sdks]

COLUMNS: Final = (
    "allowed", "denied by policy", "over quota", "upstream 400", "upstream 429", "upstream 503", "client gone", "stream",
    "gone mid-stream", "large",
)  # fmt: skip

UPSTREAM: Final = {"upstream 400": 400, "upstream 429": 429, "upstream 503": 503}


class Cell(NamedTuple):
    """What was seen.

    decision   `allow`, or the status and the code of the refusal
    error      what the SDK raised, where it did
    before     reserved, in nano-dollars, while it was under way · after  posted, when it had ended
    posted     by how much the key's row of the usage report has grown
    forwarded  how many requests the upstream has got · counted  what it said that it counted
    """

    decision: str
    error: str = ""
    before: int = 0
    after: int = 0
    posted: int = 0
    state: str = ""
    forwarded: int = 0
    counted: Usage | None = None

    def __str__(self) -> str:
        return f"{self.decision}\n{self.before:,} → {self.after:,}" if self.state else self.decision


def prepared(bundle: Path) -> None:
    """Batches, a key of the team that a policy bars, and one that may ask once an hour."""
    with_batches(bundle)
    directory = yaml.safe_load((bundle / "directory.yaml").read_text())
    directory["keys"] |= {name: {"team": "media"} for name in ("media-barred", "media-once")}
    (bundle / "directory.yaml").write_text(yaml.safe_dump(directory))
    quotas = yaml.safe_load((bundle / "quotas.yaml").read_text())
    quotas["quotas"].append({"id": "once", "scope": 'Key::"media-once"', "what": "requests", "limit": "1/hour"})
    (bundle / "quotas.yaml").write_text(yaml.safe_dump(quotas))
    (bundle / "barred.cedar").write_text('@id("barred")\nforbid (principal == Key::"media-barred", action, resource);\n')


def offers(name: str, column: str) -> bool:
    """Whether there is such a thing."""
    row = ROWS[name]
    if column in ("stream", "gone mid-stream"):
        return row.stream is not None
    if column == "large":
        return row.large is not None
    return not row.here or column in ("allowed", "denied by policy")


class Matrix:
    """Fills cells, one after the other, on one stack."""

    def __init__(self, client: Client) -> None:
        self._client, self._groq = client, client.stack.groq
        client.issue("media", "media-poor", "media-barred", "media-once")
        with client.sdk("media-once") as sdk:
            sdk.chat.completions.create(model=CHAT, messages=MESSAGES)
        self._ids = self._batch()

    def fill(self, name: str, sdk: str, column: str) -> Cell:
        row = ROWS[name]
        call = {"stream": row.stream, "gone mid-stream": _leaving(row.stream), "large": row.large}.get(column) or row.call
        over = "media-poor" if row.cost is not None else "media-once"
        key = {"denied by policy": "media-barred", "over quota": over}.get(column, "media")
        timeout = 0.4 if column == "client gone" else 60.0
        if column in UPSTREAM:
            self._groq.behave(Behaviour(status=UPSTREAM[column], times=1))
        elif column == "client gone":
            self._groq.behave(Behaviour(hang=True, times=1))
        elif column == "gone mid-stream":
            self._groq.behave(Behaviour(chunk_delay_s=0.05, times=1))
        decisions, received, posted = len(self._client.records()), len(self._groq.received()), self._posted()
        try:
            with self._sdk(sdk, key, timeout) as made:
                answer = call(made, self._ids)
                if column == "stream":
                    list(answer)
            failed = ""
        except (groq.APIStatusError, openai.APIStatusError) as error:
            answer, failed = None, _refusal(error)
        except (groq.APIConnectionError, openai.APIConnectionError):
            answer, failed = None, "no answer"
        finally:
            self._groq.behave()
        if column == "large":
            assert failed, "more than is taken was taken"
        # What is larger than is read at all Envoy refuses by itself: nobody decides.
        decision = self._client.records()[decisions] if failed != "413 request_too_large" else None
        forwarded = [each for each in self._groq.received()[received:] if each.header("x-request-id")]
        if decision is None or decision["effect"] == "deny" or row.here:
            return Cell(failed or "allow", failed, forwarded=len(forwarded), posted=self._posted() - posted)
        settled = self._settled(decision["reservation_id"])
        counted = forwarded[0].usage if forwarded else None
        if name == "batches.create" and answer is not None:
            counted = self._groq.desk.used[answer.id][0]
        return Cell(
            "allow",
            failed,
            before=decision["estimate"]["at_most"]["spend"],
            after=settled["amounts"].get("spend", 0),
            posted=self._posted() - posted,
            state=settled["state"],
            forwarded=len(forwarded),
            counted=counted,
        )

    def _batch(self) -> Ids:
        with self._client.sdk("media", max_retries=4) as sdk:
            file = sdk.files.create(file=("b.jsonl", _line("Say hello").encode()), purpose="batch").id
            batch = sdk.batches.create(input_file_id=file, endpoint=URL, completion_window="24h").id  # type: ignore[arg-type]
            wait_for("the end of a batch", lambda: sdk.batches.retrieve(batch).status == "completed")
            done = sdk.batches.retrieve(batch)
            spare = [sdk.files.create(file=("b.jsonl", _line(each).encode()), purpose="batch").id for each in ("a", "b")]
            for identity in (done.output_file_id, *spare):
                sdk.files.info(identity or "")  # from here on it is known to be the team's
        self._client.wait_until_settled()
        return Ids(file or "", batch, done.output_file_id or "", {"Groq": spare[0] or "", "OpenAI": spare[1] or ""})

    def _sdk(self, sdk: str, key: str, timeout: float) -> Any:
        if sdk == "groq":
            return self._client.sdk(key, timeout=timeout)
        url = self._client.stack.url + PREFIX
        return openai.OpenAI(api_key=self._client.keys[key], base_url=url, max_retries=0, timeout=timeout)

    def _settled(self, reservation: str) -> dict[str, Any]:
        def made() -> list[dict[str, Any]]:
            ended = (line for line in self._client.stack.lines() if line["kind"] == "settlement")
            return [line for line in ended if line["reservation_id"] == reservation]

        wait_for("the settlement", lambda: bool(made()))
        return made()[0]

    def _posted(self) -> int:
        store = open_store(self._client.stack.settings.store)
        try:
            return sum(row.cost_nanousd for row in store.usage("2000-01-01", "2999-12-31") if row.team == "media")
        finally:
            store.close()

    def pending(self) -> int:
        store = open_store(self._client.stack.settings.store)
        try:
            ids = [record["reservation_id"] for record in self._client.records() if record["reservation_id"]]
            found = [store.find(identity) for identity in ids]
            return sum(1 for each in found if each is None or each.state is State.PENDING)
        finally:
            store.close()


def _leaving(stream: Call | None) -> Call | None:
    """The stream's first event, and then the client goes."""

    def call(sdk: Any, ids: Ids) -> None:
        assert stream is not None
        events = stream(sdk, ids)
        next(iter(events))
        events.close()

    return call if stream is not None else None


def _refusal(error: groq.APIStatusError | openai.APIStatusError) -> str:
    body = error.body
    inner = body.get("error", body) if isinstance(body, dict) else {}
    return f"{error.status_code} {inner.get('code', '')}".strip()


@contextmanager
def _stack() -> Iterator[Client]:
    with (
        tempfile.TemporaryDirectory(prefix="authz-", dir="/tmp") as folder,
        Stack(Path(folder), change=prepared, keys=POLLS) as stack,
    ):
        yield Client(stack)


def main() -> int:
    table = Table(title="Each call in each situation: the decision; nano-dollars reserved → posted", show_lines=True)
    for heading in ("call", "SDK", *COLUMNS):
        table.add_column(heading)
    with _stack() as client:
        matrix = Matrix(client)
        for name, sdk in CALLS:
            row = (str(matrix.fill(name, sdk, column)) if offers(name, column) else "–" for column in COLUMNS)
            table.add_row(name, sdk, *row)
        pending = matrix.pending()
    Console(width=240).print(table)
    print(f"reservations still pending: {pending}")  # noqa: T201  # what the command is for
    return 1 if pending else 0


if __name__ == "__main__":
    sys.exit(main())
