"""`authz.yaml`: errors name the file, the key and what was expected; paths are relative to the file."""

from __future__ import annotations

from pathlib import Path

import pytest

from authz.errors import ConfigError
from authz.settings import read_settings


def write(folder: Path, text: str) -> Path:
    path = folder / "authz.yaml"
    path.write_text(text)
    return path


def test_an_empty_file_is_the_defaults_beside_it(tmp_path: Path) -> None:
    settings = read_settings(write(tmp_path, ""))
    assert settings.bundle == str(tmp_path / "policies")
    assert settings.store == f"sqlite:///{tmp_path / 'var/authz.db'}"
    assert settings.listen.socket == str(tmp_path / "run/authz.sock")
    assert settings.upstream.key_env == "GROQ_API_KEY"


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("bundel: x", "bundel: unknown field"),
        ("listen: {drain_s: soon}", "listen.drain_s: expected `float`, got `str`"),
        ("upstream: {}", "expected exactly one of `key_env` and `key_file`"),
        ("upstream: {key_env: A, key_file: b}", "expected exactly one of `key_env` and `key_file`"),
        ("store: mysql://x", "store: expected `sqlite:///PATH`"),
        ("retention_days: 0", "retention_days: expected at least 1 day"),
        ("reservation_ttl_s: 0", "reservation_ttl_s: expected at least 1 second"),
        ("envoy: {max_body_bytes: 3}", "envoy.max_body_bytes: expected at least 1024 bytes"),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, problem: str) -> None:
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        read_settings(path)
    assert problem in caught.value.problem
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.yaml: cannot be read: no such file"):
        read_settings(tmp_path / "nowhere.yaml")
