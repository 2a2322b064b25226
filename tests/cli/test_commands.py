"""The commands, as a user runs them; exit 0, 1, 2."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from authz.cli import cli
from authz.identity.keys import digest, well_formed
from authz.model import Meter, Price, Usage
from authz.quota.ledger import Actual, Hold, Terms
from authz.store import open_store
from tests.place import lay_out


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return lay_out(tmp_path)


def run(*arguments: str, config: Path) -> str:
    done = CliRunner().invoke(cli, [*arguments, "--config", str(config)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_key_is_shown_once_and_kept_as_a_digest(config: Path) -> None:
    secret = run("keys", "create", "chatbot-prod", "--note", "for the test", "--days", "30", config=config).strip()
    assert well_formed(secret)
    (row,) = json.loads(run("keys", "list", "--json", config=config))
    assert (row["key"], row["digest"], row["note"]) == ("chatbot-prod", digest(secret), "for the test")
    created, expires = (datetime.fromisoformat(row[name]) for name in ("created", "expires"))
    assert expires - created == timedelta(days=30)
    table = run("keys", "list", config=config)
    assert "active" in table
    assert secret not in table
    for path in config.parent.glob("authz.db*"):
        assert secret.encode() not in path.read_bytes()
    assert run("keys", "revoke", digest(secret)[:12], config=config) == "revoked\n"
    assert run("keys", "revoke", digest(secret), config=config) == "was revoked already\n"
    assert "revoked" in run("keys", "list", "--all", config=config)


def test_usage_is_a_table_and_json(config: Path) -> None:
    store = open_store(f"sqlite:///{config.parent / 'authz.db'}")
    terms = Terms(
        "2026-11-23", "acme", "chatbot", "", "chatbot-prod", "m", "chat", Price(50_000_000, 80_000_000, 0), {Meter.SPEND: 999}
    )
    store.reserve(Hold("a", (), terms, 10**12), 10**18)
    store.settle("a", Actual({Meter.REQUESTS: 1, Meter.SPEND: 37_500}, Usage(1200, 34)), 10**18)
    store.close()
    assert json.loads(run("usage", "--day", "2026-11-23", "--json", config=config)) == {
        "day": "2026-11-23",
        "usage_by_key": [
            {"key_name": "chatbot-prod", "requests_today": 1, "tokens_today": 1234, "estimated_cost_usd": "0.000038"}
        ],
    }
    table = run("usage", "--day", "2026-11-23", config=config)
    assert "1,234" in table
    assert "estimated cost (USD)" in table


def test_envoys_bootstrap_is_yaml_with_the_settings_sockets(config: Path) -> None:
    text = run("envoy-config", config=config)
    assert str(config.parent / "run/authz.check.sock") in text
    assert yaml.safe_load(text)["static_resources"]["clusters"]
    two = run("envoy-config", "--socket", "/tmp/a.sock", "--socket", "/tmp/b.sock", config=config)
    assert "/tmp/a.check.sock" in two
    assert "/tmp/b.check.sock" in two


def authz(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", "authz", *arguments], capture_output=True, text=True, check=False)


def test_a_health_check_without_a_sidecar_is_a_finding(config: Path) -> None:
    done = authz("health", "--config", str(config), "--timeout-s", "0.2")
    assert done.returncode == 1
    assert "no answer" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("serve", "--config", "nowhere.yaml"), "authz: nowhere.yaml: cannot be read: no such file or directory"),
        (("keys", "create", "nobody"), "authz: no key `nobody` in force in the directory, expected one of `keys`"),
        (("keys", "revoke", "abc"), "0 secrets whose digest begins with `abc`, expected one"),
        (("usage", "--day", "yesterday"), "`yesterday`, expected YYYY-MM-DD"),
    ],
)
def test_what_cannot_run_says_why_in_one_line_and_exits_2(config: Path, arguments: tuple[str, ...], problem: str) -> None:
    done = authz(*arguments, *(() if "--config" in arguments else ("--config", str(config))))
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
