"""Files and batches as Groq has them: a file is kept, a batch works through its lines, what it has written is a file again.

Time does not pass here by itself: a batch is `validating` when it is made, `in_progress` when it is looked at next, and has
ended after that. Every line is answered as its endpoint would answer it, by `Exchange.behaviour` too.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import msgspec
from starlette.responses import JSONResponse, Response

from demo import more_answers
from demo.answers import CREATED, RATE_HEADERS, Answer, Exchange, Usage, chat, error, failure

_LINES: Final[dict[str, Callable[[Exchange], Answer]]] = {
    "/v1/chat/completions": chat,
    "/v1/responses": more_answers.respond,
    "/v1/embeddings": more_answers.embed,
}
_MISSING: Final = error(404, "No such file or batch.", "invalid_request_error", "not_found"), None


class Desk:
    """The files and batches of one organisation. One request at a time, as the stand-in's loop has it."""

    def __init__(self) -> None:
        self.contents: dict[str, bytes] = {}
        self.batches: dict[str, dict[str, Any]] = {}
        self.used: dict[str, list[Usage]] = {}
        """What the answered lines of a batch used, by its id."""

    def upload(self, exchange: Exchange) -> Answer:
        parts = more_answers.form(exchange)
        if parts.get("purpose") != b"batch" or not parts.get("file"):
            return failure(400), None
        return _ok(self._keep(f"file-{exchange.number:08d}", parts["file"]))

    def file(self, exchange: Exchange) -> Answer:
        return _ok(self._shown(exchange.rest)) if exchange.rest in self.contents else _MISSING

    def content(self, exchange: Exchange) -> Answer:
        found = self.contents.get(exchange.rest)
        return (Response(found, media_type="text/plain", headers=RATE_HEADERS), None) if found is not None else _MISSING

    def delete(self, exchange: Exchange) -> Answer:
        if self.contents.pop(exchange.rest, None) is None:
            return _MISSING
        return _ok({"id": exchange.rest, "object": "file", "deleted": True})

    def create(self, exchange: Exchange) -> Answer:
        body = exchange.json()
        if body.get("input_file_id") not in self.contents:
            return _MISSING
        batch = {
            "id": f"batch_{exchange.number:08d}",
            "object": "batch",
            "endpoint": body["endpoint"],
            "input_file_id": body["input_file_id"],
            "completion_window": body["completion_window"],
            "status": "validating",
            "output_file_id": None,
            "error_file_id": None,
            "created_at": CREATED,
            "metadata": body.get("metadata"),
            "request_counts": {"total": 0, "completed": 0, "failed": 0},
        }
        self.batches[batch["id"]] = batch
        return _ok(batch)

    def batch(self, exchange: Exchange) -> Answer:
        found = self.batches.get(exchange.rest)
        if found is None:
            return _MISSING
        if found["status"] == "in_progress":
            self._run(found, exchange)
        elif found["status"] == "validating":
            found["status"] = "in_progress"
        return _ok(found)

    def cancel(self, exchange: Exchange) -> Answer:
        found = self.batches.get(exchange.rest)
        if found is None:
            return _MISSING
        if found["status"] in ("validating", "in_progress"):
            found["status"] = "cancelled"
        return _ok(found)

    def list_all(self, exchange: Exchange) -> Answer:
        return _ok({"object": "list", "data": [self._shown(name) for name in self.contents]})

    def _run(self, batch: dict[str, Any], exchange: Exchange) -> None:
        done, failed, used = list[str](), list[str](), list[Usage]()
        for row in self.contents[batch["input_file_id"]].splitlines():
            line = json.loads(row)
            endpoint = _LINES[line["url"]]
            answer: Response = failure(400)
            usage: Usage | None = None
            # A name to fail by: nothing else of a line is free to say so.
            if not line["custom_id"].startswith("fail"):
                answer, usage = endpoint(msgspec.structs.replace(exchange, raw=json.dumps(line["body"]).encode()))
            response = {"status_code": answer.status_code, "request_id": "req", "body": json.loads(bytes(answer.body))}
            made = {"id": f"line_{len(done)}", "custom_id": line["custom_id"], "response": response, "error": None}
            (done if answer.status_code == 200 else failed).append(json.dumps(made))
            used += [usage] if usage is not None else []
        number = batch["id"].removeprefix("batch_")
        if done:
            batch["output_file_id"] = self._keep(f"file-out{number}", "\n".join(done).encode())["id"]
        if failed:
            batch["error_file_id"] = self._keep(f"file-err{number}", "\n".join(failed).encode())["id"]
        batch["status"] = "completed"
        batch["request_counts"] = {"total": len(done) + len(failed), "completed": len(done), "failed": len(failed)}
        self.used[batch["id"]] = used

    def _keep(self, name: str, content: bytes) -> dict[str, Any]:
        self.contents[name] = content
        return self._shown(name)

    def _shown(self, name: str) -> dict[str, Any]:
        size = len(self.contents[name])
        return {"id": name, "object": "file", "bytes": size, "created_at": CREATED, "filename": "a.jsonl", "purpose": "batch"}


def _ok(found: dict[str, Any]) -> Answer:
    return JSONResponse(found, headers=RATE_HEADERS), None


def endpoints(desk: Desk) -> dict[tuple[str, str], Callable[[Exchange], Answer]]:
    return {
        ("POST", "/openai/v1/files"): desk.upload,
        ("GET", "/openai/v1/files"): desk.list_all,
        ("GET", "/openai/v1/files/{rest}"): desk.file,
        ("DELETE", "/openai/v1/files/{rest}"): desk.delete,
        ("GET", "/openai/v1/files/{rest}/content"): desk.content,
        ("POST", "/openai/v1/batches"): desk.create,
        ("GET", "/openai/v1/batches/{rest}"): desk.batch,
        ("POST", "/openai/v1/batches/{rest}/cancel"): desk.cancel,
    }
