"""A folder with settings and a copy of the reference bundle: what a test opens an engine or runs a command on."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from authz.bundle import load_bundle
from authz.compose import Engine
from authz.identity.keys import IssuedKey, digest, mint
from authz.model import Request
from authz.settings import read_settings
from tests.issued import put

ROOT = Path(__file__).resolve().parents[1]
UPSTREAM_KEY = "gsk_made_up_for_tests"
START_NS = 1_795_996_800 * 1_000_000_000  # 2026-11-30 00:00:00 UTC, a Monday


class Time:
    """A clock that a test moves."""

    def __init__(self, now_ns: int = START_NS) -> None:
        self.now_ns = now_ns

    def __call__(self) -> int:
        return self.now_ns

    def pass_s(self, seconds: float) -> None:
        self.now_ns += round(seconds * 1e9)


def lay_out(folder: Path, more: str = "") -> Path:
    """Writes settings (with `more` lines) and bundle into `folder`; answers the settings' path."""
    shutil.copytree(ROOT / "policies", folder / "policies")
    config = folder / "authz.yaml"
    config.write_text("store: sqlite:///authz.db\noperator: olivia\nrecords: {file: decisions.jsonl}\n" + more)
    return config


class Place:
    """An engine whose time and background work a test drives by hand."""

    def __init__(self, folder: Path, engine: Engine, time: Time) -> None:
        self.folder, self.engine, self.time = folder, engine, time
        self._random = random.Random(7)

    def issue(self, key: str, **fields: Any) -> str:
        secret = mint(self._random.choice)
        put(self.engine.store, IssuedKey(digest(secret), key, self.time(), **fields))
        self.engine.tick()
        return secret

    def request(self, secret: str, model: str = "llama-3.1-8b-instant", request_id: str = "", **fields: Any) -> Request:
        body = {"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 16} | fields
        headers = (("authorization", f"Bearer {secret}"), ("content-type", "application/json"))
        return Request("POST", "/openai/v1/chat/completions", headers, json.dumps(body).encode(), request_id)


@contextmanager
def opened(folder: Path, *, upstream_key: str = UPSTREAM_KEY) -> Iterator[Place]:
    with opened_at(lay_out(folder), upstream_key=upstream_key) as place:
        yield place


@contextmanager
def opened_at(config: Path, *, upstream_key: str = UPSTREAM_KEY, serving: bool = False, **environ: str) -> Iterator[Place]:
    """The same on settings and a bundle that were laid out before."""
    time, names = Time(), {"GROQ_API_KEY": upstream_key, **environ}
    with Engine(read_settings(config), environ=names, clock=time, load=load_bundle, serving=serving) as engine:
        yield Place(config.parent, engine, time)
