"""A60: secrets that are made up for it go every way a request can go, and are looked for in everything that is written."""

from __future__ import annotations

import io
import logging
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import httpx
import pytest
from msgspec import structs

from authz.errors import ConfigError, StoreUnavailable, redacted
from authz.identity.directory import read_directory
from authz.identity.keys import digest, mint
from authz.model import Allow, Outcome, Receipt
from authz.settings import read_settings
from authz.telemetry import logs
from authz.yamlfile import parse_yaml
from tests.bundle.test_directory import BERLIN, GOOD, HEX
from tests.identity.issuer import forged
from tests.place import lay_out, opened_at

UPSTREAM: Final = "gsk_CANARY0000000000000000000000000000000000000000000000"
TOKEN: Final = forged({"alg": "RS256", "kid": "k"}, {"iss": "https://id.example", "sub": "CANARY"}, b"CANARY" * 8)
UNKNOWN: Final = mint(lambda alphabet: "C")


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the process log would be at its most talkative."""
    written = io.StringIO()
    root = logging.getLogger()
    before = root.handlers[:], root.level
    logs.configure("DEBUG")
    handler = root.handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    handler.setStream(written)
    yield written
    root.handlers[:], root.level = before


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_no_secret_is_in_anything_that_is_written(tmp_path: Path, log: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    config = lay_out(tmp_path)
    address = f"127.0.0.1:{free_port()}"
    config.write_text(config.read_text() + f"metrics: {{listen: '{address}'}}\n")
    shown: list[str] = []
    with opened_at(config, upstream_key=UPSTREAM, serving=True) as place:
        issued = place.issue("chatbot-prod")
        pdp = place.engine.pdp
        tried = (issued, UNKNOWN, TOKEN, UPSTREAM, issued[:-1], f"{issued},{issued}")
        shown += [repr(pdp.decide(place.request(secret))) for secret in tried]
        good = pdp.decide(place.request(issued))
        assert isinstance(good, Allow)
        asked = place.request(issued)
        misplaced = (
            place.request(issued, model=issued),
            structs.replace(asked, body=f"[{TOKEN}".encode()),
            structs.replace(asked, path=f"/openai/v1/chat/completions?key={issued}"),
            structs.replace(asked, path=f"/{issued}"),
        )
        # What a client writes in the wrong place comes back in its own answer, and is kept nowhere.
        shown += [repr(pdp.decide(request).record) for request in misplaced]
        refused = Receipt(good.reservation_id, "", Outcome.UPSTREAM_ERROR, 401, None, good.upstream)
        place.engine.settle(refused)
        monkeypatch.setattr(place.engine.store, "reserve", _fail)
        shown.append(repr(pdp.decide(place.request(issued))))
        place.engine.tick()
        shown += [repr(place.engine), repr(place.engine.bundle.directory), repr(vars(place.engine))]
        scraped = httpx.get(f"http://{address}/metrics", trust_env=False).text
    assert "authz_upstream_keys_refused" in scraped
    assert "upstream_key_refused" in log.getvalue()
    everything = {"log": log.getvalue(), "shown": "\n".join(shown), "metrics": scraped}
    files = {path.name: path.read_bytes().decode("latin-1") for path in tmp_path.iterdir() if path.is_file()}
    assert {"authz.db", "decisions.jsonl"} <= files.keys()
    for where, text in (everything | files).items():
        for secret in (issued, UPSTREAM, UNKNOWN, TOKEN.rsplit(".", 1)[1]):
            assert secret not in text, where


def _fail(*_: object) -> None:
    raise StoreUnavailable("the disk is full")


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (f"sha256:{HEX}", UNKNOWN),
        (f'digests: ["sha256:{HEX}"]', f"digests: {{{UNKNOWN}: x}}"),
        ("  plain:", f"  {UNKNOWN}: x\n  plain:"),
        ("team: a, roles: [developer]", f"team: {UPSTREAM}"),
        ("  plain:", f"  {UNKNOWN}: [\n  plain:"),
    ],
)
def test_a_secret_in_a_wrong_place_of_a_file_is_not_repeated(old: str, new: str) -> None:
    assert old in GOOD
    with pytest.raises(ConfigError) as caught:
        read_directory(parse_yaml(GOOD.replace(old, new, 1), "directory.yaml"), BERLIN)
    assert UNKNOWN not in str(caught.value)
    assert UPSTREAM not in str(caught.value)


def test_a_secret_in_a_wrong_place_of_the_settings_is_not_repeated(tmp_path: Path, log: io.StringIO) -> None:
    config = lay_out(tmp_path)
    kept = config.read_text()
    for wrong in (f"upstream: {{key_env: {UPSTREAM}, key_file: x}}", f"upstream: {UPSTREAM}", f"{UPSTREAM}: 1"):
        config.write_text(f"{kept}{wrong}\n")
        with pytest.raises(ConfigError) as caught:
            read_settings(config)
        assert UPSTREAM not in str(caught.value)
    config.write_text(f"{kept}upstream: {{key_env: {UPSTREAM}}}\n")
    with opened_at(config):
        pass
    assert "an upstream key is not set" in log.getvalue()
    assert UPSTREAM not in log.getvalue()


def test_what_looks_like_a_secret_is_cut_short_and_nothing_else_is() -> None:
    assert redacted(f"x {UPSTREAM} y {UNKNOWN} z {TOKEN}.") == f"x gsk_… y authz_… z {TOKEN.split('.')[0]}.…"
    for text in ("authz_unavailable", "gsk_short", digest("x"), 'Key::"chatbot-prod"', "authz.identity.keys"):
        assert redacted(text) == text


def test_the_sidecar_leaves_no_core_file() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    made = (
        "import resource, sys; from pathlib import Path; import authz.compose, authz.settings;"
        "from authz.cli.serve import serve;"
        "authz.settings.read_settings = lambda path: sys.exit(str(resource.getrlimit(resource.RLIMIT_CORE)));"
        "serve(['--config', sys.executable])"
    )
    done = subprocess.run([sys.executable, "-c", made], capture_output=True, text=True, check=False)
    assert "(0, 0)" in done.stderr
    assert resource.getrlimit(resource.RLIMIT_CORE) == (soft, hard)
